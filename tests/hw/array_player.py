"""Words for the datapath of the `array` engine and a player for them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from bankside.config_array import ArrayConfig, ArrayHardware
from bankside.hw.array.datapath import Datapath
from bankside.hw.array.words import LaneOp, PeOp, TopOp
from bankside.hw.lib.testing import simulate
from bankside.isa import numerics_array as ref
from bankside.isa.array_machine import ArrayMachine
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


def play(setup: Setup, words: Iterable[Word], watch=None) -> list[list[int]]:
    """Column banks after `words`; `watch(ctx, dut, cycle)` is called in every cycle of them."""
    return play_all([(setup, words)], watch)[0]


def play_all(cases: list[tuple[Setup, Iterable[Word]]], watch=None) -> list[list[list[int]]]:
    """`play` of several cases on one machine, one after the other."""
    machine = cases[0][0].machine
    dut, found = Datapath(machine), []

    async def bench(ctx):
        for setup, words in cases:
            issued = issue(machine, words)
            ctx.set(dut.mode, {f: getattr(setup, f) for f in ("format", "chunked", "correct")})
            await load(ctx, dut, setup)
            for cycle in range(max(issued) + machine.settle + 1):
                # A word issued in this cycle is in the word register in the next one.
                ctx.set(dut.word, issued.get(cycle - 1, {}))
                if watch:
                    await watch(ctx, dut, cycle)
                await ctx.tick()
            found.append(await store(ctx, dut, machine))

    simulate(dut, bench, limit=100_000)
    return found


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
