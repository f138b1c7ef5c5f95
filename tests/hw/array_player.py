"""Words for the datapath of the `array` engine, a player for them and what they should do.

`Reference` applies the table of docs/array.md section 3 word by word, at once and without any
latency, on plain lists: it equals the machine wherever words keep the distances of that section.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from random import Random

from bankside.config_array import ArrayConfig, ArrayHardware
from bankside.hw.array.datapath import Datapath
from bankside.hw.array.words import LaneOp, PeOp, TopOp
from bankside.hw.lib.testing import simulate
from bankside.isa import numerics_array as ref
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.numerics import fp32_add, fp32_scale_down, reciprocal
from bankside.isa.numerics_array_vectors import fp32_of

BIG = 1 << 20


def make_machine(rows: int, columns: int, **options) -> ArrayMachine:
    """A small machine; `options` are those of `ArrayConfig`."""
    small = {"bus_bytes": 8, "row_words": 20, "column_words": 23, "lane_words": 9,
             "chunk_words": 8}  # fmt: skip
    array = ArrayConfig(rows=rows, columns=columns, **(small | options))
    return ArrayMachine.of(ArrayHardware(name="small", engine="array", array=array))


@dataclass(frozen=True)
class Tile:
    """Operands of the words of one iteration."""

    tag: int = 0
    q: int = 0
    k: int = 0
    v: int = 0
    s: int = 0
    out: int = 0
    first: bool = False
    set: int = 0
    chunk: int = 0
    limit: int = BIG
    position: int = 0
    window: int = 0
    causal: int = 0
    group: int = 1

    def met(self, row: int, column: int) -> bool:
        """Whether row and column are not masked."""
        position = self.position + column // self.group
        inside = not self.window or row > position - self.window
        return row <= self.limit and (not self.causal or row <= position) and inside


@dataclass(frozen=True)
class Word:
    """Word `j` of block `op`, issued in cycle `at`."""

    at: int
    op: str
    j: int
    tile: Tile
    last: bool = False


LENGTHS = {"lm": 1, "exp": 7, "sld": 1, "rcp": 1, "one": 1}


def block(at: int, op: str, tile: Tile, length: int = 0) -> list[Word]:
    """The words of a whole block that begins in cycle `at`."""
    length = LENGTHS.get(op, length)
    return [Word(at + j, op, j, tile, j == length - 1) for j in range(length)]


def parts(machine: ArrayMachine, word: Word) -> dict[str, dict]:
    """Fields of `word_layout` that the word sets."""
    n, j, tile = machine.bus_elements, word.j, word.tile
    pe = {"tag": tile.tag}
    lane = {"tag": tile.tag, "first": tile.first, "begin": j == 0, "chunk": tile.chunk}
    masks = {f: getattr(tile, f) for f in ("limit", "position", "window", "causal", "group")}

    def read(base):
        return {"read": j % n == 0, "address": base + j // n, "element": j % n}

    def top(op, **fields):
        return {"op": op, "tag": tile.tag, **fields}

    element = {"element": tile.s * n + j}
    return {
        "qk": lambda: {
            "pe": pe | {"op": PeOp.QK, "first": j == 0},
            "row": read(tile.k),
            "top": top(TopOp.QUERY, **read(tile.q)),
        },
        "lm": lambda: {
            "pe": pe | {"op": PeOp.LM},
            "top": top(TopOp.BOUNDS, **masks),
            "lane": lane | {"op": LaneOp.MAX},
        },
        "exp": lambda: {
            "pe": pe | {"op": PeOp.EXP if j else PeOp.SUB, "first": j == 1, "last": j == 6},
            "top": top(TopOp.COEFFICIENT, coefficient=j) if j else top(TopOp.MAXIMUM),
        },
        "sld": lambda: {
            "pe": pe | {"op": PeOp.SUM},
            "row": {"one": 1},
            "lane": lane | {"op": LaneOp.DENOMINATOR},
        },
        "slnv": lambda: {
            "pe": pe | {"op": PeOp.SUM},
            "row": read(tile.v),
            "lane": lane | {"op": LaneOp.ACCUMULATE, "set": tile.set, "index": j},
        },
        "drain": lambda: {
            "pe": pe | {"op": PeOp.DRAIN, "select": j},
            "top": top(TopOp.UNMASKED, row=j, **masks),
            "lane": lane | {"op": LaneOp.SCORE, "end": word.last} | element,
        },
        "passx": lambda: {
            "top": top(TopOp.SCORE, **read(tile.s)),
            "lane": lane | {"op": LaneOp.EXP} | element,
        },
        "passd": lambda: {
            "top": top(TopOp.NUMBER, **read(tile.s)),
            "lane": lane | {"op": LaneOp.DIVIDE} | element,
        },
        "fill": lambda: {
            "pe": pe | {"op": PeOp.FILL, "select": j},
            "top": top(TopOp.FILL, **read(tile.s)),
            "lane": lane | {"op": LaneOp.NOP if j else LaneOp.STEP},
        },
        "rcp": lambda: {"lane": {"op": LaneOp.RECIPROCAL}},
        "one": lambda: {"lane": {"op": LaneOp.ONE}},
        "av": lambda: {
            "lane": {
                "op": LaneOp.RESULT,
                "set": tile.set,
                "index": j,
                "element": tile.out * n + j,
            }
        },
    }[word.op]()


def issue(machine: ArrayMachine, words: Iterable[Word]) -> dict[int, dict]:
    """Cycle -> fields of the word; the lane part of one word may join the PE part of another."""
    found: dict[int, dict] = {}
    for word in words:
        into = found.setdefault(word.at, {})
        for name, fields in parts(machine, word).items():
            assert name not in into, f"two words want {name} in cycle {word.at}"
            into[name] = fields
    return found


@dataclass
class Setup:
    """Mode and contents of the banks; banks hold lists of bus words (ints)."""

    machine: ArrayMachine
    format: int = 0
    chunked: int = 0
    correct: int = 0
    rows: list[list[int]] = field(default_factory=list)
    columns: list[list[int]] = field(default_factory=list)

    @classmethod
    def random(cls, machine: ArrayMachine, rng: Random, spread: float = 1.0, **mode) -> "Setup":
        """Every element of every bank a number of standard deviation `spread`."""
        fmt, n = mode.get("format", 0), machine.bus_elements

        def bank(depth):
            return [
                sum(ref.round16(fp32_of(rng.gauss(0, spread)), fmt) << 16 * i for i in range(n))
                for _ in range(depth)
            ]

        array = machine.config.array
        rows = [bank(array.row_words) for _ in range(array.rows)]
        columns = [bank(array.column_words) for _ in range(array.columns)]
        return cls(machine, **mode, rows=rows, columns=columns)


async def load(ctx, dut: Datapath, setup: Setup) -> None:
    """Fill the banks through the ports of the load engine, both sides at once."""
    sides = [(dut.row_write, setup.rows), (dut.column_write, setup.columns)]
    writes = [
        [(i, *item) for i, bank in enumerate(b) for item in enumerate(bank)] for _, b in sides
    ]
    for cycle in range(max(map(len, writes)) + 1):
        for (port, _), found in zip(sides, writes, strict=True):
            fields = ("bank", "address", "data")
            now = found[cycle] if cycle < len(found) else (0, 0, 0)
            ctx.set(port, {"en": cycle < len(found), **dict(zip(fields, now, strict=True))})
        await ctx.tick()


async def store(ctx, dut: Datapath, machine: ArrayMachine) -> list[list[int]]:
    """All column banks, read through the port of the store engine."""
    found = []
    for bank in range(machine.columns):
        words = []
        for address in range(machine.config.array.column_words):
            ctx.set(dut.column_read, {"en": 1, "bank": bank, "address": address})
            await ctx.tick()
            words.append(ctx.get(dut.column_data))
        found.append(words)
    return found


def play(setup: Setup, words: Iterable[Word], watch=None, dut=None) -> list[list[int]]:
    """Column banks after `words`; `watch(ctx, dut, cycle)` is called in every cycle of them."""
    machine = setup.machine
    dut = dut or Datapath(machine)
    issued = issue(machine, words)
    found = []

    async def bench(ctx):
        ctx.set(dut.mode, {f: getattr(setup, f) for f in ("format", "chunked", "correct")})
        await load(ctx, dut, setup)
        for cycle in range(max(issued) + machine.settle + 1):
            # A word issued in this cycle is in the word register in the next one.
            ctx.set(dut.word, issued.get(cycle - 1, {}))
            if watch:
                await watch(ctx, dut, cycle)
            await ctx.tick()
        found.extend(await store(ctx, dut, machine))

    simulate(dut, bench, limit=100_000)
    return found


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


class Line:
    """Places blocks one after the other."""

    def __init__(self, machine: ArrayMachine) -> None:
        self.machine, self.words, self.now = machine, [], 0

    def add(self, op: str, tile: Tile, length: int = 0, wait: int = 0) -> None:
        """The block after all others, `wait` cycles later than it could come."""
        words = block(self.now + wait, op, tile, length)
        self.words += words
        self.now = words[-1].at + 1

    def alongside(self, op: str, tile: Tile, length: int, end: int) -> None:
        """A lane block whose last word shares cycle `end` - 1."""
        self.words += block(end - length, op, tile, length)


__all__ = ["Line", "Reference", "Setup", "Tile", "block", "make_machine", "play", "replace"]
