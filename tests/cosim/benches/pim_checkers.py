"""Independent checkers of the `pim` controller: DRAM commands legal, tokens accounted for.

They know the documents and the Python rules, nothing of the RTL. Both collect their complaints in
`errors`, so that a bench can say all of them with the cycle.
"""

from bankside.isa.dram.rules import RankRules
from bankside.isa.machine import Machine
from bankside.isa.program import Program, walk
from bankside.isa.spec import load_spec
from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape

PIM = load_spec("pim")


class BusChecker:
    """Timing and state of every command on the bus, against the rules of the standard."""

    def __init__(self, machine: Machine) -> None:
        self.rules, self.std = RankRules(machine.std), machine.std
        self.errors: list[str] = []
        self.seen = 0

    def command(self, cycle: int, code: int, bank: int, row: int) -> None:
        """A command is issued in this cycle (counted from the first one of the bench)."""
        self.seen += 1
        violation = self.rules.check(code, bank, cycle)
        if violation is not None:
            name = self.std.commands[code].name
            self.errors.append(f"cycle {cycle}: {name} bank {bank}: {violation.text}")
        self.rules.issue(code, bank, row, cycle)


class TokenChecker:
    """Loads in program order, never before their tokens, never while the engine is busy.

    Cycles are those of one program; docs/pim.md section 4.
    """

    def __init__(self, machine: Machine, program: Program) -> None:
        self.machine, self.errors = machine, []
        self.expected = [[], [], [], []]
        for step in walk(program):
            engine = PIM.commands[step.instruction.name].engine
            if engine != "control":
                self.expected[PIM.engines.index(engine)].append(step.instruction)
        self.position = [0] * 4
        self.working = [None] * 4
        self.tokens = [[0] * 4 for _ in range(4)]
        self.coming: list[tuple[int, int, int]] = []

    def begin(self, cycle: int) -> None:
        """Tokens of completions before this cycle count now."""
        for when, giver, taker in [c for c in self.coming if c[0] < cycle]:
            self.coming.remove((when, giver, taker))
            self.tokens[giver][taker] += 1
            if self.tokens[giver][taker] > PIM.token_max:
                self.errors.append(f"cycle {cycle}: more than {PIM.token_max} tokens")

    def load(self, cycle: int, engine: int, opcode: int) -> None:
        name = PIM.engines[engine]
        if self.working[engine] is not None:
            self.errors.append(f"cycle {cycle}: {name} loads while it works")
        if self.position[engine] == len(self.expected[engine]):
            self.errors.append(f"cycle {cycle}: {name} loads more commands than the program has")
            return
        instruction = self.expected[engine][self.position[engine]]
        self.position[engine] += 1
        self.working[engine] = instruction
        if PIM.commands[instruction.name].opcode != opcode:
            self.errors.append(f"cycle {cycle}: {name} loads {opcode:#x}, not {instruction.name}")
        for giver in range(4):
            if instruction.wait >> giver & 1:
                if not self.tokens[giver][engine]:
                    self.errors.append(
                        f"cycle {cycle}: {name} loads {instruction.name} without the token of "
                        f"{PIM.engines[giver]}"
                    )
                self.tokens[giver][engine] -= 1

    def last(self, cycle: int, engine: int) -> None:
        """The last action of the engine's command happens in this cycle."""
        instruction, self.working[engine] = self.working[engine], None
        if instruction is None:
            self.errors.append(f"cycle {cycle}: {PIM.engines[engine]} ends a command it never had")
            return
        when = cycle + self.machine.completions[instruction.name]
        self.coming += [(when, engine, t) for t in range(4) if instruction.signal >> t & 1]

    def finish(self) -> None:
        """The program is over: every command was loaded and completed."""
        for engine, name in enumerate(PIM.engines):
            left = len(self.expected[engine]) - self.position[engine]
            if left or self.working[engine] is not None:
                self.errors.append(f"at HALT: {name} has {left} commands left")


def small_attention(machine: Machine, tokens: int, rng) -> tuple[PimKernels, list[Program]]:
    """Store `tokens` - 1 tokens, then attend with one more; two KV heads of two queries each."""
    layout = KvLayout.of(machine, Shape(1, 2, 4, 8, max(tokens, 2)), None, 2)
    kernels = PimKernels(layout)

    def half(*shape: int):
        return rng.standard_normal(shape).astype("float16").view("uint16")

    programs = kernels.append(0, 0, half(tokens - 1, 2, 8), half(tokens - 1, 2, 8))
    return kernels, programs + kernels.decode(0, tokens, half(4, 8), half(2, 8), half(2, 8))
