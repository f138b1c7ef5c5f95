"""Programs of the `npu` engine for a quantised Llama decoder: one for the constants, then one per
run of tokens (the prompt, each new token).

Positions of a feature map are the tokens of a run, or tokens (rows) and heads (columns). Where all
of it lies: `npu_gpt_layout`. Ref: docs/npu.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.npu_weights import RAW8, W4
from bankside.isa.program import Program
from bankside.isa.spec import load_spec
from bankside.mapping.llm.quantise import Affine
from bankside.mapping.npu_gpt import (
    PROBABILITY,
    ROPE_PRODUCT,
    ROPE_SUM,
    ROUNDING,
    UNIT,
    QuantGpt,
    QuantNorm,
)
from bankside.mapping.npu_gpt_layout import (
    CONSTANTS,
    EMBEDDING,
    LOGITS,
    ROPE,
    WEIGHTS,
    GptLayout,
    padded,
)
from bankside.mapping.npu_stream import Chunk, Stream

_ENUMS = load_spec("npu").enums
_ROW = _ENUMS["weight_mode"]["row"]
_GLOBAL, _CHANNEL = (_ENUMS["scale_mode"][name] for name in ("global", "channel"))
_COLUMNS = 2
"""`ifm2_broadcast`: the second operand is the same in all columns."""


class GptPrograms:
    """Programs of one model on one machine."""

    def __init__(self, machine: NpuMachine, model: QuantGpt, tokens: int) -> None:
        self.layout = GptLayout(machine, model, tokens)

    def _program(self, words: tuple[int, ...], outputs: dict[str, tuple[int, int]]) -> Program:
        layout = self.layout
        return Program("npu", words, layout.image, outputs, layout.regions)

    def setup(self) -> Program:
        """Brings the constants. Runs once, before all others."""
        layout, bus = self.layout, self.layout.machine.bus_bytes
        stream = Stream(layout.machine)
        size = padded(layout.constant_bytes, bus)
        stream.transfer(
            "to_shared",
            {"region": CONSTANTS, "rows": 1, "row_bytes": size,
             "buf": layout.word["constants"] * WORD_BYTES},
        )  # fmt: skip
        return self._program(stream.finish(), {})

    def run(self, tokens: Sequence[int], position: int, *, logits: bool = True) -> Program:
        """The tokens at `position` and after; output `logits` of the last one where asked for.

        At most `GptLayout.run` tokens. Keys and values of the positions before are in the caches.
        """
        layout = self.layout
        if not 1 <= len(tokens) <= layout.run or position + len(tokens) > layout.tokens:
            raise ConfigError(
                f"{len(tokens)} tokens from position {position} on; one program takes 1 to "
                f"{layout.run}, all together {layout.tokens}"
            )
        words = LayerRun(layout, len(tokens), position, logits).words(tokens)
        bus = layout.machine.bus_bytes
        base, size = layout.regions[LOGITS]
        return self._program(words, {"logits": (base // bus, size // bus)} if logits else {})

    def macs(self, count: int, position: int, *, logits: bool = True) -> int:
        """Multiplications of a run."""
        model, linear = self.layout.model, self.layout.linear
        total = sum(
            placed.part.weights.numbers.size * (1 if name == "head" else count)
            for name, placed in linear.items()
            if logits or name != "head"
        )
        pairs = sum(position + t + 1 for t in range(count))
        return total + 2 * pairs * model.query_heads * model.head_dim * len(model.layers)

    def streamed(self, *, logits: bool = True) -> int:
        """Bytes of weights that a run fetches."""
        head = sum(size for _, size, _, _ in self.layout.linear["head"].pieces)
        return self.layout.weight_bytes - (0 if logits else head)

    def logits(self, rows: NDArray[np.uint16]) -> NDArray[np.int64]:
        """int16 scores of the output `logits`."""
        flat = np.ascontiguousarray(rows, np.uint16).reshape(-1).view(np.int16)
        return flat[: self.layout.model.vocabulary].astype(np.int64)


@dataclass(frozen=True)
class _Map:
    """A feature map: first word, words between rows and columns, its form."""

    word: int
    sy: int
    sx: int
    form: Affine

    def registers(self, name: str) -> dict[str, int]:
        """As input `ifm` or `ifm2`."""
        return {name: self.word, f"{name}_sy": self.sy, f"{name}_sx": self.sx,
                f"{name}_zero": self.form.zero, f"{name}_bits": self.form.bits // 16}  # fmt: skip

    def result(self, h: int, w: int, c: int) -> dict[str, int]:
        """As output of h x w positions of c channels."""
        form = self.form
        return {
            "ofm": self.word, "ofm_sy": self.sy, "ofm_sx": self.sx, "ofm_h": h, "ofm_w": w,
            "ofm_c": c, "ofm_zero": form.zero, "ofm_bits": form.bits // 16, "ofm_min": form.low,
            "ofm_max": form.high,
        }  # fmt: skip

    def moved(self, words: int) -> _Map:
        return _Map(self.word + words, self.sy, self.sx, self.form)


_INT16, _INT8 = Affine(1.0, 0, 16), Affine(1.0)


class LayerRun:
    """Words of one run of tokens; `npu_gpt_pieces` takes single operations of it."""

    def __init__(self, layout: GptLayout, count: int, position: int, logits: bool) -> None:
        self.layout, self.model, self.with_logits = layout, layout.model, logits
        self.count, self.position = count, position
        self.chunks = {
            name: [Chunk(offset, size) for offset, size, _, _ in placed.pieces]
            for name, placed in layout.linear.items()
            if logits or name != "head"
        }
        order = [chunk for name in self._order() for chunk in self.chunks[name]]
        self.stream = Stream(layout.machine, order, region=WEIGHTS)

    def _order(self) -> list[str]:
        parts = ("query_key", "value", "output", "gate", "up", "down")
        names = [f"{i}.{p}" for i in range(len(self.model.layers)) for p in parts]
        return [*names, "head"] if self.with_logits else names

    def words(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The whole stream."""
        self._load(tokens)
        x, y = (self._tokens(name, self.model.hidden, _INT16) for name in ("x", "y"))
        for index in range(len(self.model.layers)):
            self._attention(index, x, y)
            self._feed_forward(index, y, x)
        if self.with_logits:
            self._logits(x)
        return self.stream.finish()

    def _tokens(self, name: str, channels: int, form: Affine) -> _Map:
        """Feature map with one position per token."""
        size = channels * form.bits // 8 // WORD_BYTES
        return _Map(self.layout.word[name], size * self.count, size, form)

    def _load(self, tokens: Sequence[int]) -> None:
        model, layout = self.model, self.layout
        row = 2 * model.hidden
        for i, token in enumerate(tokens):
            self.stream.transfer(
                "to_shared",
                {"region": EMBEDDING, "offset": token * row, "rows": 1, "row_bytes": row,
                 "buf": layout.word["x"] * WORD_BYTES + i * row},
            )  # fmt: skip
        row = 4 * model.head_dim
        last = self.stream.transfer(
            "to_shared",
            {"region": ROPE, "offset": self.position * row, "rows": 1,
             "row_bytes": row * self.count, "buf": layout.word["rope"] * WORD_BYTES},
        )  # fmt: skip
        self.stream.await_transfer(last)

    # --- operations
    def _norm(self, name: str, part: QuantNorm, x: _Map) -> _Map:
        out = self._tokens("normed", self.model.hidden, part.out)
        self.stream.operation(
            "NORM",
            x.registers("ifm")
            | out.result(1, self.count, self.model.hidden)
            | {"scale": self._constant(name), "epsilon": part.epsilon,
               "epsilon_shift": part.epsilon_shift, "o_shift": part.o_shift},
            mode="rms",
        )  # fmt: skip
        return out

    def _constant(self, name: str) -> int:
        return self.layout.word["constants"] + self.layout.constant[name]

    def _linear(
        self, name: str, x: _Map, out: _Map, *, lut: int | None = None, after: bool = False
    ) -> None:
        """CONV of a row of tokens, in pieces. after: it may overlap with the operation before."""
        placed, layout = self.layout.linear[name], self.layout
        inputs = placed.part.weights.numbers.shape[1]
        w4 = placed.part.weights.group_scales is not None
        common = x.registers("ifm") | {
            "ifm_h": 1, "ifm_w": self.count, "ifm_c": inputs, "kernel_h": 1, "kernel_w": 1,
            "stride_y": 1, "stride_x": 1, "dilation_y": 1, "dilation_x": 1,
            "weight_format": W4 if w4 else RAW8, "scale_mode": _CHANNEL, "lut_enable": 0,
        }  # fmt: skip
        common |= self._mac()
        if lut is not None:
            common |= {"lut_enable": 1, "lut": lut}
        for i, (chunk, piece) in enumerate(zip(self.chunks[name], placed.pieces, strict=True)):
            _, _, first, outputs = piece
            words = first * out.form.bits // 8 // WORD_BYTES
            registers = common | out.moved(words).result(1, self.count, outputs)
            registers |= {
                "weights": self.stream.weights(chunk), "depend": int(after or i > 0),
                "scale": layout.word["constants"] + placed.records + first // 2,
            }  # fmt: skip
            self.stream.used(chunk, self.stream.operation("CONV", registers))

    def _mac(self) -> dict[str, int]:
        block = min(self.count, self.layout.machine.config.npu.accumulators)
        return {"block": block, "weight_mode": _ROW, "rounding": ROUNDING}

    def _add(self, x: _Map, y: _Map, out: _Map, shape: tuple[int, int, int], scale=UNIT) -> None:
        self.stream.operation(
            "ELEMENTWISE",
            x.registers("ifm")
            | y.registers("ifm2")
            | out.result(*shape)
            | {"ifm2_broadcast": 0, "rounding": ROUNDING, "left_shift": 0, "a_mult": UNIT[0],
               "a_shift": UNIT[1], "b_mult": UNIT[0], "b_shift": UNIT[1], "o_mult": scale[0],
               "o_shift": scale[1]},
            op="add",
        )  # fmt: skip

    def _mul(
        self, x: _Map, y: _Map, out: _Map, shape: tuple[int, int, int], scale: tuple[int, int],
        broadcast: int = 0,
    ) -> None:  # fmt: skip
        self.stream.operation(
            "ELEMENTWISE",
            x.registers("ifm")
            | y.registers("ifm2")
            | out.result(*shape)
            | {"ifm2_broadcast": broadcast, "rounding": ROUNDING, "o_mult": scale[0],
               "o_shift": scale[1]},
            op="mul",
        )  # fmt: skip

    # --- parts of the model
    def _attention(self, index: int, x: _Map, y: _Map) -> None:
        layer, model = self.model.layers[index], self.model
        normed = self._norm(f"{index}.norm1", layer.norm1, x)
        heads = model.query_heads + model.kv_heads
        qk = self._tokens("qk", heads * model.head_dim, _INT16)
        v = self._tokens("v", model.kv_heads * model.head_dim, layer.value.out)
        self._linear(f"{index}.query_key", normed, qk)
        self._linear(f"{index}.value", normed, v, after=True)
        q = self._rotate(index)
        self._append_values(index, v)
        context = self._tokens("context", model.query_heads * model.head_dim, _INT8)
        for t in range(self.count):
            for head in range(model.query_heads):
                self._head(index, t, head, q, context)
        context = _Map(context.word, context.sy, context.sx, layer.output.source)
        delta = self._tokens("delta", model.hidden, _INT16)
        self._linear(f"{index}.output", context, delta)
        self._add(x, delta, y, (1, self.count, model.hidden))

    def _rotate(self, index: int) -> _Map:
        """RoPE of the int16 queries and keys; keys go to the cache. Returns the queries."""
        model, word, n = self.model, self.layout.word, self.count
        dim = model.head_dim // WORD_BYTES
        heads = model.query_heads + model.kv_heads
        self.stream.operation("COPY", self._swap_halves(n * heads))
        maps = {
            name: _Map(word[name], heads * 2 * dim, 2 * dim, _INT16)
            for name in ("qk", "swapped", "with_cos", "with_sin")
        }
        table = _Map(word["rope"], 4 * dim, 0, _INT16)
        shape = (n, heads, model.head_dim)
        self._mul(maps["qk"], table, maps["with_cos"], shape, ROPE_PRODUCT, _COLUMNS)
        sines = table.moved(2 * dim)
        self._mul(maps["swapped"], sines, maps["with_sin"], shape, ROPE_PRODUCT, _COLUMNS)
        q = _Map(word["q"], model.query_heads * dim, dim, _INT8)
        keys = _Map(self.layout.keys(index, 0, self.position), dim, self.layout.tokens * dim, _INT8)
        offset = model.query_heads * 2 * dim
        for first, count, out in ((0, model.query_heads, q), (offset, model.kv_heads, keys)):
            a, b = maps["with_cos"].moved(first), maps["with_sin"].moved(first)
            self._add(a, b, out, (n, count, model.head_dim), ROPE_SUM)
        return q

    def _swap_halves(self, heads: int) -> dict[str, int]:
        size = 2 * self.model.head_dim
        half, word = size // 2, self.layout.word
        return {
            "n0": heads, "n1": 2, "n2": half // WORD_BYTES, "wide": 1,
            "src": word["qk"] * WORD_BYTES + half, "src_s0": size, "src_s1": -half,
            "src_s2": WORD_BYTES, "dst": word["swapped"] * WORD_BYTES, "dst_s0": size,
            "dst_s1": half, "dst_s2": WORD_BYTES,
        }  # fmt: skip

    def _append_values(self, index: int, v: _Map) -> None:
        """Transposed into the cache: byte t of row d."""
        model, row = self.model, self.layout.tokens
        dst = self.layout.values(index, 0) * WORD_BYTES + self.position
        self.stream.operation(
            "COPY",
            {"n0": self.count, "n1": model.kv_heads, "n2": model.head_dim, "wide": 0,
             "src": v.word * WORD_BYTES, "src_s0": v.sx * WORD_BYTES, "src_s1": model.head_dim,
             "src_s2": 1, "dst": dst, "dst_s0": 1, "dst_s1": model.head_dim * row,
             "dst_s2": row},
        )  # fmt: skip

    def _head(self, index: int, t: int, head: int, q: _Map, context: _Map) -> None:
        """Attention of one token and head over all tokens up to it."""
        model, word, layout = self.model, self.layout.word, self.layout
        part, past = model.layers[index].heads[head], self.position + t + 1
        dim, kv = model.head_dim // WORD_BYTES, head // model.group
        scores = _Map(word["scores"], 0, 0, part.score_out)
        chances = _Map(word["chances"], 0, 0, PROBABILITY)
        name = f"{index}.{head}"
        self._matmul(
            q.moved(t * q.sy + head * q.sx), layout.keys(index, kv, 0), dim, model.head_dim,
            scores, past, self._constant(f"{name}.score"),
        )  # fmt: skip
        self.stream.operation(
            "SOFTMAX",
            scores.registers("ifm")
            | chances.result(1, 1, past)
            | {"lut": self._constant(f"{name}.table")},
        )
        out = _Map(context.word + t * context.sx + head * dim, 0, 0, part.context_out)
        self._matmul(
            chances, layout.values(index, kv), layout.tokens // WORD_BYTES, past, out,
            model.head_dim, self._constant(f"{name}.context"),
        )  # fmt: skip

    def _matmul(
        self, x: _Map, rows: int, stride: int, inner: int, out: _Map, outputs: int, scale: int,
    ) -> None:  # fmt: skip
        self.stream.operation(
            "MATMUL",
            x.registers("ifm")
            | out.result(1, 1, outputs)
            | {"ifm_c": inner, "ifm2": rows, "ifm2_sx": stride, "ifm2_zero": 0, "ifm2_bits": 0,
               "scale": scale, "scale_mode": _GLOBAL, "lut_enable": 0, "depend": 0}
            | self._mac(),
        )  # fmt: skip

    def _feed_forward(self, index: int, x: _Map, y: _Map) -> None:
        layer, n = self.model.layers[index], self.count
        inner = self.model.inner
        normed = self._norm(f"{index}.norm2", layer.norm2, x)
        gate = self._tokens("gate", inner, layer.gate.out)
        up = self._tokens("up", inner, layer.up.out)
        self._linear(f"{index}.gate", normed, gate, lut=self._constant(f"{index}.silu"))
        self._linear(f"{index}.up", normed, up, after=True)
        active = _Map(gate.word, gate.sy, gate.sx, layer.silu_out)
        product = self._tokens("product", inner, layer.product_out)
        self._mul(active, up, product, (1, n, inner), layer.product)
        delta = self._tokens("delta", self.model.hidden, _INT16)
        self._linear(f"{index}.down", product, delta)
        self._add(x, delta, y, (1, n, self.model.hidden))

    def _logits(self, x: _Map) -> None:
        """Of the last token, and out to main memory."""
        model, layout = self.model, self.layout
        normed = self._norm("final", model.final, x)
        last = normed.moved((self.count - 1) * normed.sx)
        self.count = 1
        self._linear("head", last, self._tokens("logits", model.vocabulary, model.head.out))
        self.stream.emit("KERNEL_WAIT", outstanding=0)
        size = padded(2 * model.vocabulary, layout.machine.bus_bytes)
        self.stream.transfer(
            "to_memory",
            {"region": LOGITS, "offset": 0, "rows": 1, "row_bytes": size,
             "buf": layout.word["logits"] * WORD_BYTES},
        )  # fmt: skip
