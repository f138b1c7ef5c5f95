"""Passes of a schedule: how long they are and what their slots count as, by the iterations present.

Ref: docs/array.md sections 3 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa.spec import load_spec

SPEC = load_spec("array")
STALLS = SPEC.stalls
MAC, MOVE, LANE, BUBBLE, SLOT, SETTLE, WAIT_LOAD, WAIT_STORE, LOADING, STORING, CONTROL = map(
    STALLS.index,
    ("mac", "move", "lane", "bubble", "slot", "settle", "wait_load", "wait_store", "load", "store",
     "control"),
)  # fmt: skip
#: First index of the blocks of the lanes.
LANE_BLOCKS = 8
#: What an iteration is in a pattern.
ABSENT, PRESENT, FINAL = range(3)
_OPS = SPEC.enums["block_op"]
_REASONS = {
    **{_OPS[name]: MAC for name in ("qk", "lm", "exp", "sld", "slnv")},
    **{_OPS[name]: MOVE for name in ("drain", "passx", "passd", "fill")},
}


@dataclass(frozen=True)
class Block:
    """Operands of a BLOCK."""

    index: int
    op: int
    start: int
    length: int
    stage: int
    free: int
    done: int

    @property
    def last_slot(self) -> int:
        return self.start + self.length - 1


@dataclass(frozen=True)
class Pass:
    """A pass with one pattern of iterations.

    cut: it ends early, and with it every iteration. counts: cycles by stall reason. frees: (slot,
    stage) of the slots that free a tile's rows.
    """

    slots: int
    cut: bool
    counts: tuple[int, ...]
    frees: tuple[tuple[int, int], ...]

    @cached_property
    def counted(self) -> tuple[tuple[int, int], ...]:
        """(stall reason, cycles) of those that there are."""
        return tuple((i, n) for i, n in enumerate(self.counts) if n)


@dataclass
class Schedule:
    """Blocks since KERNEL. `passes` by pattern: a state per stage, ABSENT, PRESENT or FINAL."""

    ii: int = 1
    blocks: dict[int, Block] = field(default_factory=dict)
    passes: dict[tuple[int, ...], Pass] = field(default_factory=dict)
    _done: Block | None = None

    def add(self, block: Block) -> None:
        """One more block, or another one in its place."""
        self.blocks[block.index] = block
        self.passes, self._done = {}, None

    @property
    def stages(self) -> int:
        """Passes that an iteration takes."""
        return 1 + max((b.stage for b in self.blocks.values()), default=0)

    def done(self) -> Block:
        """The block that ends an iteration. Raises ProgramError when there is not just one."""
        if self._done is None:
            found = [b for b in self.blocks.values() if b.done]
            if len(found) != 1:
                raise ProgramError(
                    f"{len(found)} blocks of the schedule have `done`; a RUN needs one, which ends "
                    f"last"
                )
            self._done = found[0]
        return self._done

    def of(self, pattern: tuple[int, ...]) -> Pass:
        """The pass in which the iterations of `pattern` are under way."""
        if pattern not in self.passes:
            self.done()
            self.passes[pattern] = _classify(self.ii, tuple(self.blocks.values()), pattern)
        return self.passes[pattern]


@lru_cache(maxsize=4096)
def _classify(ii: int, blocks: tuple[Block, ...], pattern: tuple[int, ...]) -> Pass:
    """Programs begin the same schedules again and again."""
    done = next(b for b in blocks if b.done)
    present = [b for b in blocks if pattern[b.stage] != ABSENT]
    cut = done in present and not any(pattern[: done.stage]) and done.last_slot < ii - 1
    slots = done.last_slot + 1 if cut else ii
    counts = np.bincount(_slot_reasons(ii, blocks, pattern)[:slots], minlength=len(STALLS))
    frees = sorted((b.last_slot, b.stage) for b in present if b.free)
    return Pass(slots, cut, tuple(counts.tolist()), tuple(f for f in frees if f[0] < slots))


def _slot_reasons(
    ii: int, blocks: tuple[Block, ...], pattern: tuple[int, ...]
) -> NDArray[np.int64]:
    """Stall reason of each slot: what it would be without words, then words of the lanes, then
    words of the 2D array, which count before them.
    """
    reasons = np.full(ii, SLOT)
    for block in blocks:
        reasons[block.start : block.last_slot + 1] = BUBBLE
    for block in sorted(blocks, key=lambda b: -b.index):
        state, slots = pattern[block.stage], slice(block.start, block.last_slot + 1)
        if block.index >= LANE_BLOCKS and state == FINAL:
            reasons[slots] = LANE
        elif block.index < LANE_BLOCKS and state != ABSENT:
            reasons[slots] = _REASONS[block.op]
    return reasons
