"""What can be calibrated: the columns of its tables, its parameters, its model, its regimes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.mapping.gpu import attention, elementwise, gemm
from bankside.mapping.system.gpu import Gpu
from bankside.registry import Registry
from bankside.schema import Section

Columns = Mapping[str, NDArray]
Edges = tuple[float, ...]


@dataclass(frozen=True)
class Kind:
    """One kind of operator.

    Attributes:
        name: as of `--kind`.
        columns: of a plain table, beside `seconds`, in the order of the model's arguments.
        parameters: class of what is calibrated.
        start: values from which a fit starts, where no fit of another GPU is at hand.
        seconds: model as measured: (parameters, GPU, tiles, columns) -> seconds.
        floor: (GPU, columns) -> seconds that no kernel can beat.
        predict: the model that predictions use, where it is not `seconds`.
        regimes: name of a regime -> (columns -> values, edges of its bands).
        usable: (GPU, columns) -> rows that tell something about the model; by default all.
    """

    name: str
    columns: tuple[str, ...]
    parameters: type[Section]
    start: Mapping[str, float]
    seconds: Callable[[Any, Gpu, gemm.Tiles, Columns], NDArray]
    floor: Callable[[Gpu, Columns], NDArray]
    predict: Callable[[Any, Gpu, gemm.Tiles, Columns], NDArray]
    regimes: Mapping[str, tuple[Callable[[Columns], NDArray], Edges]]
    usable: Callable[[Gpu, Columns], NDArray] | None = None

    @property
    def fitted(self) -> tuple[str, ...]:
        """Names of the parameters that a fit changes."""
        return tuple(self.start)


KINDS: Registry[Kind] = Registry("kind of table")

#: Tensor-core kernels of cuBLAS on Ampere; of Hopper in its fit.
AMPERE_TILES: gemm.Tiles = (
    (256, 128), (128, 256), (256, 64), (64, 256), (128, 128), (128, 64), (64, 128), (64, 64),
    (32, 128), (128, 32), (64, 32), (32, 64), (32, 32),
)  # fmt: skip
HOPPER_TILES: gemm.Tiles = (*AMPERE_TILES, (128, 192), (192, 128))


def gflop(c: Columns) -> NDArray:
    """10^9 operations of a product."""
    return 2e-9 * c["m"] * c["n"] * c["k"]


def _intensity(c: Columns) -> NDArray:
    return 1e9 * gflop(c) / (2 * (c["m"] * c["k"] + c["k"] * c["n"] + c["m"] * c["n"]))


def _gemm(p: Any, gpu: Gpu, tiles: gemm.Tiles, c: Columns) -> NDArray:
    return gemm.gemm_seconds(p, gpu, tiles, c["m"], c["n"], c["k"])


KINDS.add("gemm", Kind(
    "gemm", ("m", "n", "k"), gemm.GemmParameters,
    {"start_us": 2.5, "wave_us": 1.0, "matrix_efficiency": 0.9, "tile_loss": 40.0,
     "dram_efficiency": 0.75, "write_efficiency": 0.75, "sm_gbps": 25.0, "l2_sm_gbps": 50.0,
     "split_us": 1.7, "throttle": 0.2, "throttle_ms": 5.0},
    _gemm, lambda gpu, c: gemm.gemm_floor(gpu, c["m"], c["n"], c["k"]), _gemm,
    {"tokens m": (lambda c: c["m"], (0, 16, 64, 256, 1024, np.inf)),
     "GFLOP": (gflop, (0, 0.1, 1, 10, 100, 1000, np.inf)),
     "inner dimension k": (lambda c: c["k"], (0, 256, 1024, 4096, np.inf)),
     "FLOP per byte": (_intensity, (0, 50, 150, 300, np.inf))},
))  # fmt: skip


def _pairs(c: Columns) -> NDArray:
    return c["requests"] * c["tokens"] * (c["tokens"] + 1) / 2


def _prefill(p: Any, gpu: Gpu, tiles: gemm.Tiles, c: Columns) -> NDArray:
    total = c["requests"] * c["tokens"]
    return attention.prefill_seconds(
        p, gpu, _pairs(c), total, total, c["heads"], c["kv_heads"], c["head_dim"],
        requests=c["requests"], rotate=c["rotated"],
    )  # fmt: skip


def _prefill_floor(gpu: Gpu, c: Columns) -> NDArray:
    total = c["requests"] * c["tokens"]
    return attention.prefill_floor(
        gpu, _pairs(c), total, total, c["heads"], c["kv_heads"], c["head_dim"]
    )


_HEADS = ("heads", "kv_heads", "head_dim")


def _group(c: Columns) -> NDArray:
    return c["heads"] / c["kv_heads"]


_GROUPS = {"heads per KV head": (_group, (0, 1, 8, 32, np.inf))}
KINDS.add("prefill", Kind(
    "prefill", ("requests", "tokens", *_HEADS, "rotated"), attention.PrefillParameters,
    {"start_us": 12.0, "matrix_efficiency": 0.5, "small_tile": 0.8, "dram_efficiency": 0.85,
     "tail": 0.4, "block_us": 0.5},
    _prefill, _prefill_floor, _prefill,
    {"tokens": (lambda c: c["tokens"], (0, 64, 256, 1024, 4096, np.inf)),
     "requests": (lambda c: c["requests"], (0, 1, 8, 64, np.inf)), **_GROUPS},
))  # fmt: skip


def _decode(p: Any, gpu: Gpu, c: Columns, as_measured: bool) -> NDArray:
    return attention.decode_seconds(
        p, gpu, c["requests"], c["requests"] * c["context"], c["heads"], c["kv_heads"],
        c["head_dim"], as_measured=as_measured,
    )  # fmt: skip


KINDS.add("decode", Kind(
    "decode", ("requests", "context", *_HEADS), attention.DecodeParameters,
    {"start_us": 5.0, "latency_us": 6.0, "head_us": 1.6, "group_start_us": 5.5, "group_us": 5.4,
     "group_rows_us": 1.0, "dram_efficiency": 0.84, "sm_gbps": 21.0, "l2_sm_gbps": 37.0,
     "split_us": 4.0},
    lambda p, gpu, tiles, c: _decode(p, gpu, c, True),
    lambda gpu, c: attention.decode_floor(gpu, c["requests"], c["requests"] * c["context"],
                                          c["heads"], c["kv_heads"], c["head_dim"]),
    lambda p, gpu, tiles, c: _decode(p, gpu, c, False),
    {"context": (lambda c: c["context"], (0, 128, 1024, 8192, np.inf)),
     "requests": (lambda c: c["requests"], (0, 1, 8, 64, np.inf)),
     "MB of keys and values": (
         lambda c: 4e-6 * c["requests"] * c["context"] * c["kv_heads"] * c["head_dim"],
         (0, 1, 16, 128, 512, np.inf)), **_GROUPS},
))  # fmt: skip


def _elementwise(p: Any, gpu: Gpu, tiles: gemm.Tiles, c: Columns) -> NDArray:
    return elementwise.elementwise_seconds(p, gpu, c["read_bytes"], c["written_bytes"])


def _not_cached(gpu: Gpu, c: Columns) -> NDArray:
    """Rows ruled by start-up or DRAM; in between, repeated measurements find their data in L2."""
    moved, cache = c["read_bytes"] + c["written_bytes"], gpu.l2_bytes or 0.0
    return (moved > cache) | (moved < cache / 40)


KINDS.add("elementwise", Kind(
    "elementwise", ("read_bytes", "written_bytes"), elementwise.ElementwiseParameters,
    {"start_us": 3.0, "dram_efficiency": 0.85},
    _elementwise,
    lambda gpu, c: elementwise.elementwise_floor(gpu, c["read_bytes"], c["written_bytes"]),
    _elementwise,
    {"MB moved": (lambda c: 1e-6 * (c["read_bytes"] + c["written_bytes"]), (0, 1, 10, np.inf))},
    _not_cached,
))  # fmt: skip
