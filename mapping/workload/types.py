"""Operators: what each computes, reads and writes. Ref: docs/workloads.md, section Operators."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from bankside.mapping.workload.batch import Numbers

Kind = Literal["gemm", "attention", "norm", "rope", "cache", "act", "add", "embed", "route"]


class Bits(NamedTuple):
    """Width of the numbers in memory: weights, activations, cached keys and values."""

    weight: float = 16
    activation: float = 16
    kv: float = 16


FULL = Bits()
"""16 bits everywhere."""


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator of one layer. Numbers are floats or arrays that broadcast to the batch's shape.

    Attributes:
        name: unique in its layer.
        kind: what it is.
        matrix_flops: operations of products, 2 per multiply-accumulate.
        vector_flops: all others; exponential and division count as one.
        weight_bytes: weights read.
        kv_bytes: cached keys and values read.
        kv_written_bytes: keys and values appended to the cache.
        input_bytes, output_bytes: activations read and written.
    """

    name: str
    kind: Kind
    matrix_flops: Numbers = 0.0
    vector_flops: Numbers = 0.0
    weight_bytes: Numbers = 0.0
    kv_bytes: Numbers = 0.0
    kv_written_bytes: Numbers = 0.0
    input_bytes: Numbers = 0.0
    output_bytes: Numbers = 0.0

    @property
    def flops(self) -> Numbers:
        """All operations."""
        return self.matrix_flops + self.vector_flops

    @property
    def read_bytes(self) -> Numbers:
        """All bytes read, each once: weights, cache, activations."""
        return self.weight_bytes + self.kv_bytes + self.input_bytes

    @property
    def written_bytes(self) -> Numbers:
        """All bytes written: cache and activations."""
        return self.kv_written_bytes + self.output_bytes

    @property
    def bytes(self) -> Numbers:
        """All bytes moved."""
        return self.read_bytes + self.written_bytes

    @property
    def intensity(self) -> Numbers:
        """Operations per byte (Op/B)."""
        return self.flops / np.maximum(self.bytes, 1e-300)

    def bound_seconds(self, matrix: float, vector: float, bandwidth: float) -> Numbers:
        """Least time on a device: the longest of products, other operations and memory.

        Args:
            matrix, vector: peak operations per second of its units.
            bandwidth: peak bytes per second of its memory.
        """
        compute = np.maximum(self.matrix_flops / matrix, self.vector_flops / vector)
        return np.maximum(compute, self.bytes / bandwidth)


@dataclass(frozen=True, eq=False)
class Gemm(Operator):
    """`count` equal products of (m x k) by (k x n), each with its own (k x n) weights.

    With experts, `count` is the expected number of those visited and `m` the tokens of each, so
    neither need be whole.
    """

    m: Numbers = 0.0
    n: int = 0
    k: int = 0
    count: Numbers = 1
    bits: float = 16


@dataclass(frozen=True, eq=False)
class Attention(Operator):
    """Scores, softmax and weighted sum of all heads of one layer, for one phase.

    Attributes:
        phase: `prefill` or `decode`.
        heads, kv_heads, head_dim, value_dim: as computed (MLA in decode: one key head of 576, its
            value the first 512 of them).
        window: None, or the tokens a query sees at most.
        queries: new tokens.
        requests: requests that they belong to.
        pairs: (query, key) pairs, of one head.
        context: keys that are read, sum over the requests, of one head.
        longest: the longest context of one request (decode; 0 in prefill).
        kv_elements: elements of the cache that a key with its value takes, all heads together.
    """

    phase: Literal["prefill", "decode"] = "prefill"
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    value_dim: int = 0
    window: int | None = None
    queries: Numbers = 0.0
    requests: Numbers = 0.0
    pairs: Numbers = 0.0
    context: Numbers = 0.0
    longest: Numbers = 0.0
    kv_elements: int = 0
    bits: float = 16


@dataclass(frozen=True, eq=False)
class Elementwise(Operator):
    """Norm, rotation, cache write, activation, addition, look-up, routing: a stream of elements."""
