"""Random machines and programs of the `array` engine that exercise time alone.

Their data mean nothing and their schedules keep only the rules that time depends on, so they reach
patterns that no useful program has. Every token that a command waits for is given by an earlier
one, or (streams) by the tiles of the RUN that follows.
"""

import numpy as np

from bankside.config_array import ArrayConfig, ArrayHardware, MemoryConfig
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.program import Builder, Program

ENGINES = ("load", "compute", "store")
PE_OPS = ("qk", "lm", "exp", "sld", "slnv", "drain", "passx", "passd", "fill")
LANE_OPS = ("rcp", "one", "av")


def random_machine(rng: np.random.Generator) -> ArrayMachine:
    """A small machine with random latencies."""
    array = ArrayConfig(
        rows=int(rng.integers(2, 6)), columns=int(rng.integers(2, 6)),
        bus_bytes=int(rng.choice([4, 8, 32])), queue_depth=int(rng.choice([1, 2, 4])),
        return_cycles=int(rng.choice([1, 3])), divider_bits=int(rng.choice([4, 26])),
    )  # fmt: skip
    memory = MemoryConfig(
        read_latency_cycles=int(rng.choice([1, 2, 9, 40])),
        write_latency_cycles=int(rng.choice([1, 5, 30])),
        beat_cycles=int(rng.choice([1, 1, 2, 5])), outstanding=int(rng.choice([1, 2, 3, 8])),
    )  # fmt: skip
    hardware = ArrayHardware(name="random", engine="array", array=array, memory=memory)
    return ArrayMachine.of(hardware)


class TimingProgram:
    """Builds one program; `tokens[source, target]` are those that earlier commands leave."""

    def __init__(self, rng: np.random.Generator, machine: ArrayMachine) -> None:
        self.rng, self.machine = rng, machine
        self.b = Builder("array", machine.bus_elements)
        self.tokens = {(s, t): 0 for s in ENGINES for t in ENGINES}
        self.frees = 0  # tokens that a tile of a RUN with `free` gives

    def _int(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def _maybe(self, chance: float = 0.5) -> int:
        return int(self.rng.random() < chance)

    def build(self, length: int) -> Program:
        self._kernel()
        for _ in range(length):
            kinds = (self._load, self._load, self._store, self._run, self._run, self._stream,
                     self.b.BARRIER, self._kernel)  # fmt: skip
            kind = self.rng.choice(len(kinds), p=[0.15, 0.1, 0.15, 0.2, 0.15, 0.15, 0.04, 0.06])
            kinds[kind]()
        return self.b.build()

    def _kernel(self) -> None:
        """Blocks of the 2D array side by side, those of the lanes anywhere beside each other."""
        ii = self._int(1, 40)
        self.b.KERNEL(ii=ii)
        blocks = [*self._side_by_side(ii, 0, 7, PE_OPS), *self._side_by_side(ii, 8, 11, LANE_OPS)]
        done = max(blocks, key=lambda b: (b["stage"], b["start"] + b["length"]))
        done["done"] = 1
        self.frees = sum(b["free"] for b in blocks)
        for index in self.rng.permutation(len(blocks)):
            self.b.BLOCK(**blocks[index])

    def _side_by_side(self, ii: int, first: int, last: int, ops: tuple[str, ...]) -> list[dict]:
        blocks, at = [], 0
        deepest = int(self.rng.choice([0, 1, 2, 7]))
        for index in range(first, last + 1):
            start = at + self._int(0, 3) * self._maybe(0.3)
            if not blocks and not first:
                start = min(start, ii - 1)
            if start >= ii or (blocks and self._maybe(0.15)):
                break
            length = self._int(1, min(ii - start, 12))
            at = start + length
            op, stage = str(self.rng.choice(ops)), self._int(0, deepest)
            blocks.append({"index": index, "op": op, "start": start, "length": length,
                           "stage": stage, "free": self._maybe(0.2)})  # fmt: skip
        return blocks

    # --- commands ---

    def _tokens(self, engine: str, chance: float = 0.6) -> str:
        """Engines to wait for: some of those that have given a token."""
        found = [s for s in ENGINES if s != engine and self.tokens[s, engine]]
        chosen = [s for s in found if self._maybe(chance)]
        for source in chosen:
            self.tokens[source, engine] -= 1
        return ",".join(chosen) or "none"

    def _signal(self, engine: str, times: int = 1) -> str:
        chosen = [t for t in ENGINES if t != engine and self._maybe(0.4)]
        for target in chosen:
            self.tokens[engine, target] += times
        return ",".join(chosen) or "none"

    def _registers(self, most: int = 6) -> int:
        """Registers of a transfer; returns its outer steps."""
        bus, outer = self.machine.config.array.bus_bytes, self._int(1, 4)
        self._set(
            mem=bus * self._int(0, 3000), outer=outer, outer_bytes=bus * self._int(0, 40),
            inner=self._int(1, 4), inner_bytes=bus * self._int(0, 40), beats=self._int(1, most),
        )  # fmt: skip
        return outer

    def _set(self, **values: int) -> None:
        for name, value in values.items():
            self.b.SET(reg=name, value=value)

    def _load(self) -> None:
        outer, each = self._registers(), self._maybe(0.3)
        wait = "none" if each else self._tokens("load")
        self.b.LOAD(each=each, wait=wait, signal=self._signal("load", outer if each else 1))

    def _store(self) -> None:
        self._registers()
        wait = self._tokens("store")
        self.b.STORE(wait=wait, signal=self._signal("store"))

    def _run(self) -> None:
        wait = self._tokens("compute")
        tiles = self._int(1, int(self.rng.choice([1, 3, 12, 40])))
        each = self.tokens["load", "compute"] >= tiles and self._maybe()
        self._emit_run(tiles, int(each), wait, self._maybe(0.3))

    def _emit_run(self, tiles: int, each: int, wait: str, free: int) -> None:
        if each:
            self.tokens["load", "compute"] -= tiles
        self.tokens["compute", "load"] += self.frees * tiles * free
        self.b.RUN(tiles=tiles, each=each, free=free, last=self._maybe(), wait=wait,
                   signal=self._signal("compute"))  # fmt: skip

    def _stream(self) -> None:
        """Tiles through a ring of buffers: the later loads wait for rows that the RUN frees."""
        ring, tiles = self._int(1, 4), self._int(1, 12)
        first, wait = min(ring, tiles), self._tokens("compute", 0.3)
        self._registers(3)
        self._set(outer=first)
        self.b.LOAD(each=1, signal="compute")
        self.tokens["load", "compute"] += tiles
        follows = self.frees == 1
        if tiles > first:
            self._set(outer=tiles - first)
            self.b.LOAD(each=1, wait="compute" if follows else "none", signal="compute")
            self.tokens["compute", "load"] -= (tiles - first) * follows
        self._emit_run(tiles, 1, wait, int(follows) or self._maybe())


def random_program(rng: np.random.Generator, machine: ArrayMachine, length: int = 8) -> Program:
    """A program that ends, of about `length` commands without SET."""
    return TimingProgram(rng, machine).build(length)
