"""Random legal programs of the `array` engine, for agreement runs.

Three kinds: attention of random shape under every binding and matrix products (the code that real
models use), and free programs that reach corners no kernel uses. A seed gives the same programs on
every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bankside.errors import ConfigError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_schedule import FORMATS
from bankside.isa.program import Program
from bankside.mapping.gemm_array import MODES, SCHEDULES, GemmKernels, GemmShape
from bankside.mapping.lower_array import ArrayKernels, AttentionShape
from bankside.sim.random_array_free import U16, free_program, random_elements
from bankside.sim.random_array_schedules import Rng

#: Bindings of attention; half of the programs are free ones.
BINDINGS = ("unfused", "flat", "flat_2pass", "cascade", "architecture", "interleaved")
FREE, PRODUCT = "free", "product"
#: Rows of a product's result and elements that it sums: few, as below.
PRODUCT_SIZES = (1, 6, 11, 24)
#: Elements of a key and of a value: few pairs, since a schedule is solved for each.
WIDTHS = ((4, 4), (8, 8), (16, 16), (5, 7), (12, 3), (2, 9))


class Named(NamedTuple):
    """A program and its kind: a binding, `product` or `free`."""

    kind: str
    program: Program


def random_shape(rng: Rng, machine: ArrayMachine) -> AttentionShape:
    """A small shape: ragged, causal, with a window, grouped heads, several sequences."""
    e, f = WIDTHS[int(rng.integers(len(WIDTHS)))]
    group = int(rng.choice([1, 1, 2, 3, machine.columns + 1]))
    kv_heads = int(rng.choice([1, 1, 2]))
    keys = int(2 ** rng.uniform(0, np.log2(8 * machine.rows)))
    queries = int(rng.integers(1, 2 * machine.columns // group + 2))
    causal = bool(rng.random() < 0.4)
    window = int(rng.integers(1, keys + 1)) if rng.random() < 0.3 else 0
    position = int(rng.integers(0, keys)) if rng.random() < 0.3 or queries > keys else None
    return AttentionShape(
        queries, keys, kv_heads * group, kv_heads, e, f, batch=int(rng.choice([1, 1, 2])),
        causal=causal, window=window, first_position=position,
    )  # fmt: skip


def _data(rng: Rng, shape: AttentionShape) -> tuple[U16, U16, U16]:
    """Bits of queries, keys and values."""
    sizes = (
        (shape.batch, shape.queries, shape.heads, shape.e),
        (shape.batch, shape.keys, shape.kv_heads, shape.e),
        (shape.batch, shape.keys, shape.kv_heads, shape.f),
    )
    q, k, v = (random_elements(rng, int(np.prod(size))).reshape(size) for size in sizes)
    return q, k, v


def attention_programs(rng: Rng, machine: ArrayMachine, binding: str) -> list[Program]:
    """The programs of one attention of random shape, format and residency."""
    while True:
        shape = random_shape(rng, machine)
        format = str(rng.choice(FORMATS))
        residency = str(rng.choice(["auto", "stream", "resident"]))
        try:
            kernels = ArrayKernels(machine, shape, binding, format, residency)
        except ConfigError:
            continue  # the machine cannot hold it; draw again
        return kernels.programs(*_data(rng, shape))


def product_programs(rng: Rng, machine: ArrayMachine) -> list[Program]:
    """The programs of one matrix product of random shape, format, mode and schedule."""
    while True:
        m, k = (int(rng.choice(PRODUCT_SIZES)) for _ in range(2))
        shape = GemmShape(m, k, int(rng.integers(1, 3 * machine.columns)))
        mode, schedule, format = (str(rng.choice(c)) for c in (MODES, SCHEDULES, FORMATS))
        try:
            kernels = GemmKernels(machine, shape, mode, schedule, format)
        except ConfigError:
            continue
        a, b = (
            random_elements(rng, n).reshape(-1, w) for n, w in ((m * k, k), (k * shape.n, shape.n))
        )
        return kernels.programs(a, b)


def random_programs(rng: Rng, machine: ArrayMachine) -> Iterator[Named]:
    """Programs without end, in turn a free one and those of a random kernel."""
    while True:
        yield Named(FREE, free_program(rng, machine))
        kind = str(rng.choice([*BINDINGS, PRODUCT]))
        programs = (
            product_programs(rng, machine)
            if kind == PRODUCT
            else attention_programs(rng, machine, kind)
        )
        yield from (Named(kind, program) for program in programs)
