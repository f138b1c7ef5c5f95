"""Single operations of a quantised Llama decoder as programs of the `npu` engine: operands come
from main memory, the result goes there, nothing else is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.program import Program
from bankside.mapping.llm import quantise_np
from bankside.mapping.llm.quantise import Affine
from bankside.mapping.npu_gpt import QuantGpt, QuantLinear
from bankside.mapping.npu_gpt_layout import CONSTANTS, LOGITS, GptLayout, padded
from bankside.mapping.npu_gpt_stream import LayerRun
from bankside.registry import nearest

__all__ = ["PRODUCTS", "AttentionOperands", "GptPieces", "Operands", "operands"]

I64 = NDArray[np.int64]
#: Product -> buffers of its input and its result (`GptLayout.word`).
_BUFFERS = {
    "query_key": ("normed", "qk"), "value": ("normed", "v"), "output": ("context", "delta"),
    "gate": ("normed", "gate"), "up": ("normed", "up"), "down": ("product", "delta"),
    "head": ("normed", "logits"),
}  # fmt: skip
PRODUCTS = tuple(_BUFFERS)
"""Matrix products of a layer; `head` follows the last one."""
_OPERANDS, _RESULT = LOGITS + 1, LOGITS + 2
"""Regions behind those of `GptLayout`."""


@dataclass(frozen=True, eq=False)
class AttentionOperands:
    """int8 q [rows, query heads, head_dim], of the last `rows` tokens, and k, v [tokens, kv heads,
    head_dim].
    """

    q: I64
    k: I64
    v: I64


@dataclass(frozen=True, eq=False)
class Operands:
    """What a model computes with: inputs [tokens, channels] of the products of one layer (`head`:
    behind the last one), operands of its attention.
    """

    products: dict[str, I64]
    attention: AttentionOperands


def operands(model: QuantGpt, tokens: Sequence[int], layer: int) -> Operands:
    """Operands of the operations of layer `layer` for a run of tokens from position 0 on."""
    np_ = quantise_np
    x, found = model.embedding[np.asarray(tokens)].astype(np.int64), {}
    attention: AttentionOperands | None = None
    for i, part in enumerate(model.layers):
        normed = np_.norm(x, part.norm1)
        context = np_.attention(model, i, normed)
        after = np_.add(x, np_.linear(context, part.output))
        normed2 = np_.norm(after, part.norm2)
        inner = np_.feed_forward(model, i, normed2)
        x = np_.add(after, np_.linear(inner, part.down))
        if i == layer:
            found = {"query_key": normed, "value": normed, "output": context, "gate": normed2,
                     "up": normed2, "down": inner}  # fmt: skip
            attention = _attention_operands(model, i, normed)
    assert attention is not None
    return Operands(found | {"head": np_.norm(x, model.final)}, attention)


def _attention_operands(model: QuantGpt, index: int, normed: I64) -> AttentionOperands:
    part, count, width = model.layers[index], len(normed), model.head_dim
    joined = quantise_np.linear(normed, part.query_key).reshape(count, -1, width)
    cosines, sines = (t[:count].astype(np.int64) for t in (model.cosines, model.sines))
    rotated = quantise_np.rotate(joined, cosines, sines)
    v = quantise_np.linear(normed, part.value).reshape(count, -1, width)
    return AttentionOperands(rotated[:, : model.query_heads], rotated[:, model.query_heads :], v)


class GptPieces:
    """Programs of single operations of one layer of a model on a machine.

    tokens: of the longest run that attention reads. Output `result` of every program: [rows,
    channels], int8 or int16, rows one after the other from `result_address` on.

    Raises ConfigError when the machine cannot hold the layer.
    """

    def __init__(self, machine: NpuMachine, model: QuantGpt, layer: int, tokens: int) -> None:
        self.model = replace(model, layers=(model.layers[layer],))
        self.layout = GptLayout(machine, self.model, tokens)

    def linear(self, product: str) -> QuantLinear:
        """The layer of a product of `PRODUCTS`. Raises ConfigError for a product that is none."""
        if product not in _BUFFERS:
            raise ConfigError(
                f"product {product!r} is none of a decoder layer{nearest(product, PRODUCTS)}; "
                f"choose from: {', '.join(PRODUCTS)}"
            )
        return self.model.head if product == "head" else getattr(self.model.layers[0], product)

    def product(self, product: str, x: I64) -> Program:
        """One matrix product with its requantisation; x int8 [rows, inputs]."""
        part = self.linear(product)
        self._check_rows(len(x))
        name = product if product == "head" else f"0.{product}"
        run = _Product(self.layout, len(x), name, *_BUFFERS[product])
        size = len(x) * len(part.mult) * part.out.bits // 8
        return self._program(run, [x.astype(np.int8).tobytes()], size)

    def attention(self, given: AttentionOperands) -> Program:
        """Attention of all heads of the last tokens; result int8 [rows, query heads x head_dim]."""
        self._check_rows(len(given.q))
        if not len(given.q) <= len(given.k) <= self.layout.tokens:
            raise ConfigError(
                f"{len(given.k)} keys for {len(given.q)} queries; expected as many or more, at "
                f"most {self.layout.tokens}"
            )
        missing = self.layout.tokens - len(given.k)
        k, v = (np.pad(x.astype(np.int8), ((0, missing), (0, 0), (0, 0))) for x in
                (given.k, given.v))  # fmt: skip
        parts = [given.q.astype(np.int8), k.transpose(1, 0, 2), v.transpose(1, 2, 0)]
        run = _Attention(self.layout, len(given.q), len(given.k))
        size = len(given.q) * self.model.query_heads * self.model.head_dim
        return self._program(run, [np.ascontiguousarray(p).tobytes() for p in parts], size)

    def _check_rows(self, rows: int) -> None:
        if not 1 <= rows <= self.layout.run:
            raise ConfigError(f"{rows} rows; one program takes 1 to {self.layout.run}")

    def _program(self, run: _Piece, data: Sequence[bytes], size: int) -> Program:
        """The image of the layer, operands and room for the result behind it."""
        bus = self.layout.machine.bus_bytes
        image = bytearray(self.layout.image.astype("<u2").tobytes())
        regions = list(self.layout.regions)
        parts = [part.ljust(padded(len(part), bus), b"\0") for part in data]
        for content in (b"".join(parts), bytes(padded(size, bus))):
            regions.append((len(image), len(content)))
            image += content
        room = self.layout.machine.config.memory.bytes
        if len(image) > room:
            raise ConfigError(
                f"{self.layout.machine.config.name}: the operation takes {len(image)} bytes of "
                f"main memory, which has {room}; raise memory.bytes"
            )
        words = run.piece([len(part) for part in parts], regions[_RESULT][1])
        base, held = regions[_RESULT]
        rows = np.frombuffer(bytes(image), "<u2").reshape(-1, bus // 2)
        return Program("npu", words, rows, {"result": (base // bus, held // bus)}, tuple(regions))

    @staticmethod
    def result_address(program: Program) -> int:
        """Byte of main memory from which the result lies there."""
        return program.regions[_RESULT][0]


class _Piece(LayerRun):
    """Words of one operation. sources: buffers of the operands; target: of the result."""

    sources: tuple[int, ...]
    target: int

    def piece(self, sizes: Sequence[int], size: int) -> tuple[int, ...]:
        """sizes: bytes of the operands; size: of the result; as they are transferred."""
        constants = padded(self.layout.constant_bytes, self.layout.machine.bus_bytes)
        last = self._move("to_shared", CONSTANTS, 0, self.layout.word["constants"], constants)
        offset = 0
        for word, count in zip(self.sources, sizes, strict=True):
            last = self._move("to_shared", _OPERANDS, offset, word, count)
            offset += count
        self.stream.await_transfer(last)
        self.compute()
        self.stream.emit("KERNEL_WAIT", outstanding=0)
        self._move("to_memory", _RESULT, 0, self.target, size)
        return self.stream.finish()

    def _move(self, direction: str, region: int, offset: int, word: int, size: int) -> int:
        """A transfer of `size` bytes in one row."""
        registers = {"region": region, "offset": offset, "rows": 1, "row_bytes": size,
                     "buf": word * WORD_BYTES}  # fmt: skip
        return self.stream.transfer(direction, registers)

    def compute(self) -> None:
        """The operation."""
        raise NotImplementedError


class _Product(_Piece):
    def __init__(self, layout: GptLayout, rows: int, name: str, source: str, target: str) -> None:
        self.name = name
        super().__init__(layout, rows, 0, logits=name == "head")
        self.source, self.out = source, target
        self.sources, self.target = (layout.word[source],), layout.word[target]

    def _order(self) -> list[str]:
        return [self.name]

    def compute(self) -> None:
        part = self.layout.linear[self.name].part
        x = self._tokens(self.source, part.weights.numbers.shape[1], part.source)
        self._linear(self.name, x, self._tokens(self.out, len(part.mult), part.out))


class _Attention(_Piece):
    def __init__(self, layout: GptLayout, rows: int, tokens: int) -> None:
        super().__init__(layout, rows, tokens - rows, logits=False)
        word = layout.word
        self.sources = (word["q"], layout.keys(0, 0, 0), layout.values(0, 0))
        self.target = word["context"]

    def _order(self) -> list[str]:
        return []

    def compute(self) -> None:
        model, form = self.model, Affine(1.0)
        size = model.head_dim // WORD_BYTES
        q = self._tokens("q", model.query_heads * model.head_dim, form)
        q = replace(q, sy=model.query_heads * size, sx=size)
        context = self._tokens("context", model.query_heads * model.head_dim, form)
        for row in range(self.count):
            for head in range(model.query_heads):
                self._head(0, row, head, q, context)
