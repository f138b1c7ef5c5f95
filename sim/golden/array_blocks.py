"""The blocks of the `array` golden model, each over all tiles of a batch.

Shapes: T tiles, R rows, C columns. Ref: docs/array.md sections 2 and 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa import numerics_array_np as fp
from bankside.isa.array_machine import ArrayMachine
from bankside.sim.golden.array_schedule import Block, Run, Schedule

U16 = NDArray[np.uint16]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
BOOL = NDArray[np.bool_]

_ZERO = np.float32(0)
_SETS = 2
_UNIT = (1 << 25, 24)


@dataclass
class Tiles:
    """A batch: consecutive tiles of one RUN, their rows and what the blocks know of them.

    tile, tag: [T]. keys, values: row bank elements [T, R, E], [T, R, F]. s: score registers
    [T, R, C]. k, mtop, msnap: rescale step, negated maximum and maximum [T, C].
    """

    run: Run
    schedule: Schedule
    tile: I64
    tag: I64
    keys: U16
    values: U16
    s: F32 = field(init=False)
    k: I64 = field(init=False)
    mtop: F32 = field(init=False)
    msnap: F32 = field(init=False)

    @property
    def first(self) -> bool:
        """Whether the batch begins a row block."""
        return bool(self.run.command.first and self.tile[0] == 0)

    @property
    def last(self) -> bool:
        """Whether the batch ends a row block."""
        command = self.run.command
        return bool(command.last and self.tile[-1] == command.tiles - 1)

    @cached_property
    def masked(self) -> BOOL:
        """Keys that the query of a column does not meet, [T, R, C]."""
        reg, (rows, columns) = self.run.registers, self.s.shape[1:]
        index = reg["first_key"] + self.tile[:, None] * rows + np.arange(rows)
        met = (index < reg["keys"])[:, :, None]
        if reg["causal"] or reg["window"]:
            position = reg["position"] + np.arange(columns) // reg["group"]
            behind = position - index[:, :, None]
            met = met & (behind >= 0) if reg["causal"] else met
            met = met & (behind < reg["window"]) if reg["window"] else met
        return np.broadcast_to(~met, self.s.shape)


class Blocks:
    """State of PEs and lanes; `execute` runs the blocks of a schedule over a batch.

    column: uint16 [C, column_words * n], shared with the load and store engines.
    """

    def __init__(self, machine: ArrayMachine, column: U16) -> None:
        rows, columns, tags = machine.rows, machine.columns, machine.tags
        sizes = machine.config.array
        self.machine, self.column = machine, column
        self.s = np.zeros((tags, rows, columns), np.float32)
        self.k = np.zeros((tags, columns), np.int64)
        self.mtop = np.zeros((tags, columns), np.float32)
        self.msnap = np.zeros((tags, columns), np.float32)
        self.m = np.zeros(columns, np.float32)
        self.l = np.zeros(columns, np.float32)
        self.acc = np.zeros((_SETS, columns, sizes.lane_words), np.float32)
        self.chunk = np.zeros((sizes.chunk_words, columns), np.float32)
        self.q = np.zeros(columns, np.int64)
        self.e = np.zeros(columns, np.int64)

    def execute(self, blocks: Sequence[Block], b: Tiles) -> None:
        """Run `blocks`, in this order, over the batch."""
        for name in ("s", "k", "mtop", "msnap"):
            setattr(b, name, getattr(self, name)[b.tag])
        for block in blocks:
            getattr(self, f"_{block.op}")(b, block.length)
        kept = slice(-self.machine.tags, None)
        for name in ("s", "k", "mtop", "msnap"):
            getattr(self, name)[b.tag[kept]] = getattr(b, name)[kept]

    # --- column bank --------------------------------------------------------------------------
    def _elements(self, b: Tiles, words: I64, length: int, register: str) -> I64:
        """Column bank elements [T, length] that begin at the bus words."""
        n = self.machine.bus_elements
        found = np.asarray(words)[:, None] * n + np.arange(length)
        if found.max() >= self.column.shape[1]:
            raise ProgramError(
                f"command {b.run.pc}: RUN touches bus word {found.max() // n} of the column banks "
                f"(register {register}), which have {self.machine.config.array.column_words}; SET "
                f"{register} so that {length} elements fit"
            )
        return found

    def _scores_at(self, b: Tiles) -> I64:
        """Elements of the scores, [T, R]."""
        reg = b.run.registers
        words = reg["s"] + b.tile % reg["s_ring"] * reg["s_step"]
        return self._elements(b, words, self.machine.rows, "s")

    def _read_scores(self, b: Tiles) -> U16:
        """[T, R, C]"""
        return self.column[:, self._scores_at(b)].transpose(1, 2, 0)

    def _write_scores(self, b: Tiles, bits: U16) -> None:
        """[T, R, C]"""
        self.column[:, self._scores_at(b)] = bits.transpose(2, 0, 1)

    # --- scores and probabilities in the PEs --------------------------------------------------
    def _qk(self, b: Tiles, length: int) -> None:
        at = self._elements(b, np.array([b.run.registers["q"]]), length, "q")[0]
        query = fp.decode(self.column[:, at], b.schedule.fmt).T  # [E, C]
        keys = np.ascontiguousarray(fp.decode(b.keys, b.schedule.fmt).transpose(2, 0, 1))
        b.s = fp.running_dot(keys[..., None], query[:, None, None, :])

    def _lm(self, b: Tiles, _length: int) -> None:
        b.s = np.where(b.masked, fp.MARKER, b.s)
        maximum = self._raise_maximum(b, b.s.max(axis=1))
        b.mtop = _ZERO - maximum

    def _raise_maximum(self, b: Tiles, x: F32) -> F32:
        """Running maxima [T, C] after tiles with maxima x [T, C]; sets the rescale steps."""
        start = np.full_like(self.m, fp.MARKER) if b.first else self.m
        through = np.maximum.accumulate(np.concatenate([start[None], fp.ceil32(x)]))
        b.k = fp.step(through[1:], through[:-1])
        self.m = through[-1]
        return through[1:]

    def _exp(self, b: Tiles, _length: int) -> None:
        # A maximum that is still the marker belongs to a column without any key so far.
        offset = np.where(np.isinf(b.mtop), _ZERO, b.mtop)[:, None]
        x = fp.fp32_add(np.where(b.masked, _ZERO, b.s), offset)
        b.s = np.where(b.masked, _ZERO, fp.exp2(*fp.exp2_split(x)))

    def _sld(self, b: Tiles, _length: int) -> None:
        ones = np.ones((self.machine.rows, 1, 1), np.float32)
        total = fp.running_dot(fp.to_tf32(b.s).transpose(1, 0, 2), ones)  # [T, C]
        self._sum_denominator(b, total[:, None], rescale=True)

    def _slnv(self, b: Tiles, length: int) -> None:
        p = fp.to_tf32(b.s).transpose(1, 0, 2)[..., None]  # [R, T, C, 1]
        values = fp.decode(b.values, b.schedule.fmt).transpose(1, 0, 2)[:, :, None]
        psum = fp.running_dot(p, values)  # [T, C, F]
        self._accumulate(b, psum, length)

    # --- lanes --------------------------------------------------------------------------------
    def _sum_denominator(self, b: Tiles, terms: F32, *, rescale: bool) -> None:
        """Add terms [T, J, C] to `l` in order, rescaled before each tile."""
        total = np.zeros_like(self.l) if b.first else self.l
        for i, tile in enumerate(terms):
            if rescale and (i or not b.first):
                total = fp.fp32_scale_down(total, b.k[i])
            for term in tile:
                total = fp.fp32_add(total, term)
        self.l = total

    def _accumulate(self, b: Tiles, psum: F32, length: int) -> None:
        if length > self.acc.shape[2]:
            raise ProgramError(
                f"command {b.run.pc}: RUN with a slnv block of {length} words, but a lane has "
                f"{self.acc.shape[2]} accumulators; split F or raise array.lane_words"
            )
        acc = self.acc[b.run.command.set][:, :length]
        correct = b.schedule.correct
        terms = fp.fp32_scale_down(psum, b.k[..., None]) if correct else psum
        for i, term in enumerate(terms):
            if i == 0 and b.first:
                old = np.zeros_like(acc)
            else:
                scaled = not correct and b.k[i].any()
                old = fp.fp32_scale_down(acc, b.k[i][:, None]) if scaled else acc
            acc = fp.fp32_add(old, term)
        self.acc[b.run.command.set][:, :length] = acc

    def _rcp(self, b: Tiles, _length: int) -> None:
        if b.last:
            self.q, self.e = fp.reciprocal(fp.denominator(self.l))

    def _one(self, b: Tiles, _length: int) -> None:
        if b.last:
            self.q, self.e = (np.full_like(self.q, value) for value in _UNIT)

    def _av(self, b: Tiles, length: int) -> None:
        if not b.last:
            return
        acc = self.acc[b.run.command.set][:, :length]
        if length > acc.shape[1]:
            raise ProgramError(
                f"command {b.run.pc}: RUN with an av block of {length} words, but a lane has "
                f"{acc.shape[1]} accumulators; split F or raise array.lane_words"
            )
        at = self._elements(b, np.array([b.run.registers["out"]]), length, "out")[0]
        result = fp.mulq(acc, self.q[:, None], self.e[:, None])
        self.column[:, at] = fp.round16(result, b.schedule.fmt)

    # --- scores and probabilities in the column banks -----------------------------------------
    def _drain(self, b: Tiles, _length: int) -> None:
        fmt = b.schedule.fmt
        bits = fp.score16(np.where(b.masked, fp.MARKER, b.s), fmt)
        self._write_scores(b, bits)
        x = fp.decode_score(bits, fmt).max(axis=1)
        if not b.schedule.chunked:
            start = np.full_like(self.m, fp.MARKER) if b.first else self.m
            self.m = np.maximum(start, fp.ceil32(x).max(axis=0))
            return
        b.msnap = self._raise_maximum(b, x)
        kept = b.tile < len(self.chunk)
        self.chunk[b.tile[kept]] = b.msnap[kept]

    def _passx(self, b: Tiles, _length: int) -> None:
        fmt, chunked = b.schedule.fmt, bool(b.schedule.chunked)
        x = fp.decode_score(self._read_scores(b), fmt)
        maximum = b.msnap[:, None] if chunked else self.m
        offset = _ZERO - np.where(np.isinf(maximum), _ZERO, maximum)
        known = np.where(np.isneginf(x), _ZERO, x)
        p = np.where(np.isneginf(x), np.uint16(0), fp.lane_exp2(fp.fp32_add(known, offset), fmt))
        self._write_scores(b, p)
        self._sum_denominator(b, fp.decode(p, fmt), rescale=chunked)

    def _passd(self, b: Tiles, _length: int) -> None:
        x = fp.decode(self._read_scores(b), b.schedule.fmt)
        self._write_scores(b, fp.round16(fp.mulq(x, self.q, self.e), b.schedule.fmt))

    def _fill(self, b: Tiles, _length: int) -> None:
        b.s = fp.decode(self._read_scores(b), b.schedule.fmt)
        if b.schedule.correct:
            if b.tile[-1] >= len(self.chunk):
                raise ProgramError(
                    f"command {b.run.pc}: RUN of {b.run.command.tiles} tiles, but a lane keeps the "
                    f"maxima of {len(self.chunk)}; split the RUN or raise array.chunk_words"
                )
            b.k = fp.step(self.m, self.chunk[b.tile])
        elif not b.schedule.chunked:
            b.k = np.zeros_like(b.k)
