"""Phases -> functions and calls, what crosses them, and where it lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bankside.sim.lanes.activity import Activity, Read, activity_of
from bankside.sim.lanes.guards import Group, Guarded, Guards, Shared
from bankside.sim.lanes.netlist import (
    Cell,
    Flop,
    Instance,
    Memory,
    Part,
    ReadPort,
    Sig,
    Word,
    joined,
    width_of,
    words_in,
)  # fmt: skip
from bankside.sim.lanes.order import block_of, by_blocks
from bankside.sim.lanes.schedule import Call, Node, Phase, Plan, inputs_of
from bankside.sim.lanes.segment import BIT, LIMB

#: Statements of a function, about; of one that ends where another block begins, at least.
_LIMIT, _SHORT = 400, 60


@dataclass(frozen=True)
class Inputs:
    """What a call reads, put where it looks for it."""

    call: Call


@dataclass(frozen=True)
class Output:
    """A port of the module, put where its parent looks for it. early: only those bits of it that no
    input matters for, the others zero; before the inputs of a cycle are known.
    """

    port: str
    early: bool = False


@dataclass(frozen=True)
class Writes:
    """The write ports of a memory, at the edge."""

    memory: Memory


Step = Node | Group | Shared | Inputs | Output | Writes


@dataclass
class Function:
    """One C function, or calls of others. `steps` None: a call."""

    steps: list[Step] | None = None
    call: Call | None = None


@dataclass
class Layout:
    """Offsets in bytes of a module's own part of q, t and m."""

    q: dict[Word, int] = field(default_factory=dict)
    t: dict[Word, int] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    flags: dict[Word, int] = field(default_factory=dict)
    changed: dict[int, int] = field(default_factory=dict)
    m: dict[int, int] = field(default_factory=dict)
    below: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    q_bytes: int = 0
    t_bytes: int = 0
    m_bytes: int = 0


class Functions:
    """The functions of one module.

    Args:
        made: of the modules below, by the id of the module.
        nets: outputs of cells can be forced.
        top: it is the top, whose functions run only where something has changed.
    """

    def __init__(
        self, plan: Plan, name: str, made: Mapping[int, Functions], nets: bool, top: bool
    ) -> None:
        self.top = top
        self.plan, self.module, self.name, self.made = plan, plan.module, name, made
        self.nets = nets
        self.guarded = [self._guards(phase) for phase in plan.phases]
        self.phases = [
            self._functions(phase, guarded)
            for phase, guarded in zip(plan.phases, self.guarded, strict=True)
        ]
        self.edge = [Function([Writes(m)]) for m in self.module.memories if m.writes]
        self.defined: dict[Word, int] = {}
        self._spilled = self._crossing()
        self._between = self._between_phases()
        self.layout = self._lay_out()
        self.activity = self._activity() if top else Activity()

    # --- functions --------------------------------------------------------------------------------
    def _guards(self, phase: Phase) -> Guarded:
        """Conditions within a phase. A forced net may change a register that its multiplexers would
        keep.
        """
        kept = {
            word
            for other in self.plan.phases if other is not phase
            for node in other.nodes for sig in inputs_of(node) for word in words_in(sig)
        }  # fmt: skip
        kept |= {word for sig in self.module.outputs.values() for word in words_in(sig)}
        guarded = Guards(phase.nodes, kept, _cost, registers=not self.nets).guarded
        if self.top:
            guarded.nodes = by_blocks(
                guarded.nodes, lambda item: self._reads(item, guarded), guarded.all_in
            )
        return guarded

    def _steps(self, phase: Phase, guarded: Guarded) -> Iterator[Step]:
        for node in guarded.nodes:
            if isinstance(node, Call):
                if self._empty(node):
                    continue
                yield Inputs(node)
            yield node
        for port in phase.outputs:
            yield Output(port)
        if not phase.needs and not phase.last:
            for port in self.module.outputs:
                if self._early(port) != self.module.outputs[port] and any(
                    words_in(self._early(port))
                ):
                    yield Output(port, early=True)

    def _early(self, port: str) -> Sig:
        bound = self.plan.bound
        return joined(
            Part(None, 0, part.width) if part.word in bound else part
            for part in self.module.outputs[port]
        )

    def _output(self, step: Output) -> Sig:
        return self._early(step.port) if step.early else self.module.outputs[step.port]

    def _empty(self, call: Call) -> bool:
        """A phase whose outputs are registers, which the parent reads where they are."""
        if call.phase.nodes or call.phase.last:
            return False
        module = call.instance.module
        code = self.made[id(module)]
        return all(code.register(module.outputs[port]) is not None for port in call.phase.outputs)

    def given(self, call: Call) -> list[str]:
        """Input ports of a call that no earlier call of its instance has been given."""
        earlier: set[str] = set()
        for phase in self.made[id(call.instance.module)].plan.phases[: call.phase.number]:
            empty = self._empty(Call(call.instance, phase))
            if not empty and (call.phase.last or phase.needs < call.phase.needs):
                earlier |= phase.needs
        return sorted(call.phase.needs - earlier)

    def read_later(self, call: Call, port: str) -> bool:
        """Whether a later phase of the instance reads an input port that this one is given."""
        phases = self.made[id(call.instance.module)].plan.phases
        return any(port in later.needs for later in phases[call.phase.number + 1 :])

    def register(self, sig: Sig) -> tuple[str, int] | None:
        """(space, offset) of a signal that is a whole register, here or below."""
        if len(sig) != 1 or sig[0].word is None:
            return None
        word = sig[0].word
        if sig[0].width != word.width:
            return None
        if word.kind in ("flop", "read"):
            return "q", self.layout.q[word]
        return self._below(word) if word.kind == "output" else None

    def _below(self, word: Word) -> tuple[str, int] | None:
        instance, port = self._source(word)
        code = self.made[id(instance.module)]
        phase = self._phase(instance, port)
        found = code.register(instance.module.outputs[port])
        if phase.nodes or phase.last or found is None:
            return None
        return found[0], self.layout.below[id(instance)][0] + found[1]

    def _source(self, word: Word) -> tuple[Instance, str]:
        if not hasattr(self, "_sources"):
            self._sources = {
                w: (instance, port)
                for instance in self.module.instances for port, w in instance.outputs.items()
            }  # fmt: skip
        return self._sources[word]

    def _phase(self, instance: Instance, port: str) -> Phase:
        return self.made[id(instance.module)].plan.phase_of(port)

    def _functions(self, phase: Phase, guarded: Guarded) -> list[Function]:
        """Steps cut into functions; calls wait until somebody needs what they give."""
        out: list[Function] = []
        steps: list[Step] = []
        cost = 0
        last: str | None = None
        waiting: list[Call] = []
        given: set[Word] = set()

        def cut(flush: bool) -> None:
            nonlocal steps, cost
            if steps:
                out.append(Function(steps))
            steps, cost = [], 0
            if flush:
                out.extend(Function(call=call) for call in waiting)
                waiting.clear()
                given.clear()

        for step in self._steps(phase, guarded):
            if isinstance(step, Call):
                waiting.append(step)
                given.update(
                    step.instance.outputs[p]
                    for p in step.phase.outputs
                    if p in step.instance.outputs
                )
                continue
            if given and any(word in given for word in self._reads(step, guarded)):
                cut(flush=True)
            block = None if isinstance(step, (Inputs, Output, Writes)) else block_of(step)
            if self.top and block not in (None, last) and cost > _SHORT:
                cut(flush=False)
            last = block or last
            steps.append(step)
            cost += self._whole_cost(step, guarded)
            if cost > _LIMIT:
                cut(flush=False)
        cut(flush=True)
        return out

    def _reads(self, step: Step, guarded: Guarded) -> Iterator[Word]:
        if isinstance(step, Output):
            yield from words_in(self._output(step))
        elif isinstance(step, Inputs):
            for sig in inputs_of(step.call):
                yield from words_in(sig)
        elif isinstance(step, Writes):
            for write in step.memory.writes:
                for sig in (write.enable, write.address, write.data, write.clock or ()):
                    yield from words_in(sig)
        else:
            yield from guarded.reads(step)

    def _whole_cost(self, step: Step, guarded: Guarded) -> int:
        if isinstance(step, (Inputs, Output, Writes)):
            return 2
        return sum(_cost(node) for node in guarded.all_in(step))

    def _all(self) -> Iterator[tuple[int, Function, Guarded]]:
        number = 0
        for functions, guarded in zip(
            [*self.phases, self.edge], [*self.guarded, Guarded([], {})], strict=True
        ):
            for function in functions:
                yield number, function, guarded
                number += 1

    def _crossing(self) -> set[Word]:
        """Words that are read in another function than the one that computes them."""
        for number, function, guarded in self._all():
            for step in function.steps or ():
                if isinstance(step, (Inputs, Output, Writes)):
                    continue
                for node in guarded.all_in(step):
                    if isinstance(node, Cell):
                        self.defined[node.output] = number
        return {word for word, _ in self._read_elsewhere()}

    def _read_elsewhere(self) -> Iterator[tuple[Word, int]]:
        """(word, function that reads it) of what another function computes."""
        for number, function, guarded in self._all():
            for step in function.steps or ():
                for word in self._reads(step, guarded):
                    if self.defined.get(word, number) != number:
                        yield word, number

    def _between_phases(self) -> set[Word]:
        """Words that are read in another phase than that which computes them."""
        phase = [i for i, functions in enumerate([*self.phases, self.edge]) for _ in functions]
        return {
            word for word, number in self._read_elsewhere()
            if phase[self.defined[word]] != phase[number]
        }  # fmt: skip

    def _activity(self) -> Activity:
        functions: list[Read] = []
        edges: list[Read] = []
        for number, function, guarded in self._all():
            if function.steps is None:
                continue
            words = {w for step in function.steps for w in self._reads(step, guarded)}
            for step in function.steps:
                if isinstance(step, (Inputs, Output, Writes)):
                    continue
                for node in guarded.all_in(step):
                    if isinstance(node, Flop):
                        words.add(node.word)  # what it keeps
                    elif isinstance(node, Memory):
                        words.update(port.word for port in node.reads)
            used = [
                node.memory if isinstance(node, Cell) else node
                for step in function.steps if not isinstance(step, (Inputs, Output, Writes))
                for node in guarded.all_in(step)
            ]  # fmt: skip
            memories = [memory for memory in used if isinstance(memory, Memory)]
            (edges if function in self.edge else functions).append((number, words, memories))
        return activity_of(functions, edges, self.module.instances)

    # --- where things lie -------------------------------------------------------------------------
    def _lay_out(self) -> Layout:
        layout = Layout()
        registers = [flop.word for flop in self.module.flops]
        registers += [p.word for memory in self.module.memories for p in memory.reads]
        layout.q, layout.q_bytes = _packed(registers)
        kept = sorted(self._spilled, key=lambda w: w.index)
        ports = [*self.module.inputs.values()]
        outs = {p: Word(p, width_of(sig), "port", -1) for p, sig in self.module.outputs.items()}
        flags = [Word(c.name, 1, "flag", -1) for c in self.module.cells] if self.nets else []
        groups: list[Group | ReadPort] = [
            step for _, function, _ in self._all() for step in function.steps or ()
            if isinstance(step, Group)
        ]  # fmt: skip
        groups += [port for memory in self.module.memories for port in memory.reads]
        changed = [Word("changed", 1, "flag", -1) for _ in groups]
        slots, layout.t_bytes = _packed([*ports, *outs.values(), *kept, *flags, *changed])
        layout.changed = {id(g): slots[w] for g, w in zip(groups, changed, strict=True)}
        layout.t = {word: slots[word] for word in (*ports, *kept)}
        layout.ports = {p: slots[w] for p, w in self.module.inputs.items()}
        layout.ports |= {p: slots[w] for p, w in outs.items()}
        if self.nets:
            layout.flags = {
                cell.output: slots[flag]
                for cell, flag in zip(self.module.cells, flags, strict=True)
            }
        for memory in self.module.memories:
            layout.m[id(memory)] = layout.m_bytes
            if memory.writes:
                layout.m_bytes += LIMB * memory.depth * memory.limbs
        for instance in self.module.instances:
            below = self.made[id(instance.module)].layout
            layout.below[id(instance)] = layout.q_bytes, layout.t_bytes, layout.m_bytes
            layout.q_bytes += below.q_bytes
            layout.t_bytes += below.t_bytes
            layout.m_bytes += below.m_bytes
        return layout

    def place(self, word: Word) -> str | None:
        if word in self.layout.q:
            return f"q + {self.layout.q[word]}"
        if word in self.layout.t:
            return f"t + {self.layout.t[word]}"
        if word.kind != "output":
            return None
        direct = self._below(word)
        if direct is not None:
            return f"q + {direct[1]}"
        instance, port = self._source(word)
        below = self.layout.below[id(instance)]
        return f"t + {below[1] + self.made[id(instance.module)].layout.ports[port]}"

    def read(self, memory: Memory) -> str:
        if memory.writes:
            return f"READ(g, m + {self.layout.m[id(memory)]}, {memory.depth}u, {memory.limbs}"
        name = f"{self.name}_table{self.module.memories.index(memory)}"
        return f"READ_TABLE({name}, {memory.depth}u, {memory.limbs}"

    # --- text -------------------------------------------------------------------------------------


def _packed(words: list[Word]) -> tuple[dict[Word, int], int]:
    """Offsets: limbs first, then single bits."""
    offsets, at = {}, 0
    for word in words:
        if word.width > 1:
            offsets[word] = at
            at += LIMB * word.limbs
    for word in words:
        if word.width == 1:
            offsets[word] = at
            at += BIT
    return offsets, -(-at // LIMB) * LIMB


def _cost(step: Step) -> int:
    if isinstance(step, Cell):
        limbs = step.output.limbs if step.output.width > 1 else 1
        if step.type == "$pmux":
            return limbs * width_of(step.inputs["S"])
        if step.type in ("$shl", "$shr", "$shift", "$sshr", "read"):
            return 6 * limbs + (8 if limbs > 1 else 0)
        return limbs * limbs if step.type == "$mul" else limbs
    if isinstance(step, Memory):
        return 20 * (len(step.reads) + len(step.writes))
    return 2
