"""Decode attention as programs of the `pim` engine.

`KvLayout` places the KV cache of a model in one rank, `append` writes tokens, `decode` builds the
software-pipelined kernel:
while the bank units work on the scores of chunk i+2 and the context of chunk i, the rank unit turns
the scores of chunk i+1
into probabilities (the bubble-free overlap of L3). Ref: docs/pim.md; arXiv 2504.17584 and ISCA
2026, section V.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.isa.machine import Machine
from bankside.isa.program import Builder, Program
from bankside.isa.spec import load_spec

U16 = NDArray[np.uint16]


@dataclass(frozen=True)
class Shape:
    """Attention of a model on one rank. max_tokens: context for which rows are reserved, per layer
    and KV head.
    """

    layers: int
    kv_heads: int
    query_heads: int
    head_dim: int
    max_tokens: int

    @property
    def group(self) -> int:
        """Query heads that share one KV head."""
        return self.query_heads // self.kv_heads


def _check_shape(shape: Shape) -> None:
    for name in ("layers", "kv_heads", "query_heads", "head_dim", "max_tokens"):
        if getattr(shape, name) < 1:
            raise ConfigError(
                f"attention shape: {name}={getattr(shape, name)}; expected at least 1"
            )
    if shape.query_heads % shape.kv_heads:
        raise ConfigError(
            f"attention shape: {shape.query_heads} query heads do not divide into "
            f"{shape.kv_heads} KV heads; use a multiple"
        )


@dataclass(frozen=True)
class KvLayout:
    """Placement of a KV cache: N_hc, columns per token, chunking, rows.

    Attributes
    ----------
    nhc: chips per head. heads: heads side by side (C / nhc). passes: head groups, one after the
    other.
    cpt: columns per token. row_slots: token slots per row and bank. chunk_slots: slots that one
    score chunk covers.
    rows_each: rows that K (or V) of one layer and head group takes.
    """

    machine: Machine
    shape: Shape
    nhc: int
    cpt: int
    row_slots: int
    chunk_slots: int
    rows_each: int

    @classmethod
    def of(
        cls, machine: Machine, shape: Shape, nhc: int | None = None, chunk_slots: int | None = None
    ) -> KvLayout:
        """Layout for `shape`. nhc None: as many heads side by side as the model has (fewest
        passes).

        Raises ConfigError when the rank or one of its buffers cannot hold it; the message says what
        would fit.
        """
        _check_shape(shape)
        nhc = nhc or max(1, machine.chips >> (shape.kv_heads.bit_length() - 1))
        if nhc < 1 or machine.chips % nhc:
            raise ConfigError(
                f"{machine.config.name}: N_hc={nhc} must be a power of two up to {machine.chips}"
            )
        bursts = -(-shape.head_dim // machine.burst_elements)
        cpt = bursts * machine.chips // nhc
        largest = min(machine.columns, load_spec("pim").commands["GEOM"].field_map["cpt"].maximum)
        if cpt > largest:
            raise ConfigError(
                f"{machine.config.name}: a token of head_dim {shape.head_dim} with N_hc={nhc} "
                f"takes {cpt} columns, at most "
                f"{largest} are possible; use a larger N_hc"
            )
        row_slots = machine.columns // cpt
        slots = _chunk_slots(machine, cpt, row_slots, min(shape.group, machine.lanes), chunk_slots)
        # No chunk goes on in the next row: slots that are left over at the end of a row stay empty.
        row_slots = row_slots // slots * slots
        rows_each = -(-shape.max_tokens // (row_slots * machine.banks))
        layout = cls(machine, shape, nhc, cpt, row_slots, slots, rows_each)
        layout._check_capacity()
        return layout

    def _check_capacity(self) -> None:
        per_row = 2 * self.shape.layers * self.passes
        if per_row * self.rows_each > self.machine.rows:
            fits = self.machine.rows // per_row * self.row_slots * self.machine.banks
            raise ConfigError(
                f"{self.machine.config.name}: a context of {self.shape.max_tokens} tokens needs "
                f"{per_row * self.rows_each} rows "
                f"per bank, the rank has {self.machine.rows}; {fits} tokens fit: shorten "
                f"max_tokens or raise dram.rows"
            )

    @property
    def heads(self) -> int:
        return self.machine.chips // self.nhc

    @property
    def passes(self) -> int:
        return -(-self.shape.kv_heads // self.heads)

    @property
    def padded_dim(self) -> int:
        return self.cpt * self.machine.elements * self.nhc

    @property
    def lane_passes(self) -> int:
        return -(-self.shape.group // self.machine.lanes)

    @property
    def row_tokens(self) -> int:
        """Tokens in one row of all banks."""
        return self.row_slots * self.machine.banks

    def row(self, layer: int, head_pass: int, value: bool) -> int:
        """First row of K (or V) of a layer's head group."""
        return ((layer * self.passes + head_pass) * 2 + value) * self.rows_each

    def bubble_free(
        self, bank_bytes_per_s: float, rank_bytes_per_s: float, result_bytes: int = 4
    ) -> float:
        """Largest N_hc without bubbles, eq. 1 of the paper with `result_bytes` per score instead of
        one element of 2 bytes.
        """
        mc, group = self.machine, self.shape.group
        compute = self.shape.head_dim * rank_bytes_per_s * -(-group // mc.lanes)
        return compute / (bank_bytes_per_s * mc.banks * group * mc.chips) * 2 / result_bytes


def _chunk_slots(machine: Machine, cpt: int, row_slots: int, lanes: int, wanted: int | None) -> int:
    """Slots per chunk: as many as every buffer can hold twice (double buffering).

    All slots of the row, or else a power of two.
    """
    size, s = machine.sizes, machine.slots_per_burst
    # Context sums of all lanes at once; K and V of a new token beside the queries of all lanes.
    for name, needed in (("score_words", 2 * lanes * cpt), ("staging_words", (2 + lanes) * cpt)):
        if needed > size[name]:
            raise ConfigError(
                f"{machine.config.name}: pim.{name} is {size[name]}, but {cpt} columns per token "
                f"and {lanes} lanes need "
                f"{needed}; raise it or use a larger N_hc"
            )
    limits = {
        "pim.score_words": size["score_words"] // 2 // (lanes * machine.banks) * s,
        "pim.probability_words": (size["probability_words"] // 2 // lanes - 1) // machine.subbanks,
        "pim.shared_buffer_words": (size["shared_buffer_words"] - _aligned(cpt, machine.subbanks))
        // 2
        // machine.subbanks,
        "pim.result_buffer_words": (size["result_buffer_words"] - cpt) // 2 * machine.elements,
        "row": row_slots,
    }
    for name, limit in limits.items():
        if limit < 1 or (limit < s and name != "row"):
            raise ConfigError(
                f"{machine.config.name}: {name} is too small for {cpt} columns per token and "
                f"{lanes} lanes; "
                f"double it or use a larger N_hc"
            )
    # Buffers are used in whole groups of S slots.
    room = min(limit // s * s for name, limit in limits.items() if name != "row")
    slots = min(room, wanted or row_slots)
    return row_slots if slots >= row_slots else 1 << (slots.bit_length() - 1)


def _aligned(value: int, step: int) -> int:
    return -(-value // step) * step


class PimKernels:
    """Programs for one rank: append tokens, attend to them.

    open_mode: how the attention kernel opens a row in all banks: `staggered` (one ACT per bank),
    `group` or `all`.
    """

    def __init__(self, layout: KvLayout, *, open_mode: str = "staggered") -> None:
        self.layout = layout
        self.open_mode = open_mode
        self.machine = layout.machine

    # --- KV append --------------------------------------------------------------------------------
    # ---------------------------
    def append(self, layer: int, first_token: int, k: U16, v: U16) -> list[Program]:
        """Programs that store tokens first_token.. of a layer. k, v: FP16 bits [tokens, kv_heads,
        head_dim].
        """
        programs = []
        per_program = max(1, self.machine.config.pim.program_words // 16 - 2)
        for head_pass in range(self.layout.passes):
            for start in range(0, len(k), per_program):
                part = slice(start, start + per_program)
                builder = self._builder(1)
                for offset, (key, value) in enumerate(zip(k[part], v[part], strict=True)):
                    last = offset + 1 == len(k[part])
                    self._append_token(
                        builder, layer, head_pass, first_token + start + offset, key, value, last
                    )
                programs.append(builder.build())
        return programs

    def _builder(self, lanes: int) -> Builder:
        builder = Builder("pim", self.machine.burst_elements)
        lay = self.layout
        builder.GEOM(nhc_log2=lay.nhc.bit_length() - 1, cpt=lay.cpt, lanes=lanes)
        return builder

    def _pad_heads(self, x: U16, head_pass: int) -> U16:
        """[.., kv_heads, head_dim] -> [.., heads of the pass, padded dimension], zero where there
        is nothing.
        """
        lay = self.layout
        first = head_pass * lay.heads
        taken = x[..., first : first + lay.heads, :]
        out = np.zeros((*x.shape[:-2], lay.heads, lay.padded_dim), np.uint16)
        out[..., : taken.shape[-2], : lay.shape.head_dim] = taken
        return out

    def _append_token(
        self,
        b: Builder,
        layer: int,
        head_pass: int,
        token: int,
        key: U16,
        value: U16,
        last: bool = True,
    ) -> None:
        """K, then V: staged through the two halves of the input staging, written to the token's
        bank.

        Nothing waits for the writes of the last token, so they give no tokens back: a kernel can be
        repeated for ever.
        """
        lay, mc = self.layout, self.machine
        row_index, within = divmod(token, lay.row_tokens)
        slot, bank = divmod(within, mc.banks)
        if row_index >= lay.rows_each:
            raise ConfigError(
                f"token {token} lies beyond the context of {lay.shape.max_tokens} tokens; raise "
                f"max_tokens"
            )
        for is_value, data in ((False, key), (True, value)):
            stage = is_value * lay.cpt
            # The staging half is free again when the write that used it has given its token back.
            wait = {"wait": "array"} if self._staged(b) >= 2 else {}
            b.send(
                self._pad_heads(data, head_pass), stage=stage, layout="head", signal="array", **wait
            )
            b.OPEN(mode="bank", bank=bank, row=lay.row(layer, head_pass, is_value) + row_index)
            back = {} if last else {"signal": "host"}
            b.WR(bank=bank, col=slot * lay.cpt, count=lay.cpt, stage=stage, wait="host", **back)
            b.CLOSE(mode="bank", bank=bank)

    @staticmethod
    def _staged(b: Builder) -> int:
        return len(b.host_in)

    # --- attention --------------------------------------------------------------------------------
    # ---------------------------
    def decode(
        self, layer: int, tokens: int, q: U16, k: U16 | None = None, v: U16 | None = None
    ) -> list[Program]:
        """Programs for one query per head over tokens 0..tokens-1; output bursts are called "o".

        q: FP16 bits [query_heads, head_dim], already scaled. k, v [kv_heads, head_dim]: the newest
        token (tokens - 1), appended
        first. One program per head group and per group of query lanes.
        """
        lay = self.layout
        if not 1 <= tokens <= lay.shape.max_tokens:
            raise ConfigError(
                f"context of {tokens} tokens; this layout holds 1..{lay.shape.max_tokens}"
            )
        programs = []
        for head_pass in range(lay.passes):
            for lane_pass in range(lay.lane_passes):
                queries = self._queries(q, head_pass, lane_pass)
                b = self._builder(len(queries))
                if k is not None and v is not None and lane_pass == 0:
                    self._append_token(b, layer, head_pass, tokens - 1, k, v)
                    b.BARRIER()
                _Attention(self, b, layer, head_pass, tokens, queries).emit()
                programs.append(b.build())
                self._check_length(programs[-1], tokens)
        return programs

    def _check_length(self, program: Program, tokens: int) -> None:
        room = self.machine.config.pim.program_words
        if len(program.words) > room:
            raise ConfigError(
                f"{self.machine.config.name}: {tokens} tokens in chunks of "
                f"{self.layout.chunk_slots} "
                f"slots take {len(program.words)} commands, the program memory holds {room}; use "
                f"larger chunks or raise pim.program_words"
            )

    def _queries(self, q: U16, head_pass: int, lane_pass: int) -> U16:
        """[lanes, heads, padded dimension] of one pass."""
        lay = self.layout
        grouped = q.reshape(lay.shape.kv_heads, lay.shape.group, lay.shape.head_dim).transpose(
            1, 0, 2
        )
        first = lane_pass * self.machine.lanes
        return self._pad_heads(grouped[first : first + self.machine.lanes], head_pass)

    def collect(self, outputs: list[U16]) -> U16:
        """Output bursts of `decode`'s programs -> FP16 bits [query_heads, head_dim]."""
        lay, passes = self.layout, iter(outputs)
        out = np.zeros((lay.shape.group, lay.shape.kv_heads, lay.shape.head_dim), np.uint16)
        for head_pass in range(lay.passes):
            for lane_pass in range(lay.lane_passes):
                part = next(passes).reshape(-1, lay.heads, lay.padded_dim)
                lane, head = lane_pass * self.machine.lanes, head_pass * lay.heads
                count = min(lay.heads, lay.shape.kv_heads - head)
                out[lane : lane + len(part), head : head + count] = part[
                    :, :count, : lay.shape.head_dim
                ]
        return out.transpose(1, 0, 2).reshape(lay.shape.query_heads, lay.shape.head_dim)


class _Attention:
    """Emits the attention kernel of one head group and lane group."""

    def __init__(
        self, kernels: PimKernels, b: Builder, layer: int, head_pass: int, tokens: int, queries: U16
    ) -> None:
        lay, mc = kernels.layout, kernels.machine
        self.lay, self.mc, self.b, self.queries, self.lanes = lay, mc, b, queries, len(queries)
        self.k_row, self.v_row = lay.row(layer, head_pass, False), lay.row(layer, head_pass, True)
        self.tokens, self.open_mode = tokens, kernels.open_mode
        self.chunk_tokens = lay.chunk_slots * mc.banks
        self.chunks = -(-tokens // self.chunk_tokens)
        self.per_row = lay.row_slots // lay.chunk_slots
        # A chunk as the buffers see it: slots in whole groups of S.
        self.full_groups = -(-lay.chunk_slots // mc.slots_per_burst)
        slots = self.full_groups * mc.slots_per_burst
        self.sb_query = 0
        self.sb_prob = [_aligned(lay.cpt, mc.subbanks) + i * slots * mc.subbanks for i in range(2)]
        self.rb_score = [lay.cpt + i * -(-slots // mc.elements) for i in range(2)]
        self.score = [i * (mc.sizes["score_words"] // 2) for i in range(2)]
        self.prob = [i * (mc.sizes["probability_words"] // 2) for i in range(2)]

    def emit(self) -> None:
        b, lay = self.b, self.lay
        b.send(self.queries, stage=2 * lay.cpt, layout="head", signal="buffer")
        b.WRSBQ(stage=2 * lay.cpt, sb=self.sb_query, count=lay.cpt, wait="host", signal="array")
        b.SETA(areg=0, value=0)
        self._scores(0)
        if self.chunks > 1:
            self._scores(1)
        self._read_scores(0)
        self._steps()
        last = self.score[self.chunks % 2]
        if self.lanes * lay.cpt * 2 > self.mc.sizes["score_words"] // 2:
            last = 0
        b.RDRBC(rb=0, score=last, count=lay.cpt, wait="array", signal="rank")
        b.NORM(score=last, out=0, count=lay.cpt, wait="buffer", signal="host")
        b.receive("o", self.lanes * lay.cpt, out=0, layout="head", wait="rank")

    def _steps(self) -> None:
        """Step i: scores of chunk i+2 and context of chunk i in the banks, chunk i+1 in the rank
        unit.

        Steps 1 .. chunks-4 differ only in rows and double buffers, so they become a loop over their
        common period.
        """
        period = math.lcm(2, self.per_row)
        loops = max(0, self.chunks - 4) // period
        self._step(0)
        start = 1
        if loops > 1:
            self.b.LOOP(count=loops)
            for i in range(start, start + period):
                self._step(i)
            self.b.ADDA(areg=0, value=period // self.per_row)
            self.b.ENDLOOP()
            # Later rows are given from the register's value after the loop.
            self.b.SETA(areg=0, value=0)
            start += loops * period
        for i in range(start, self.chunks):
            self._step(i)

    def _step(self, i: int) -> None:
        if i + 1 < self.chunks:
            self._read_scores(i + 1)
        self._send_probabilities(i)
        if i + 2 < self.chunks:
            self._scores(i + 2)
        self._context(i)

    # --- one chunk --------------------------------------------------------------------------------
    # ---------------------------
    def _slots(self, chunk: int) -> int:
        left = self.tokens - chunk * self.chunk_tokens
        return min(self.lay.chunk_slots, -(-left // self.mc.banks))

    def _groups(self, chunk: int) -> int:
        return -(-self._slots(chunk) // self.mc.slots_per_burst)

    def _valid(self, chunk: int) -> int:
        return min(self.chunk_tokens, self.tokens - chunk * self.chunk_tokens)

    def _open(self, base: int, chunk: int) -> int:
        row, part = divmod(chunk, self.per_row)
        self.b.OPEN(mode=self.open_mode, row=base + row, areg_en=1, areg=0)
        return part * self.lay.chunk_slots * self.lay.cpt

    def _scores(self, chunk: int) -> None:
        b, lay = self.b, self.lay
        col = self._open(self.k_row, chunk)
        b.WRR(mode="tree", sb=self.sb_query, rb=self.rb_score[chunk % 2], cpt=lay.cpt)
        # Chunk 0 waits for the query, chunk 2 for the read-out of chunk 0. From chunk 3 on the
        # probabilities that the context
        # of chunk i-3 waits for are sent after the read-out of chunk i-2, so that no further token
        # is needed.
        wait = {"wait": "buffer"} if chunk in (0, 2) else {}
        b.MAC(col=col, count=self._slots(chunk) * lay.cpt, signal="buffer", **wait)
        b.CLOSE(mode="all")

    def _read_scores(self, chunk: int) -> None:
        groups, valid, half = self._groups(chunk), self._valid(chunk), chunk % 2
        signal = ("rank", "array") if chunk == 0 and self.chunks > 2 else ("rank",)
        self.b.RDRBS(
            rb=self.rb_score[half],
            score=self.score[half],
            groups=groups,
            buf=half,
            valid=valid,
            wait="array",
            signal=signal,
        )
        self.b.SFM(
            score=self.score[half],
            prob=self.prob[half],
            groups=groups,
            buf=half,
            valid=valid,
            first=int(chunk == 0),
            wait="buffer",
            signal="buffer",
        )

    def _send_probabilities(self, chunk: int) -> None:
        # The shared-buffer half is free when the context of chunk - 2 is done. The read-out of
        # chunk + 1, which comes first,
        # waits for later work of the array; only the last chunk has no such read-out.
        half = chunk % 2
        wait = ("rank", "array") if 2 <= chunk == self.chunks - 1 else ("rank",)
        self.b.WRSBP(
            prob=self.prob[half],
            sb=self.sb_prob[half],
            kbuf=half,
            groups=self._groups(chunk),
            wait=wait,
            signal="array",
        )

    def _context(self, chunk: int) -> None:
        b, lay, half = self.b, self.lay, chunk % 2
        col = self._open(self.v_row, chunk)
        b.WRR(mode="acc", kbuf=half, rescale=1, sb=self.sb_prob[half], rb=0, cpt=lay.cpt)
        signal = {"signal": "buffer"} if chunk in (self.chunks - 3, self.chunks - 1) else {}
        b.MAC(col=col, count=self._slots(chunk) * lay.cpt, wait="buffer", **signal)
        b.CLOSE(mode="all")
