"""Dispatched commands of an `array` program with the registers they copy, checked one by one.

Ref: docs/array.md sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa.array_machine import ELEMENT_BYTES, ArrayMachine
from bankside.isa.array_schedule import Block, Schedule
from bankside.isa.program import Step

#: Keys, positions and windows are compared with this many bits, signed.
KEY_LIMIT = 1 << 23
_GROUP_LIMIT = 1 << 16
Words = NDArray[np.int64]


@dataclass(frozen=True)
class Command:
    """Where a command stands, which engine runs it, its tokens and registers."""

    machine: ArrayMachine
    pc: int
    name: str
    engine: str
    wait: tuple[str, ...]
    signal: tuple[str, ...]
    reg: Mapping[str, int]

    @property
    def where(self) -> str:
        """The command in messages."""
        return f"command {self.pc} ({self.name})"

    def refuse(self, message: str) -> ProgramError:
        """The error that names this command."""
        return ProgramError(f"{self.where}: {message}")

    def at_least_one(self, *names: str) -> None:
        """Registers that must not be 0."""
        for name in names:
            if self.reg[name] < 1:
                raise self.refuse(f"register {name} is 0; SET it to at least 1")

    def within(self, what: str, first: int, stop: int, size: int, registers: str) -> None:
        """Words [first, stop) must lie in a space of `size` words."""
        if stop > size:
            raise self.refuse(
                f"{what} {first}..{stop - 1}; {self.machine.config.name} has 0..{size - 1}: "
                f"correct {registers}"
            )


@dataclass(frozen=True)
class Transfer(Command):
    """LOAD or STORE. `row_side`: row banks (LOAD only). `each`: tokens at every outer step."""

    row_side: bool
    each: bool

    @property
    def bus_bytes(self) -> int:
        return self.machine.bus_elements * ELEMENT_BYTES

    def check(self, memory_words: int) -> None:
        """Addresses, banks and words. Raises ProgramError."""
        reg, array = self.reg, self.machine.config.array
        self.at_least_one("outer", "inner", "beats", "ring")
        if reg["ring_phase"] >= reg["ring"]:
            raise self.refuse(
                f"register ring_phase is {reg['ring_phase']}; expected 0..{reg['ring'] - 1}, below "
                f"ring"
            )
        for name in ("mem", "outer_bytes", "inner_bytes"):
            if reg[name] % self.bus_bytes:
                raise self.refuse(
                    f"register {name} is {reg[name]}; expected a multiple of the bus word of "
                    f"{self.bus_bytes} bytes"
                )
        banks, words = (
            (array.rows, array.row_words) if self.row_side else (array.columns, array.column_words)
        )
        last_bank = reg["bank"] + (reg["outer"] - 1) * reg["bank_step"] + reg["inner"] - 1
        self.within("uses banks", reg["bank"], last_bank + 1, banks, "bank, bank_step or inner")
        place = int(self.places().max())
        self.within(
            "uses bank words", reg["buf"], reg["buf"] + place * reg["buf_step"] + reg["beats"],
            words, "buf, buf_step, ring or beats",
        )  # fmt: skip
        first = reg["mem"] // self.bus_bytes
        last = first + self._memory_step(reg["outer"] - 1) + self._memory_row(reg["inner"] - 1)
        if last + reg["beats"] > memory_words:
            raise self.refuse(
                f"uses bus words {first}..{last + reg['beats'] - 1} of main memory; the program's "
                f"memory has 0..{memory_words - 1}: correct mem, outer_bytes or inner_bytes, or "
                f"make the memory larger"
            )

    def places(self) -> Words:
        """Place in the ring of each outer step."""
        steps = np.arange(min(self.reg["outer"], self.reg["ring"]), dtype=np.int64)
        return (self.reg["ring_phase"] + steps) % self.reg["ring"]

    def _memory_step(self, step: int) -> int:
        return step * self.reg["outer_bytes"] // self.bus_bytes

    def _memory_row(self, row: int) -> int:
        return row * self.reg["inner_bytes"] // self.bus_bytes

    def memory(self, first: int, count: int) -> slice | Words:
        """Bus words of main memory of some outer steps, a slice where they are contiguous."""
        reg = self.reg
        start, beats = reg["mem"] // self.bus_bytes, reg["beats"]
        inner_step = reg["inner_bytes"] // self.bus_bytes
        outer_step = reg["outer_bytes"] // self.bus_bytes
        dense = reg["inner"] == 1 or inner_step == beats
        row = reg["inner"] * beats
        if dense and (count == 1 or outer_step == row):
            begin = start + first * outer_step
            return slice(begin, begin + count * row)
        steps = (first + np.arange(count)) * outer_step
        rows = np.arange(reg["inner"]) * inner_step
        return (start + steps[:, None, None] + rows[:, None] + np.arange(beats)).reshape(-1)

    def banks(self, step: int) -> list[tuple[slice, slice]]:
        """(banks, bank words) of one outer step."""
        reg = self.reg
        bank = reg["bank"] + step * reg["bank_step"]
        word = reg["buf"] + (reg["ring_phase"] + step) % reg["ring"] * reg["buf_step"]
        return [(slice(bank, bank + reg["inner"]), slice(word, word + reg["beats"]))]

    def all_banks(self) -> list[tuple[slice, slice]]:
        """(banks, bank words) of the whole command, each once."""
        reg = self.reg
        steps = reg["outer"] if reg["bank_step"] else min(reg["outer"], reg["ring"])
        whole = reg["bank_step"] == 0 and reg["buf_step"] == reg["beats"]
        if whole and reg["ring_phase"] + steps <= reg["ring"]:
            word = reg["buf"] + reg["ring_phase"] * reg["beats"]
            banks = slice(reg["bank"], reg["bank"] + reg["inner"])
            return [(banks, slice(word, word + steps * reg["beats"]))]
        return [region for step in range(steps) for region in self.banks(step)]


@dataclass(frozen=True)
class Use:
    """Column or row bank words that a RUN reads or writes for some tiles.

    early: the last read is over when the `free` token of its tile is given.
    """

    rows: bool
    words: slice | Words
    write: bool
    early: bool
    what: str


@dataclass(frozen=True)
class Run(Command):
    """RUN and the schedule that it repeats."""

    schedule: Schedule
    tiles: int
    each: bool
    free: bool
    first: bool
    last: bool
    set: int

    def check(self) -> None:
        """Registers and bank words. Raises ProgramError."""
        array, reg, m = self.machine.config.array, self.reg, self.machine
        if self.free and not any(block.free for block in self.schedule.blocks):
            raise self.refuse("free without a block that is marked free; mark the last reader")
        if self._block("qk", "slnv"):
            self.at_least_one("kv_ring")
            self._check_phase()
        places = self._row_places(0, self.tiles)
        far = int(places.max()) * reg["kv_step"]
        for name, op in (("k", "qk"), ("v", "slnv")):
            if block := self.schedule.block(op):
                stop = reg[name] + far + m.words(block.length)
                self.within(
                    f"{op} reads row bank words", reg[name], stop, array.row_words,
                    f"{name}, kv_step or kv_ring",
                )  # fmt: skip
        self._check_columns()
        self._check_mask()

    def _check_phase(self) -> None:
        if self.reg["kv_phase"] >= self.reg["kv_ring"]:
            raise self.refuse(
                f"register kv_phase is {self.reg['kv_phase']}; expected "
                f"0..{self.reg['kv_ring'] - 1}, below kv_ring"
            )

    def _check_columns(self) -> None:
        array, reg, m = self.machine.config.array, self.reg, self.machine
        for name, op in (("q", "qk"), ("out", "av")):
            if block := self.schedule.block(op):
                self.within(
                    f"{op} uses column bank words", reg[name], reg[name] + m.words(block.length),
                    array.column_words, name,
                )  # fmt: skip
        if self._block("drain", "passx", "passd", "fill"):
            self.at_least_one("s_ring")
            far = (min(self.tiles, reg["s_ring"]) - 1) * reg["s_step"]
            self.within(
                "scores use column bank words", reg["s"], reg["s"] + far + m.words(m.rows),
                array.column_words, "s, s_step or s_ring",
            )  # fmt: skip
        chunked = self.schedule.chunked and self._block("drain")
        corrected = self.schedule.correct and self._block("fill")
        if (chunked or corrected) and self.tiles > array.chunk_words:
            raise self.refuse(
                f"{self.tiles} tiles keep a maximum each; {m.config.name} keeps "
                f"{array.chunk_words}: use several RUNs or raise array.chunk_words"
            )

    def _check_mask(self) -> None:
        reg = self.reg
        if not self._block("lm", "drain"):
            return
        self.at_least_one("group")
        if reg["group"] >= _GROUP_LIMIT:
            raise self.refuse(f"register group is {reg['group']}; expected 1..{_GROUP_LIMIT - 1}")
        ends = {
            "keys": reg["keys"], "position": reg["position"], "window": reg["window"],
            "first_key": reg["first_key"] + self.tiles * self.machine.rows,
        }  # fmt: skip
        for name, value in ends.items():
            if value >= KEY_LIMIT:
                raise self.refuse(
                    f"register {name} leads to key {value}; keys and positions end at "
                    f"{KEY_LIMIT - 1}"
                )
        if reg["causal"] > 1:
            raise self.refuse(f"register causal is {reg['causal']}; expected 0 or 1")

    def _block(self, *ops: str) -> bool:
        return any(self.schedule.block(op) for op in ops)

    def _row_places(self, first: int, count: int) -> Words:
        ring = max(1, self.reg["kv_ring"])
        return (self.reg["kv_phase"] + first + np.arange(min(count, ring))) % ring

    def uses(self, first: int, count: int) -> Iterator[Use]:
        """Bank words of the tiles [first, first + count), in the order read, written."""
        m, reg = self.machine, self.reg
        for op, name in (("qk", "k"), ("slnv", "v")):
            if block := self.schedule.block(op):
                words = m.words(block.length)
                tiles = self._row_places(first, count) * reg["kv_step"]
                region = _spread(reg[name], tiles, reg["kv_step"], words)
                yield Use(True, region, False, self.before_free(block, m.rows), name)
        if block := self.schedule.block("qk"):
            words = slice(reg["q"], reg["q"] + m.words(block.length))
            yield Use(False, words, False, self.before_free(block, m.columns), "q")
        yield from self._score_uses(first, count)
        block = self.schedule.block("av")
        if block and self.last and first + count == self.tiles:
            words = slice(reg["out"], reg["out"] + m.words(block.length))
            yield Use(False, words, True, False, "out")

    def _score_uses(self, first: int, count: int) -> Iterator[Use]:
        m = self.machine
        writes = self._block("drain", "passx", "passd")
        reads = not self._block("drain") and self._block("passx", "passd", "fill")
        if reads or writes:
            region = self.score_words(first, count)
            blocks = [self.schedule.block(op) for op in ("passx", "passd", "fill")]
            early = all(self.before_free(block, m.columns) for block in blocks if block)
            if reads:
                yield Use(False, region, False, early, "s")
            if writes:
                yield Use(False, region, True, False, "s")

    def score_words(self, first: int, count: int) -> slice | Words:
        """Column words of the scores of some tiles."""
        reg = self.reg
        ring = max(1, reg["s_ring"])
        tiles = (first + np.arange(min(count, ring))) % ring * reg["s_step"]
        return _spread(reg["s"], tiles, reg["s_step"], self.machine.words(self.machine.rows))

    def before_free(self, block: Block, lines: int) -> bool:
        """Whether the block has read all rows or columns when the `free` token is given."""
        return self.free and self.schedule.read_before_free(block, lines, self.machine)


def _spread(base: int, offsets: Words, step: int, words: int) -> slice | Words:
    """Words [base + offset, + words) of each offset, a slice where they are contiguous."""
    if len(offsets) == 1:
        first = base + int(offsets[0])
        return slice(first, first + words)
    ascending = bool((np.diff(offsets) == words).all())
    if ascending and step == words:
        first = base + int(offsets[0])
        return slice(first, first + words * len(offsets))
    return np.unique((base + offsets[:, None] + np.arange(words)).reshape(-1))


def run_of(
    machine: ArrayMachine, step: Step, schedule: Schedule, tokens: tuple, reg: Mapping[str, int]
) -> Run:
    """The RUN of an executed command."""
    ins = step.instruction
    return Run(
        machine, step.pc, ins.name, "compute", *tokens, dict(reg), schedule, ins.tiles,
        bool(ins.each), bool(ins.free), bool(ins.first), bool(ins.last), ins.set,
    )  # fmt: skip


def transfer_of(
    machine: ArrayMachine, step: Step, tokens: tuple, reg: Mapping[str, int]
) -> Transfer:
    """The LOAD or STORE of an executed command."""
    ins = step.instruction
    load = ins.name == "LOAD"
    return Transfer(
        machine, step.pc, ins.name, "load" if load else "store", *tokens, dict(reg),
        load and ins.side == 0, load and bool(ins.each),
    )  # fmt: skip
