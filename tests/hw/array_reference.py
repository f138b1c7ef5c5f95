"""What words do to the datapath of the `array` engine.

`Reference` applies the table of docs/array.md section 3 word by word, at once and without any
latency, on plain lists: it equals the machine wherever words keep the distances of that section.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from bankside.isa import numerics_array as ref
from bankside.isa.numerics import fp32_add, fp32_scale_down, reciprocal

sys.path.insert(0, str(Path(__file__).parent))
from array_player import Setup, Tile, Word  # noqa: E402


class Reference:
    """The table of docs/array.md section 3, one word at a time."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.machine = setup, setup.machine
        tags = range(self.machine.tags)
        self.columns = [list(bank) for bank in setup.columns]
        self.score = [[[0] * self.machine.columns for _ in range(self.machine.rows)] for _ in tags]
        self.lanes = [_Lane(self, c) for c in range(self.machine.columns)]

    def run(self, words: Iterable[Word]) -> list[list[int]]:
        """Column banks after `words`."""
        for word in sorted(words, key=lambda w: w.at):
            for lane in self.lanes:
                getattr(self, "_" + word.op)(word.tile, word.j, lane)
        return self.columns

    def element(self, bank: list[int], base: int, j: int) -> int:
        return (
            bank[base + j // self.machine.bus_elements] >> 16 * (j % self.machine.bus_elements)
            & 0xFFFF
        )

    def put(self, lane: "_Lane", base: int, j: int, value: int) -> None:
        bank, place = self.columns[lane.c], base + j // self.machine.bus_elements
        low = 16 * (j % self.machine.bus_elements)
        bank[place] = bank[place] & ~(0xFFFF << low) | value << low

    def row(self, r: int, base: int, j: int) -> int:
        return ref.decode(self.element(self.setup.rows[r], base, j), self.setup.format)

    def column(self, lane: "_Lane", base: int, j: int) -> int:
        return self.element(self.columns[lane.c], base, j)

    def _qk(self, tile, j, lane):
        query = ref.decode(self.column(lane, tile.q, j), self.setup.format)
        for r, scores in enumerate(self.score[tile.tag]):
            old = scores[lane.c] if j else 0
            scores[lane.c] = ref.fp32_mac(old, self.row(r, tile.k, j), query)

    def _lm(self, tile, j, lane):
        x = ref.MARKER
        for r, scores in enumerate(self.score[tile.tag]):
            if not tile.met(r, lane.c):
                scores[lane.c] = ref.MARKER
            x = ref.fp32_max(x, scores[lane.c])
        lane.maximum(tile, ref.ceil32(x), tile.first)

    def _exp(self, tile, j, lane):
        if j != 6:
            return
        for scores in self.score[tile.tag]:
            s = scores[lane.c]
            less = fp32_add(s, ref.negate(lane.m))
            pair = ref.exp2_split(ref.MARKER if s == ref.MARKER else less)
            scores[lane.c] = ref.exp2(*pair)

    def _weighted(self, tile, lane, factors):
        total = 0
        for scores, factor in zip(self.score[tile.tag], factors, strict=True):
            total = ref.fp32_mac(total, ref.to_tf32(scores[lane.c]), factor)
        return total

    def _sld(self, tile, j, lane):
        psum = self._weighted(tile, lane, [ref.ONE] * self.machine.rows)
        old = 0 if tile.first else fp32_scale_down(lane.l, lane.k[tile.tag])
        lane.l = fp32_add(old, psum)

    def _slnv(self, tile, j, lane):
        values = [self.row(r, tile.v, j) for r in range(self.machine.rows)]
        psum, k = self._weighted(tile, lane, values), lane.k[tile.tag]
        old = 0 if tile.first else lane.acc.get((tile.set, j), 0)
        if self.setup.correct:
            psum = fp32_scale_down(psum, k)
        else:
            old = fp32_scale_down(old, k)
        lane.acc[tile.set, j] = fp32_add(old, psum)

    def _drain(self, tile, j, lane):
        met, fmt = tile.met(j, lane.c), self.setup.format
        bits = ref.score16(self.score[tile.tag][j][lane.c] if met else ref.MARKER, fmt)
        self.put(lane, tile.s, j, bits)
        x = ref.ceil32(ref.decode_score(bits, fmt))
        if not self.setup.chunked:
            lane.m = ref.fp32_max(ref.MARKER if tile.first and j == 0 else lane.m, x)
            return
        lane.t = x if j == 0 else ref.fp32_max(lane.t, x)
        if j == self.machine.rows - 1:
            lane.maximum(tile, lane.t, tile.first)
            lane.snap[tile.tag] = lane.chunk[tile.chunk] = lane.m

    def _passx(self, tile, j, lane):
        setup = self.setup
        score = ref.decode_score(self.column(lane, tile.s, j), setup.format)
        most = lane.snap[tile.tag] if setup.chunked else lane.m
        less = ref.MARKER if score == ref.MARKER else fp32_add(score, ref.negate(most))
        p = ref.lane_exp2(less, setup.format)
        self.put(lane, tile.s, j, p)
        old = lane.l
        if j == 0 and tile.first:
            old = 0
        elif j == 0 and setup.chunked:
            old = fp32_scale_down(old, lane.k[tile.tag])
        lane.l = fp32_add(old, ref.decode(p, setup.format))

    def _passd(self, tile, j, lane):
        x = ref.decode(self.column(lane, tile.s, j), self.setup.format)
        self.put(lane, tile.s, j, ref.round16(ref.mulq(x, *lane.qe), self.setup.format))

    def _fill(self, tile, j, lane):
        self.score[tile.tag][j][lane.c] = ref.decode(
            self.column(lane, tile.s, j), self.setup.format
        )
        if j == 0 and self.setup.correct:
            lane.k[tile.tag] = ref.step(lane.m, lane.chunk[tile.chunk])
        elif j == 0 and not self.setup.chunked:
            lane.k[tile.tag] = 0

    def _rcp(self, tile, j, lane):
        lane.qe = reciprocal(ref.denominator(lane.l))

    def _one(self, tile, j, lane):
        lane.qe = (1 << 25, 24)

    def _av(self, tile, j, lane):
        x = ref.mulq(lane.acc[tile.set, j], *lane.qe)
        self.put(lane, tile.out, j, ref.round16(x, self.setup.format))


class _Lane:
    def __init__(self, owner: Reference, c: int) -> None:
        self.c, self.m, self.l, self.t = c, ref.MARKER, 0, 0
        tags = owner.machine.tags
        self.k, self.snap = [0] * tags, [0] * tags
        self.chunk: dict[int, int] = {}
        self.acc: dict[tuple[int, int], int] = {}
        self.qe = (0, 0)

    def maximum(self, tile: Tile, x: int, first: bool) -> None:
        old = ref.MARKER if first else self.m
        self.m = ref.fp32_max(old, x)
        self.k[tile.tag] = ref.step(self.m, old)
