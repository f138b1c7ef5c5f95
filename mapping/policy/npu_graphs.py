"""What an NPU does for one operator of a transformer, as graphs for the compiler of `lower_npu`.

Operands come from main memory and results go back there. Numbers are placeholders: neither the
compiler's choices nor the cycles depend on them (profile `llm`). Forms are those of `npu_gpt`:
int8, and int16 for the residual stream, for queries and keys before their rotation and for partial
sums. Ref: docs/npu.md, docs/npu_compiler.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.program import Program
from bankside.mapping import npu_quantise as q
from bankside.mapping.llm.quantise import Affine
from bankside.mapping.npu_graph import Graph, Layer, Shape, Tensor
from bankside.mapping.npu_layers import Conv2d, Copy, Lut
from bankside.mapping.npu_stream import Stream

INT8, INT16 = Affine(1 / 64), Affine(1 / 64, 0, 16)


def product(
    rows: int, inner: Sequence[int], outputs: Sequence[int], bits: int = 8, out: Affine = INT8
) -> Graph:
    """[rows, sum of `inner`] times weights: blocks of `outputs` channels one after the other, each
    the sum of the products with the parts of the inner dimension.
    """
    parts = [Tensor(f"x{i}", (1, rows, k), INT8) for i, k in enumerate(inner)]
    layers: list[Layer] = []
    results = []
    for b, n in enumerate(outputs):
        form = out if len(parts) == 1 else INT16
        sums: list[Tensor] = []
        for i, x in enumerate(parts):
            sums.append(Tensor(f"p{b}.{i}", (1, rows, n), form))
            layers.append(_linear(f"mac{b}.{i}", x, sums[-1], bits))
            if i:
                last = i == len(parts) - 1
                both = Tensor(f"s{b}.{i}", (1, rows, n), out if last else INT16)
                layers.append(q.add(f"add{b}.{i}", *sums, both))
                sums = [both]
        results.append(sums[0])
    return Graph("product", parts, layers, results)


def _linear(name: str, x: Tensor, y: Tensor, bits: int) -> Conv2d:
    n, k = y.shape[2], x.shape[2]
    scales = np.ones((n, 1, 1, -(-k // WORD_BYTES)), np.uint8) if bits == 4 else None
    # An array of its own for each layer: equal ones would be loaded once.
    return Conv2d(
        name, y, mult=np.full(1, 1 << 30, np.int32), shift=np.full(1, -6, np.int32), source=x,
        weights=np.ones((n, 1, 1, k), np.int8), bias=np.zeros(n, np.int32), scales=scales,
    )  # fmt: skip


def attention(rows: int, context: int, dim: int, block: int, masked: bool) -> Graph:
    """`rows` queries of heads that share a key head, over all of `context` tokens.

    Keys and values come in blocks of tokens, values transposed. masked: the last block's scores
    get a mask added, which saturates.
    """
    queries = Tensor("q", (1, rows, dim), INT8)
    scores = Tensor("scores", (1, rows, context), INT8)
    chances = Tensor("chances", (1, rows, context), q.PROBABILITY)
    inputs, layers = [queries], list[Layer]()
    blocks = [(at, min(block, context - at)) for at in range(0, context, block)]
    for at, count in blocks:
        inputs.append(key := Tensor(f"k{at}", (1, count, dim), INT8))
        place = _part(scores, at, count)
        if masked and (at, count) == blocks[-1]:
            mask = Tensor("mask", (1, rows, count), INT8)
            plain = Tensor("plain", (1, rows, count), INT8)
            inputs.append(mask)
            layers += [q.matmul(f"qk{at}", queries, key, plain), q.add("mask", plain, mask, place)]
        else:
            layers.append(q.matmul(f"qk{at}", queries, key, place))
    layers.append(q.softmax("softmax", scores, chances))
    total: Tensor | None = None
    for at, count in blocks:
        inputs.append(value := Tensor(f"v{at}", (1, dim, count), INT8))
        form = INT16 if len(blocks) > 1 else INT8
        some = Tensor(f"c{at}", (1, rows, dim), form)
        layers.append(q.matmul(f"pv{at}", _part(chances, at, count), value, some))
        if total is not None:
            last = (at, count) == blocks[-1]
            both = Tensor(f"t{at}", (1, rows, dim), INT8 if last else INT16)
            layers.append(q.add(f"add{at}", total, some, both))
            some = both
        total = some
    assert total is not None
    return Graph("attention", inputs, layers, [total])


def _part(of: Tensor, at: int, count: int) -> Tensor:
    shape: Shape = (1, of.shape[1], count)
    return of if shape == of.shape else of.view(f"{of.name}{at}", (0, 0, at), shape)


# --- vector unit ----------------------------------------------------------------------------------
def norm(rows: int, columns: int, channels: int, rms: bool) -> Graph:
    """Over the channels of int16 rows and columns, to int8."""
    x = Tensor("x", (rows, columns, channels), INT16)
    y = Tensor("y", x.shape, INT8)
    make = q.rms_norm if rms else q.layer_norm
    return Graph("norm", [x], [make("norm", x, y, np.ones(channels))], [y])


def addition(rows: int, channels: int) -> Graph:
    """The residual stream and what is added to it."""
    a, b, y = (Tensor(name, (1, rows, channels), INT16) for name in "aby")
    return Graph("addition", [a, b], [q.add("add", a, b, y)], [y])


def activation(rows: int, channels: int, gated: bool) -> Graph:
    """A table of the int8 results of a product, times the other half where `gated`."""
    shape = (1, rows, channels)
    x, y = Tensor("x", shape, INT8), Tensor("y", shape, INT8)
    layers: list[Layer] = [Lut("table", y, source=x, table=np.arange(-128, 128).astype(np.int8))]
    if not gated:
        return Graph("activation", [x], layers, [y])
    up, z = Tensor("up", shape, INT8), Tensor("z", shape, INT8)
    return Graph("activation", [x, up], [*layers, q.mul("gate", y, up, z)], [z])


def rotation(rows: int, heads: int, dim: int) -> Graph:
    """int16 heads times cosines, plus their halves swapped times sines, to int8."""
    shape, half = (rows, heads, dim), (rows, heads, dim // 2)
    x, swapped, cosine, sine = (Tensor(n, shape, INT16) for n in ("x", "swapped", "xc", "xs"))
    tables = [Tensor(name, (rows, 1, dim), INT16) for name in ("cos", "sin")]
    y = Tensor("y", shape, INT8)
    ends = ((0, 0, 0), (0, 0, dim // 2))
    layers: list[Layer] = [
        Copy(f"swap{i}", swapped.view(f"w{i}", to, half), source=x.view(f"r{i}", at, half))
        for i, (at, to) in enumerate(zip(ends, ends[::-1], strict=True))
    ]
    layers += [
        q.mul("times_cos", x, tables[0], cosine), q.mul("times_sin", swapped, tables[1], sine),
        q.add("sum", cosine, sine, y),
    ]  # fmt: skip
    return Graph("rotation", [x, *tables], layers, [y])


# --- cache ----------------------------------------------------------------------------------------
def append(machine: NpuMachine, tokens: int, dim: int) -> Program:
    """New keys and values of one key head to the caches in main memory.

    Keys are rows of it. Values are transposed, so a column of a block changes: the block, which is
    as wide as a beat, comes, a COPY writes the new ones into it, and it goes back (all of its
    columns at once need not come). tokens: at most those of the block.
    """
    beat = machine.bus_bytes
    new = -(-tokens * dim // beat) * beat
    places = (0, new, 2 * new)
    stream = Stream(machine)

    def move(direction: str, index: int, rows: int, size: int) -> None:
        stream.transfer(
            direction,
            {"region": 0, "offset": places[index], "rows": rows, "row_bytes": size,
             "row_step": size, "buf": places[index], "buf_step": size},
        )  # fmt: skip

    move("to_shared", 0, 1, new)
    move("to_shared", 1, 1, new)
    if tokens < beat:
        move("to_shared", 2, dim, beat)
    stream.emit("DMA_WAIT", outstanding=0)
    stream.operation(
        "COPY",
        {"n0": tokens, "n1": 1, "n2": dim, "wide": 0, "src": places[1], "src_s0": dim, "src_s1": 0,
         "src_s2": 1, "dst": places[2], "dst_s0": 1, "dst_s1": 0, "dst_s2": beat},
    )  # fmt: skip
    # All of it is in one bank, where transfers and operations must not meet.
    stream.emit("KERNEL_WAIT", outstanding=0)
    move("to_memory", 0, 1, new)
    move("to_memory", 2, dim, beat)
    size = places[2] + dim * beat
    image = np.zeros((size // beat, beat // 2), np.uint16)
    return Program("npu", stream.finish(), image, {}, ((0, size),))
