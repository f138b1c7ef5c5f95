"""Attention programs of the `array` engine for one row block, written out by hand.

One query per column; keys and values of a tile lie side by side in the row banks. The kernels run
their blocks one after the other, with the distances that the machine needs.
"""

from dataclasses import dataclass, field

import numpy as np

from bankside.config_array import ArrayConfig, ArrayHardware, MemoryConfig
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_schedule import Block, Schedule, check, distances, fixed_length
from bankside.isa.program import Builder, Program

# Kernels of a row block: operations, then the flags of KERNEL. The last one ends with `av`.
KERNELS = {
    "one pass": [(("qk", "lm", "exp", "sld", "slnv", "rcp", "av"), {})],
    "one pass, scores drained": [
        (("qk", "drain", "passx", "fill", "slnv", "rcp", "av"), {"chunked": True})
    ],
    "two passes": [
        (("qk", "drain", "passx", "rcp"), {"chunked": True}),
        (("fill", "slnv", "av"), {"correct": True}),
    ],
    "three passes": [
        (("qk", "drain"), {}),
        (("passx", "rcp"), {}),
        (("passd", "fill", "slnv", "one", "av"), {}),
    ],
    "three passes, division deferred": [
        (("qk", "drain"), {}),
        (("passx", "fill", "slnv", "rcp", "av"), {}),
    ],
}


def machine_of(rows: int, columns: int, **sizes) -> ArrayMachine:
    """A machine of any size; `bytes`: of main memory."""
    memory = MemoryConfig(bytes=sizes.pop("bytes", 1 << 24))
    array = ArrayConfig(rows=rows, columns=columns, **sizes)
    return ArrayMachine.of(ArrayHardware(name="test", engine="array", array=array, memory=memory))


def sequential(machine: ArrayMachine, ops, lengths: dict[str, int], **flags) -> Schedule:
    """Blocks one after the other, an iteration per pass."""
    length = {op: fixed_length(op, machine) or lengths[op] for op in ops}
    rules = distances(length, machine, flags.get("chunked", False))
    begin: dict[str, int] = {}
    for op in ops:
        after = [begin[r.first] + r.slots for r in rules
                 if r.second == op and r.first in begin and not r.later]  # fmt: skip
        free = [begin[other] + length[other] for other in begin]
        begin[op] = max([0, *after, *free])
    last = max(begin[op] + length[op] for op in ops)
    blocks = tuple(Block(op, begin[op], length[op]) for op in ops)
    schedule = Schedule(last, blocks, **flags).marked()
    check(schedule, machine)
    return schedule


def padded(x: np.ndarray, machine: ArrayMachine, rows: int = 0) -> np.ndarray:
    """[k, d] -> [at least rows, whole bus words], zeros behind."""
    out = np.zeros((max(len(x), rows), machine.words(x.shape[1]) * machine.bus_elements), np.uint16)
    out[: len(x), : x.shape[1]] = x
    return out


@dataclass
class RowBlock:
    """One row block: q [C, E], k [M, E], v [M, F], 16-bit patterns.

    registers: mask registers (`position`, `group`, `window`, `causal`, `keys`, `first_key`).
    ring: tiles that the row banks hold; fewer than there are tiles: they are streamed.
    """

    machine: ArrayMachine
    kernel: str
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    fmt: str = "fp16"
    registers: dict[str, int] = field(default_factory=dict)
    ring: int = 0

    def __post_init__(self) -> None:
        mc = self.machine
        self.tiles = -(-len(self.k) // mc.rows)
        self.e_words, self.f_words = mc.words(self.k.shape[1]), mc.words(self.v.shape[1])
        self.kv_words = self.e_words + self.f_words
        self.s_words = mc.words(mc.rows)
        self.out = self.e_words + self.tiles * self.s_words * (self.kernel != "one pass")
        self.ring = self.ring or self.tiles

    def image(self) -> np.ndarray:
        """Main memory: queries, tiles (row by row keys and values), results."""
        mc, keys = self.machine, self.tiles * self.machine.rows
        n = mc.bus_elements
        kv = np.concatenate([padded(self.k, mc, keys), padded(self.v, mc, keys)], axis=1)
        q = padded(self.q, mc).reshape(-1, n)
        self.kv_at, self.out_at = len(q), len(q) + keys * self.kv_words
        out = np.zeros((mc.columns * self.f_words, n), np.uint16)
        return np.concatenate([q, kv.reshape(-1, n), out])

    def program(self) -> Program:
        """The whole program; its output is `o`."""
        image = self.image()
        b = Builder("array", self.machine.bus_elements)
        b.host_in.append(image)
        b.outputs["o"] = (self.out_at, self.machine.columns * self.f_words)
        self._load_queries(b)
        steps = KERNELS[self.kernel]
        for i, (ops, flags) in enumerate(steps):
            lengths = {"qk": self.k.shape[1], "slnv": self.v.shape[1], "av": self.v.shape[1]}
            sequential(self.machine, ops, lengths, format=self.fmt, **flags).emit(b)
            self._run(b, ops, flags, last=i == len(steps) - 1, only_then="rcp" in ops)
        self._store_results(b)
        return b.build()

    def _set(self, b: Builder, **registers: int) -> None:
        for name, value in registers.items():
            b.SET(reg=name, value=value)

    def _columns(self, b: Builder, words: int, at: int, bank_word: int) -> None:
        """Registers of a transfer of one row per column."""
        bus = self.machine.config.array.bus_bytes
        self._set(b, mem=at * bus, outer=1, outer_bytes=0, inner=self.machine.columns,
                  inner_bytes=words * bus, beats=words, bank=0, bank_step=0, buf=bank_word,
                  buf_step=0, ring=1, ring_phase=0)  # fmt: skip

    def _load_queries(self, b: Builder) -> None:
        self._columns(b, self.e_words, 0, 0)
        b.LOAD(side="column")
        b.BARRIER()

    def _store_results(self, b: Builder) -> None:
        b.BARRIER()
        self._columns(b, self.f_words, self.out_at, self.out)
        b.STORE()

    def _run(self, b: Builder, ops, flags, *, last: bool, only_then: bool) -> None:
        self._set(
            b, q=0, k=0, v=self.e_words, kv_step=self.kv_words, kv_ring=self.ring, kv_phase=0,
            s=self.e_words, s_step=self.s_words, s_ring=self.tiles, out=self.out,
            **{"position": 0, "group": 1, "keys": len(self.k), "first_key": 0, "window": 0,
               "causal": 0, **self.registers},
        )  # fmt: skip
        streamed = self.ring < self.tiles and bool({"qk", "slnv"} & set(ops))
        self._load_tiles(b, 0, self.ring, {"each": 1, "signal": "compute"} if streamed else {})
        if streamed:
            rest = {"each": 1, "wait": "compute", "signal": "compute"}
            self._load_tiles(b, self.ring, self.tiles - self.ring, rest)
        else:
            b.BARRIER()
        tokens = {"each": 1, "free": 1} if streamed else {}
        b.RUN(tiles=self.tiles, first=1, last=int(last or only_then), **tokens)
        b.BARRIER()

    def _load_tiles(self, b: Builder, first: int, count: int, tokens: dict) -> None:
        mc, bus = self.machine, self.machine.config.array.bus_bytes
        row = self.kv_words * bus
        self._set(b, mem=self.kv_at * bus + first * mc.rows * row, outer=count,
                  outer_bytes=mc.rows * row, inner=mc.rows, inner_bytes=row, beats=self.kv_words,
                  bank=0, bank_step=0, buf=0, buf_step=self.kv_words, ring=self.ring,
                  ring_phase=first % self.ring)  # fmt: skip
        b.LOAD(side="row", **tokens)

    def collect(self, result, program: Program) -> np.ndarray:
        """Results [C, F] as 16-bit patterns."""
        rows = result.output(program, "o").reshape(self.machine.columns, -1)
        return rows[:, : self.v.shape[1]]
