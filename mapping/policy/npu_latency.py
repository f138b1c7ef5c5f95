"""Cycles of a transformer's operators on an NPU, from the cycle-exact timing model.

Every operator is compiled (`lower_npu`) and timed at a few sizes: a program of its own, operands
from main memory, results back. Where a dimension repeats whole tiles, two programs that differ by
one tile give the tile's share, and the rest follows. Between the numbers of rows that are timed,
and within steps of 32 tokens of context, cycles are taken to be straight. All of this is within
1.5 % of the same program timed whole, below 64 tokens of context within 2.5 %
(tests/mapping/policy/test_npu_latency.py).

Main memory that does not give a beat of the data port in whole cycles lies between two programs,
one on each side. The model's cycles are sums and maxima of multiples of the cycles of a beat, so a
straight line between them is no less than what it would give; more than the port takes is not used.
Points are computed when they are needed and kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bankside.config_npu import NpuHardware
from bankside.errors import ConfigError
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.npu_weights import RAW8, STEP_CHANNELS, W4, WeightLayout
from bankside.isa.program import Program
from bankside.mapping.lower_npu.compiled import Compiler
from bankside.mapping.npu_graph import Graph
from bankside.mapping.policy import npu_graphs
from bankside.mapping.policy.store import Store, code_of
from bankside.mapping.workload.batch import Numbers
from bankside.sim.timing.npu import NpuTiming

F64 = NDArray[np.float64]
#: Most channels of SOFTMAX: a register of 16 bits (docs/npu.md section 9).
LONGEST = 65535
#: Output channels of a product that are timed together.
_OUTPUTS = 128
#: Most rows of a tile.
_ROWS = 64
#: Pieces of weights that the compiler wants in the weight buffer at a time.
_PIECES = 4
#: Most tokens of a block of keys or values.
_BLOCK = 512
#: Tokens in which scores grow: a word of the shared buffer.
_STEP = WORD_BYTES
#: Rows of products that are timed, besides those of a whole tile.
_PRODUCT_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 40, 48, 56)
#: Rows on the vector unit that are timed, likewise.
_VECTOR_ROWS = (1, 2)
_BEATS = 64


class NpuLatency:
    """One NPU with its main memory.

    Args:
        hardware: the NPU.
        bandwidth: of main memory, bytes per second.
        bits: of weights, 8 or 4.

    Attributes:
        clock: hertz.
        bandwidth: bytes per second that the memory and the data port give.
        block: tokens of a block of keys or values.

    Raises:
        ConfigError: profile `u55`; memory slower than the model can be.
    """

    def __init__(self, hardware: NpuHardware, bandwidth: float, bits: int) -> None:
        self.machine, self.bits = NpuMachine.of(hardware), bits
        if not self.machine.wide:
            raise ConfigError(
                f"{hardware.name}: profile u55 has no product of two activations, which attention "
                f"needs; use a machine of profile llm"
            )
        self.clock = hardware.clock_mhz * 1e6
        port = self.machine.bus_bytes * self.clock
        self.bandwidth = min(bandwidth, port)
        beats = port / bandwidth
        if beats > _BEATS:
            raise ConfigError(
                f"{hardware.name}: {bandwidth / 1e9:.3g} GB/s are {beats:.0f} cycles per beat of "
                f"{self.machine.bus_bytes} bytes; expected at most {_BEATS}: "
                f"{port / _BEATS / 1e9:.3g} GB/s or more"
            )
        self._share = max(beats, 1.0) % 1
        below = max(math.floor(beats), 1)
        self._engines = [_Engine(hardware, below)]
        if self._share:
            self._engines.append(_Engine(hardware, below + 1))
        self.block = min(_BLOCK, self._shared // (8 * STEP_CHANNELS * 4) * STEP_CHANNELS)
        self._known: dict[str, float] = {}

    @classmethod
    def of(cls, hardware: NpuHardware, bandwidth: float, bits: int) -> NpuLatency:
        """One per machine."""
        return _made(hardware, bandwidth, bits)

    @property
    def _shared(self) -> int:
        """Bytes of the shared buffer."""
        return self.machine.shared_words * WORD_BYTES

    @property
    def stored_bits(self) -> float:
        """Bits that a weight takes in main memory: tiles are padded to the weight port."""
        form = W4 if self.bits == 4 else RAW8
        sizes = []
        for row in (False, True):
            group, port = self.machine.group(row), self.machine.weight_port_bytes
            tile = WeightLayout(form, group, port, group, (1, 1), STEP_CHANNELS)
            sizes.append(8 * tile.fixed_words * port / (group * STEP_CHANNELS))
        return min(sizes)

    # --- operators: cycles ------------------------------------------------------------------------
    def product(self, rows: Numbers, outputs: int, inner: int, wide: bool = False) -> F64:
        """[rows, inner] times weights. wide: int16 results."""
        tile = self._tile(inner)
        name = f"product/{outputs}/{inner}/{int(wide)}"
        return _tiled(
            rows, tile, _PRODUCT_ROWS, lambda n: self._product(name, n, outputs, inner, wide)
        )

    def attention(self, rows: Numbers, context: Numbers, dim: int, group: int, masked: bool) -> F64:
        """Of one key head: `rows` (queries of all its heads) that see `context` tokens on average.

        group: query heads. masked: a prompt's; a tile of its rows ends with the last of them.
        """
        rows, context = np.broadcast_arrays(np.asarray(rows, float), np.asarray(context, float))
        found = np.zeros(rows.shape)
        left = rows > 0
        most = _ROWS if masked else group
        levels = _levels(most)
        for below, level in zip((*levels[1:], 0), levels, strict=True):
            # The smallest tile that takes all rows, or the largest that fits.
            seen = np.minimum(context + (level / group - 1) / 2 * masked, LONGEST)
            fits = self._fits(level, seen, dim) if level > 1 else np.full(rows.shape, True)
            here = left & fits & ((rows > below) | (below == 0))
            if here.any():
                cycles = self._context(level, seen[here], dim, masked)
                found[here] = np.ceil(rows[here] / level - 1e-9) * cycles
                left = left & ~here
        return found

    def norm(self, rows: Numbers, columns: int, channels: int, rms: bool) -> F64:
        """Rows of `columns` norms over `channels`."""
        return self._vector(
            f"norm/{columns}/{channels}/{int(rms)}", rows, 3 * columns * channels,
            lambda n: npu_graphs.norm(n, columns, channels, rms),
        )  # fmt: skip

    def addition(self, rows: Numbers, channels: int) -> F64:
        """Two int16 streams."""
        return self._vector(
            f"add/{channels}", rows, 6 * channels, lambda n: npu_graphs.addition(n, channels)
        )

    def activation(self, rows: Numbers, channels: int, gated: bool) -> F64:
        """A table, and a product with the other half."""
        return self._vector(
            f"act/{channels}/{int(gated)}", rows, 4 * channels,
            lambda n: npu_graphs.activation(n, channels, gated),
        )  # fmt: skip

    def rotation(self, rows: Numbers, heads: int, dim: int) -> F64:
        """Of queries and keys, tables of cosines and sines included."""
        return self._vector(
            f"rope/{heads}/{dim}", rows, 9 * heads * dim,
            lambda n: npu_graphs.rotation(n, heads, dim),
        )  # fmt: skip

    def append(self, tokens: Numbers, requests: Numbers, dim: int) -> F64:
        """Of one key head: new keys and values of `requests`, `tokens` in all.

        Whole blocks of a beat's width, and for each request one more that changes in part.
        """
        width = self.machine.bus_bytes
        one, whole = (
            self._cycles(
                f"append/{n}/{dim}",
                lambda engine, n=n: npu_graphs.append(engine.machine, n, dim),
            )
            for n in (1, width)
        )
        tokens, requests = np.asarray(tokens, float), np.asarray(requests, float)
        return requests * one + np.maximum(tokens - requests, 0) / width * whole

    # --- sizes ------------------------------------------------------------------------------------
    def _tile(self, inner: int) -> int:
        """Rows whose inputs take half of the shared buffer at most."""
        most = self._shared // 2 // (-(-inner // WORD_BYTES) * WORD_BYTES)
        return max(min(most // 4 * 4, _ROWS), min(most, 1), 1)

    def _part(self) -> int:
        """Inner channels of which a word of outputs is a piece that the compiler loads ahead."""
        room = self.machine.config.npu.weight_bytes / _PIECES / WORD_BYTES
        return max(int(room * 8 / self.stored_bits) // STEP_CHANNELS, 1) * STEP_CHANNELS

    def _fits(self, rows: int, context: F64, dim: int) -> NDArray[np.bool_]:
        """Scores and probabilities, beside two blocks each of keys and values."""
        room = self._shared - 4 * self.block * max(dim, WORD_BYTES)
        return 2 * rows * np.ceil(context / self.block) * self.block <= room

    # --- points -----------------------------------------------------------------------------------
    def _product(self, name: str, rows: int, outputs: int, inner: int, wide: bool) -> float:
        form = npu_graphs.INT16 if wide else npu_graphs.INT8
        total = 0.0
        for parts, a in _repeated(inner, self._part()):
            for blocks, b in _repeated(outputs, _OUTPUTS):
                key = f"{name}/{rows}/{len(parts)}/{len(blocks)}"
                total += (
                    a
                    * b
                    * self._graph(
                        key,
                        lambda p=parts, n=blocks: npu_graphs.product(rows, p, n, self.bits, form),
                    )
                )
        return total

    def _context(self, rows: int, context: F64, dim: int, masked: bool) -> F64:
        """From two blocks on, each further one takes equally long."""

        def at(tokens: int) -> float:
            return self._graph(
                f"attention/{rows}/{tokens}/{dim}/{int(masked)}",
                lambda: npu_graphs.attention(rows, tokens, dim, self.block, masked),
            )

        context = np.maximum(context, 1)
        further = np.maximum(np.ceil(context / self.block) - 2, 0)
        found = _straight(context - further * self.block, _tokens(self.block), at)
        if (further > 0).any():
            found = found + further * (at(2 * self.block) - at(self.block))
        return found

    def _vector(
        self, name: str, rows: Numbers, row_bytes: int, build: Callable[[int], Graph]
    ) -> F64:
        tile = max(min(self._shared // 2 // row_bytes, _ROWS), 1)
        return _tiled(
            rows, tile, _VECTOR_ROWS, lambda n: self._graph(f"{name}/{n}", lambda: build(n))
        )

    def _graph(self, key: str, build: Callable[[], Graph]) -> float:
        return self._cycles(key, lambda engine: engine.compiler.compile(build()).program)

    def _cycles(self, key: str, program: Callable[[_Engine], Program]) -> float:
        """Of a program, by the timing model."""
        if (known := self._known.get(key)) is None:
            some = [
                engine.store.get(f"{self.bits}/{key}", lambda e=engine: e.run(program(e)))
                for engine in self._engines
            ]
            known = some[0] + self._share * (some[-1] - some[0])
            self._known[key] = known
        return known


class _Engine:
    """The NPU with a memory that gives a beat in so many cycles."""

    def __init__(self, hardware: NpuHardware, beats: int) -> None:
        memory = hardware.memory.model_copy(update={"beat_cycles": beats, "bytes": 1 << 32})
        self.machine = NpuMachine.of(hardware.model_copy(update={"memory": memory}))
        self.compiler = Compiler(self.machine)
        self.store = Store(
            "npu_latency", {"hardware": self.machine.config.content_hash, "code": _code()}
        )

    def run(self, program: Program) -> float:
        return float(NpuTiming(self.machine).run(program).cycles or 0)


def _repeated(size: int, tile: int) -> list[tuple[Sequence[int], float]]:
    """Divisions of a dimension to be timed, with weights that add up to the whole: all tiles where
    they are few, else two and three of them (and the rest) with the line through both.
    """
    whole, rest = divmod(size, tile)
    tail = (rest,) if rest else ()
    if whole <= 3:
        return [((tile,) * whole + tail, 1.0)]
    return [((tile,) * 2 + tail, 3.0 - whole), ((tile,) * 3 + tail, whole - 2.0)]


def _levels(most: int) -> list[int]:
    """Halves, down to 1."""
    found = [most]
    while found[-1] > 1:
        found.append(-(-found[-1] // 2))
    return found


def _tokens(block: int) -> list[int]:
    """Contexts of two blocks that are timed: the last and the first of each step."""
    steps = range(_STEP, 2 * block + 1, _STEP)
    return [1, *(tokens for last in steps for tokens in (last, last + 1))][:-1]


def _tiled(rows: Numbers, tile: int, some: Sequence[int], at: Callable[[int], float]) -> F64:
    """Of rows in tiles; those of the last one lie between the ones that are timed."""
    rows = np.asarray(rows, float)
    whole = np.floor(rows / tile + 1e-9)
    rest = np.maximum(rows - whole * tile, 0)
    rest = np.where(rest < 1e-6, 0, rest)
    found = np.zeros(rows.shape)
    if (whole > 0).any():
        found += whole * at(tile)
    left = rest > 0
    if left.any():
        points = [*(p for p in some if p < tile), tile]
        found[left] += _straight(np.maximum(rest[left], 1), points, at)
    return found


def _straight(x: F64, points: Sequence[int], at: Callable[[int], float]) -> F64:
    """Lines between the points, the last one goes on; points are looked at when needed."""
    x = np.asarray(x, float)
    if len(points) == 1:
        return np.full(x.shape, at(points[0]))
    left = np.clip(np.searchsorted(points, x, "right") - 1, 0, len(points) - 2)
    found = np.zeros(x.shape)
    for i in np.unique(left):
        a, b = points[i], points[i + 1]
        here = left == i
        first = at(a)
        # On a point its neighbour does not matter.
        step = (at(b) - first) / (b - a) if (x[here] > a).any() else 0.0
        found[here] = first + (x[here] - a) * step
    return found


@lru_cache(maxsize=1)
def _code() -> list[str]:
    """Of all files that the cycles depend on."""
    import bankside.isa
    import bankside.mapping.lower_npu
    import bankside.sim.timing
    from bankside.mapping import npu_graph, npu_layers, npu_quantise, npu_stream

    packages = (bankside.isa, bankside.sim.timing, bankside.mapping.lower_npu)
    modules = (npu_graph, npu_layers, npu_quantise, npu_stream, npu_graphs, __file__)
    return code_of(packages, modules)


@lru_cache(maxsize=64)
def _made(hardware: NpuHardware, bandwidth: float, bits: int) -> NpuLatency:
    return NpuLatency(hardware, bandwidth, bits)
