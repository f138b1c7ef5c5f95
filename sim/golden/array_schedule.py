"""What KERNEL, BLOCK and RUN tell the compute engine of the `array` golden model.

Ref: docs/array.md section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bankside.errors import ProgramError
from bankside.isa.numerics_array import FP16
from bankside.isa.spec import Instruction, load_spec

LANE_OPS = ("rcp", "one", "av")
FIRST_LANE_BLOCK = 8
_NAMES = {code: name for name, code in load_spec("array").enums["block_op"].items()}
# Registers of a PE or lane that exist once per tag; the others exist once.
_PER_TAG = ("S", "k", "mtop", "msnap")


@dataclass(frozen=True)
class Block:
    """One block of the schedule (operands of BLOCK)."""

    op: str
    start: int
    length: int
    stage: int
    free: int
    done: int


@dataclass(frozen=True)
class Run:
    """A RUN that has left the queue: place in the program, operands, registers at its dispatch."""

    pc: int
    command: Instruction
    registers: dict[str, int]


@dataclass
class Schedule:
    """What KERNEL and BLOCK have set up."""

    fmt: int = FP16
    chunked: int = 0
    correct: int = 0
    blocks: dict[int, Block] = field(default_factory=dict)

    def add(self, pc: int, ins: Instruction) -> None:
        """A BLOCK. Raises ProgramError when the operation has no meaning at its index."""
        op = _NAMES[ins.op]
        if (op in LANE_OPS) != (ins.index >= FIRST_LANE_BLOCK):
            fits = "8..11" if op in LANE_OPS else "0..7"
            raise ProgramError(
                f"command {pc}: BLOCK {op} has index {ins.index}; expected an index in {fits}"
            )
        self.blocks[ins.index] = Block(op, ins.start, ins.length, ins.stage, ins.free, ins.done)

    def in_order(self) -> list[Block]:
        """Blocks as an iteration meets them."""
        return sorted(self.blocks.values(), key=lambda b: (b.stage, b.start))

    def length(self, *ops: str) -> int:
        """Largest length of the blocks with these operations, 0: none."""
        return max((b.length for b in self.blocks.values() if b.op in ops), default=0)

    @property
    def frees(self) -> int:
        """Tokens that an iteration of a RUN with `free` gives to the load engine."""
        return sum(b.free for b in self.blocks.values())

    def touched(self, op: str) -> tuple[set[str], set[str]]:
        """Registers of PEs and lanes that a block reads and writes in every tile."""
        chunked, correct = self.chunked, self.correct
        return {
            "qk": (set(), {"S"}),
            "lm": ({"S", "m"}, {"S", "m", "k", "mtop"}),
            "exp": ({"S", "mtop"}, {"S"}),
            "sld": ({"S", "k", "l"}, {"l"}),
            "slnv": ({"S", "k", "acc"}, {"acc"}),
            "drain": ({"S", "m"}, {"m", "k", "msnap"} if chunked else {"m"}),
            "passx": ({"l", "k", "msnap"} if chunked else {"l", "m"}, {"l"}),
            "fill": ({"m"} if correct else set(), {"S", "k"} if correct or not chunked else {"S"}),
        }.get(op, (set(), set()))

    @property
    def separable(self) -> bool:
        """Whether a block may run over many tiles before the next block runs.

        Not where a tile finds in a register of its tag what an earlier tile left there, or where
        two blocks share a register that exists once. Blocks of the lanes act in the last tile only:
        what matters there is that `passd` comes before a new reciprocal.
        """
        ops = [block.op for block in self.in_order()]
        if "passd" in ops and {"rcp", "one"} & set(ops[: ops.index("passd")]):
            return False
        users: dict[str, list[tuple[bool, bool]]] = {}
        for op in ops:
            reads, writes = self.touched(op)
            for name in reads | writes:
                users.setdefault(name, []).append((name in reads, name in writes))
        for name, uses in users.items():
            inherited = uses[0][0] if name in _PER_TAG else len(uses) > 1
            if inherited and any(writes for _, writes in uses):
                return False
        return True
