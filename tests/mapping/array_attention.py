"""Attention of random data on the golden model of the array, and in float64."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bankside.config import HardwareConfig
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_verify import verify
from bankside.isa.program import Program
from bankside.mapping.lower_array import ArrayKernels, AttentionShape, scaled_queries, to_bits
from bankside.sim.golden.array import ArrayGolden

F64 = NDArray[np.float64]
BINDINGS = ("interleaved", "architecture", "cascade", "flat", "flat_2pass", "unfused")


def machine(**keys: int) -> ArrayMachine:
    """A 4 x 4 machine with some keys of `array` changed, `memory_bytes` of `memory`."""
    memory = keys.pop("memory_bytes", 1 << 20)
    array = {"rows": 4, "columns": 4, "bus_bytes": 8} | keys
    lines = "".join(f"  {key}: {value}\n" for key, value in array.items())
    text = f"name: test\nengine: array\narray:\n{lines}memory:\n  bytes: {memory}\n"
    return ArrayMachine.of(HardwareConfig.parse(text))


def numbers(bits: NDArray[np.uint16], format: str) -> F64:
    """Values of 16-bit numbers."""
    if format == "fp16":
        return bits.view(np.float16).astype(np.float64)
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def reference(shape: AttentionShape, q: F64, k: F64, v: F64) -> F64:
    """softmax(Q K^T / sqrt(e)) V, [batch, queries, heads, f]; 0 for a query that meets no key."""
    position = shape.position + np.arange(shape.queries)[:, None]
    key = np.arange(shape.keys)[None]
    met = np.ones((shape.queries, shape.keys), bool)
    if shape.causal:
        met &= key <= position
    if shape.window:
        met &= key > position - shape.window
    out = np.zeros((shape.batch, shape.queries, shape.heads, shape.f))
    for batch in range(shape.batch):
        for head in range(shape.heads):
            keys, values = k[batch, :, head // shape.group], v[batch, :, head // shape.group]
            scores = q[batch, :, head] @ keys.T / np.sqrt(shape.e)
            masked = np.where(met, scores, -np.inf)
            largest = np.where(met.any(axis=1), masked.max(axis=1), 0)[:, None]
            weights = np.exp(masked - largest)
            total = weights.sum(axis=1, keepdims=True)
            out[batch, :, head] = weights @ values / np.where(total > 0, total, 1)
    return out


@dataclass
class Attention:
    """Random data of a shape and its programs."""

    machine: ArrayMachine
    shape: AttentionShape
    binding: str = "interleaved"
    format: str = "fp16"
    residency: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        s, rng = self.shape, np.random.default_rng(self.seed)
        self.kernels = ArrayKernels(self.machine, s, self.binding, self.format, self.residency)
        self.q = rng.normal(size=(s.batch, s.queries, s.heads, s.e))
        self.k = to_bits(rng.normal(size=(s.batch, s.keys, s.kv_heads, s.e)), self.format)
        self.v = to_bits(rng.normal(size=(s.batch, s.keys, s.kv_heads, s.f)), self.format)

    @property
    def programs(self) -> list[Program]:
        """The programs; they are legal."""
        programs = self.kernels.programs(scaled_queries(self.q, self.format), self.k, self.v)
        for program in programs:
            verify(program, self.machine)
        return programs

    def error(self) -> float:
        """Largest difference between golden model and float64."""
        golden = ArrayGolden(self.machine)
        results = [golden.run(program) for program in self.programs]
        found = numbers(self.kernels.collect(results), self.format)
        k, v = numbers(self.k, self.format), numbers(self.v, self.format)
        return float(np.abs(found - reference(self.shape, self.q, k, v)).max())
