"""Schedules of the `array` engine: blocks, their words in a program, the rules between them.

A rule is a distance in slots between two blocks, possibly of different iterations. The same rules
check programs (`check`) and drive the modulo scheduler. Ref: docs/array.md section 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from bankside.errors import ProgramError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.program import Builder
from bankside.isa.spec import Instruction, load_spec

PE_OPS = ("qk", "lm", "exp", "sld", "slnv", "drain", "passx", "passd", "fill")
LANE_OPS = ("rcp", "one", "av")
OPS = PE_OPS + LANE_OPS
FORMATS = ("fp16", "bf16")
#: Operations whose words have a lane part.
LANE_PARTS = frozenset(OPS) - {"qk", "exp"}
#: Operations that read the row banks, and with them the keys or values of the tile.
ROW_READERS = ("qk", "slnv")
#: Operations that read or write the tile's scores in the column banks.
SCORE_READERS, SCORE_WRITERS = ("passx", "passd", "fill"), ("drain", "passx", "passd")
PE_BLOCKS, LANE_BLOCKS = 8, 4
MAX_STAGE = 7
EXP_WORDS = 7


@dataclass(frozen=True)
class Block:
    """Slots `start` .. `start + length - 1` of every pass, for the iteration `stage` passes old."""

    op: str
    start: int
    length: int
    stage: int = 0
    free: bool = False
    done: bool = False

    @property
    def stop(self) -> int:
        """First slot of the pass after the block."""
        return self.start + self.length

    @property
    def on_lanes(self) -> bool:
        """Whether it is a block of the lanes (places 8..11), issued in `last` tiles only."""
        return self.op in LANE_OPS


@dataclass(frozen=True)
class Schedule:
    """What KERNEL and its BLOCK commands say.

    Attributes:
        ii: slots per pass.
        format: `fp16` or `bf16`.
        chunked, correct: operands of KERNEL.
        blocks: at most one of each operation.
    """

    ii: int
    blocks: tuple[Block, ...]
    format: str = "fp16"
    chunked: bool = False
    correct: bool = False

    def block(self, op: str) -> Block | None:
        """The block of an operation, or None."""
        return next((block for block in self.blocks if block.op == op), None)

    def begin(self, block: Block) -> int:
        """Slots from the start of an iteration to the first word of the block."""
        return block.stage * self.ii + block.start

    def end(self, block: Block) -> int:
        """Slots from the start of an iteration to the end of the block."""
        return self.begin(block) + block.length

    @property
    def span(self) -> int:
        """Slots from the start of an iteration to the end of its last block."""
        return max(map(self.end, self.blocks))

    @property
    def stages(self) -> int:
        """Iterations that are under way at once."""
        return max(block.stage for block in self.blocks) + 1

    def read_before_free(self, block: Block, lines: int, machine: ArrayMachine) -> bool:
        """Whether `block` has read all its rows or columns (`lines`) when `free` gives its token.

        The token comes `free_latency` cycles after the last `free` slot; a word reads the banks of
        line i in cycle i + 1 after its issue.
        """
        marked = next((b for b in self.blocks if b.free), None)
        if marked is None:
            return False
        return self.end(block) + lines < self.end(marked) + machine.free_latency

    def score_ring(self, machine: ArrayMachine) -> int:
        """Iterations after which an iteration can use the column words of a tile's scores again."""
        late = machine.element_latency
        users = [b for b in self.blocks if b.op in SCORE_READERS]
        reads = [(self.begin(b), self.end(b)) for b in users]
        users = [b for b in self.blocks if b.op in SCORE_WRITERS]
        writes = [(self.begin(b) + late, self.end(b) + late) for b in users]
        if not writes:
            return 1 if reads else 0
        first, last = min(begin for begin, _ in writes), max(end for _, end in writes)
        after_write = last - min(begin for begin, _ in [*reads, *writes])
        after_read = max((end for _, end in reads), default=0) - first
        return max(1, -(-after_write // self.ii), -(-after_read // self.ii))

    def marked(self) -> Schedule:
        """The same with `free` on the last reader of the row banks and `done` on the last block."""
        readers = [b for b in self.blocks if b.op in ROW_READERS]
        free = max(readers, key=self.end, default=None)
        done = max(self.blocks, key=self.end)
        blocks = tuple(replace(b, free=b is free, done=b is done) for b in self.blocks)
        return replace(self, blocks=blocks)

    def emit(self, builder: Builder) -> None:
        """Append KERNEL and one BLOCK per block to a program."""
        builder.KERNEL(
            ii=self.ii, format=self.format, chunked=int(self.chunked), correct=int(self.correct)
        )
        places = {False: 0, True: PE_BLOCKS}
        for block in self.blocks:
            builder.BLOCK(
                index=places[block.on_lanes],
                op=block.op,
                start=block.start,
                length=block.length,
                stage=block.stage,
                free=int(block.free),
                done=int(block.done),
            )
            places[block.on_lanes] += 1

    @classmethod
    def decode(cls, instructions: Iterable[Instruction]) -> Schedule:
        """The schedule of a KERNEL command and of the BLOCK commands after it.

        A BLOCK at a place that has one already replaces it. Raises ProgramError when a block stands
        at a place of the other kind, or when there is no KERNEL.
        """
        names = {number: name for name, number in load_spec("array").enums["block_op"].items()}
        kernel: Instruction | None = None
        places: dict[int, Block] = {}
        for ins in instructions:
            if ins.name == "KERNEL":
                kernel, places = ins, {}
            elif ins.name == "BLOCK":
                block = Block(
                    names[ins.op], ins.start, ins.length, ins.stage, bool(ins.free), bool(ins.done)
                )
                if block.on_lanes != (ins.index >= PE_BLOCKS):
                    fit = "8..11" if block.on_lanes else "0..7"
                    raise ProgramError(
                        f"block {block.op}: stands at place {ins.index}; use one of {fit}"
                    )
                places[ins.index] = block
        if kernel is None:
            raise ProgramError("BLOCK without KERNEL; begin the schedule with KERNEL")
        blocks = tuple(places[index] for index in sorted(places))
        return cls(
            kernel.ii, blocks, FORMATS[kernel.format], bool(kernel.chunked), bool(kernel.correct)
        )


@dataclass(frozen=True)
class Distance:
    """`second` of the iteration `later` after begins at least `slots` after `first` begins."""

    first: str
    second: str
    slots: int
    later: int = 0
    why: str = ""


def distances(
    lengths: dict[str, int], machine: ArrayMachine, chunked: bool = False
) -> list[Distance]:
    """Every distance rule between the blocks of a schedule.

    Args:
        lengths: operation -> slots of its block.
        chunked: operand of KERNEL.
    """
    rows, n = machine.rows, machine.bus_elements
    element = min(n, rows) - 1 + machine.element_latency
    through_banks = max(element, rows)
    reciprocal = "the divider's result"
    rules = [
        Distance("qk", "lm", lengths.get("qk", 0), why="the scores"),
        Distance("qk", "drain", lengths.get("qk", 0), why="the scores"),
        Distance("lm", "exp", machine.maximum_latency, why="the running maximum"),
        Distance("exp", "sld", EXP_WORDS, why="the numerators"),
        Distance("exp", "slnv", EXP_WORDS, why="the numerators"),
        Distance("drain", "passx", through_banks, why="the scores in the column banks"),
        Distance("passx", "fill", element, why="the probabilities in the column banks"),
        Distance("passd", "fill", element, why="the probabilities in the column banks"),
        Distance("drain", "fill", rows, why="the score register"),
        Distance("passd", "one", rows, why=reciprocal),
        Distance("sld", "rcp", 1, why="the denominator"),
        Distance("passx", "rcp", rows, why="the denominator"),
        Distance("rcp", "sld", 1, 1, why="the denominator"),
        Distance("rcp", "passx", 1, 1, why="the denominator"),
        Distance("rcp", "av", machine.divider_latency, why=reciprocal),
        Distance("one", "av", 1, why=reciprocal),
        Distance("av", "rcp", lengths.get("av", 0), 1, why=reciprocal),
        Distance("av", "one", lengths.get("av", 0), 1, why=reciprocal),
        Distance("slnv", "av", lengths.get("slnv", 0), why="the numerators"),
        Distance("av", "slnv", lengths.get("av", 0), 2, why="the accumulator set"),
    ]
    rules += _after_production(lengths, rows)
    rules += _tag_lifetimes(lengths, machine, chunked)
    return [rule for rule in rules if rule.first in lengths and rule.second in lengths]


def _after_production(lengths: dict[str, int], rows: int) -> list[Distance]:
    """Who uses S comes after the block that has produced it, and after the mask."""
    users = ("lm", "exp", "sld", "slnv", "drain")
    both = "qk" in lengths and "fill" in lengths
    rules = [Distance("lm", user, 1, why="the mask") for user in ("sld", "slnv", "drain")]
    for user in users:
        if not (both and user == "drain"):
            rules.append(Distance("fill", user, rows, why="the score register"))
        if not both:
            rules.append(Distance("qk", user, lengths.get("qk", 0), why="the score register"))
    return rules


def _tag_lifetimes(lengths: dict[str, int], machine: ArrayMachine, chunked: bool) -> list[Distance]:
    """All uses of what belongs to a tag end before the next iteration of that tag begins."""
    users = [op for op in lengths if op in PE_OPS and op not in ("passx", "passd")]
    if chunked and "passx" in lengths:
        users.append("passx")
    why = f"the {machine.tags} score registers"
    return [
        Distance(last, first, lengths[last], machine.tags, why)
        for first in users
        for last in users
        if first != last
    ]


def fixed_length(op: str, machine: ArrayMachine) -> int | None:
    """Slots that a block of the operation must have, None where the program chooses."""
    if op in ("drain", "passx", "passd", "fill"):
        return machine.rows
    return {"exp": EXP_WORDS, "lm": 1, "sld": 1, "rcp": 1, "one": 1}.get(op)


def check(schedule: Schedule, machine: ArrayMachine) -> None:
    """Raise ProgramError unless the schedule obeys the rules of docs/array.md section 3.

    The message names the two blocks, the distance that is there and the one that is needed.
    """
    _check_blocks(schedule, machine)
    _check_shared_slots(schedule, lambda b: not b.on_lanes, "the 2D array")
    _check_shared_slots(schedule, lambda b: b.op in LANE_PARTS, "the lanes")
    lengths = {block.op: block.length for block in schedule.blocks}
    begin = {block.op: schedule.begin(block) for block in schedule.blocks}
    for rule in distances(lengths, machine, schedule.chunked):
        found = begin[rule.second] + rule.later * schedule.ii - begin[rule.first]
        if found < rule.slots:
            of = f" of the iteration {rule.later} later" if rule.later else ""
            raise ProgramError(
                f"schedule: {rule.second}{of} begins {found} slots after {rule.first}; "
                f"{rule.why} need at least {rule.slots}: move one of them or raise ii"
            )
    _check_combination(schedule)
    _check_marks(schedule)


def _check_blocks(schedule: Schedule, machine: ArrayMachine) -> None:
    ops = [block.op for block in schedule.blocks]
    if not ops:
        raise ProgramError("schedule: has no blocks; add BLOCK commands after KERNEL")
    for block in schedule.blocks:
        if ops.count(block.op) > 1:
            raise ProgramError(f"schedule: has several blocks {block.op}; join them into one")
        if block.stop > schedule.ii:
            raise ProgramError(
                f"schedule: {block.op} takes the slots {block.start}..{block.stop - 1}, the pass "
                f"has 0..{schedule.ii - 1}; begin it earlier, in the next stage, or raise ii"
            )
        needed = fixed_length(block.op, machine)
        if needed is not None and block.length != needed:
            raise ProgramError(
                f"schedule: {block.op} is {block.length} slots long; {machine.config.name} needs "
                f"{needed}"
            )
        if block.op in ("slnv", "av") and block.length > machine.config.array.lane_words:
            raise ProgramError(
                f"schedule: {block.op} is {block.length} slots long, an accumulator set holds "
                f"{machine.config.array.lane_words} words; split the values or raise "
                f"array.lane_words"
            )


def _check_shared_slots(schedule: Schedule, uses, unit: str) -> None:
    blocks = sorted(filter(uses, schedule.blocks), key=lambda block: block.start)
    for left, right in pairwise(blocks):
        if right.start < left.stop:
            raise ProgramError(
                f"schedule: {left.op} (slots {left.start}..{left.stop - 1}) and {right.op} (slots "
                f"{right.start}..{right.stop - 1}) share slots of {unit}; {right.op} can begin at "
                f"{left.stop}"
            )


def _check_combination(schedule: Schedule) -> None:
    ops = {block.op for block in schedule.blocks}
    if {"drain", "passx"} <= ops and not schedule.chunked:
        raise ProgramError(
            "schedule: passx needs the maximum of all tiles, which drain of the same schedule has "
            "not seen; set chunked, or put them into two schedules"
        )
    if {"rcp", "one"} <= ops:
        raise ProgramError("schedule: has rcp and one; keep the one that `av` shall use")


def _check_marks(schedule: Schedule) -> None:
    done = [block for block in schedule.blocks if block.done]
    free = [block for block in schedule.blocks if block.free]
    if len(done) != 1 or schedule.end(done[0]) != schedule.span:
        last = max(schedule.blocks, key=schedule.end)
        named = ", ".join(block.op for block in done) or "no block"
        raise ProgramError(
            f"schedule: {named} is marked done; mark {last.op}, which ends last, and no other"
        )
    readers = [block for block in schedule.blocks if block.op in ROW_READERS]
    for block in free:
        last = max(readers, key=schedule.end, default=block)
        if len(free) > 1 or schedule.end(last) > schedule.end(block):
            raise ProgramError(
                f"schedule: {block.op} is marked free; mark one block, not before the end of "
                f"{last.op}, which reads the row banks last"
            )
