"""Work of an npu with a shipped language model: a layer, or a single operation of one."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from bankside.errors import ConfigError
from bankside.fault_injection.operation import Operation, spans_of
from bankside.isa.program import Program
from bankside.mapping.llm.model import Model
from bankside.mapping.npu_gpt import QuantGpt
from bankside.schema import Section

__all__ = ["GptAttention", "GptLayer", "GptProduct", "attention", "attention_result", "layer",
           "product", "product_result"]  # fmt: skip


class GptLayer(Section):
    """One layer of a shipped language model in int8, with embedding and final norm, for some bytes
    of text.
    """

    model: str = "gpt_mha"
    layer: int = Field(default=0, ge=0)
    text: str = Field(default="A", min_length=1)


class GptAttention(Section):
    """Attention of all heads of a layer, of the last `rows` bytes of a text over all before them.

    Attributes:
        form: of the integer model.
    """

    model: str = "gpt_mha"
    layer: int = Field(default=0, ge=0)
    text: str = Field(default="And God said", min_length=1)
    rows: int = Field(default=1, ge=1)
    form: Literal["w8a8", "w4a8"] = "w8a8"


class GptProduct(GptAttention):
    """One matrix product of a layer: query_key, value, output, gate, up, down, or head behind the
    last one; for the last `rows` bytes of a text.
    """

    product: str = "up"


def _loaded(name: str, folder: Path) -> tuple[str, Model]:
    from bankside.mapping.llm.loader import find_model, load_model

    beside = folder / name
    path = find_model(str(beside) if beside.is_dir() else name)
    return str(path), load_model(path)


def _checked(model: Model | QuantGpt, layer_: int, text: str) -> list[int]:
    if layer_ >= len(model.layers):
        raise ConfigError(f"layer: is {layer_}; the model has {len(model.layers)}")
    tokens = list(text.encode())
    if len(tokens) > model.context or max(tokens) >= model.vocabulary:
        raise ConfigError(
            f"text: {len(tokens)} bytes up to {max(tokens)}; the model takes {model.context} "
            f"tokens below {model.vocabulary}"
        )
    return tokens


def layer(machine: Any, what: GptLayer, folder: Path) -> list[Program]:
    """Programs of a whole layer."""
    from bankside.mapping.npu_gpt import prepared
    from bankside.mapping.npu_gpt_stream import GptPrograms

    model = _loaded(what.model, folder)[1]
    tokens = _checked(model, what.layer, what.text)
    whole = prepared(model, [tokens * 8], name=what.model)
    one = replace(whole, layers=(whole.layers[what.layer],))
    programs = GptPrograms(machine, one, len(tokens))
    return [programs.setup(), programs.run(tokens, 0)]


# --- single operations ----------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _quantised(name: str, folder: Path, form: Literal["w8a8", "w4a8"]) -> QuantGpt:
    from bankside.fault_injection.llm.windows import calibration_windows
    from bankside.mapping.npu_gpt import prepared

    model = _loaded(name, folder)[1]
    return prepared(model, calibration_windows(model), form, name=name)


def _pieces(machine: Any, what: GptAttention, folder: Path) -> Any:
    """(programs of the layer's operations, operands)"""
    from bankside.mapping.npu_gpt_pieces import GptPieces, operands

    model = _quantised(what.model, folder, what.form)
    tokens = _checked(model, what.layer, what.text)
    if what.rows > len(tokens):
        raise ConfigError(f"rows: is {what.rows}; the text has {len(tokens)} bytes")
    pieces = GptPieces(machine, model, what.layer, len(tokens))
    return pieces, operands(model, tokens, what.layer)


def product(machine: Any, what: GptProduct, folder: Path) -> list[Program]:
    """The program of one product."""
    pieces, given = _pieces(machine, what, folder)
    pieces.linear(what.product)
    return [pieces.product(what.product, given.products[what.product][-what.rows :])]


def product_result(machine: Any, what: GptProduct, folder: Path, program: Program) -> Operation:
    """Where its result lies."""
    pieces, _ = _pieces(machine, what, folder)
    part = pieces.linear(what.product)
    return _result(program, "gemm", what.rows, len(part.mult), part.out.bits)


def attention(machine: Any, what: GptAttention, folder: Path) -> list[Program]:
    """The program of the attention."""
    pieces, given = _pieces(machine, what, folder)
    all_of = given.attention
    return [pieces.attention(replace(all_of, q=all_of.q[-what.rows :]))]


def attention_result(machine: Any, what: GptAttention, folder: Path, program: Program) -> Operation:
    """Where its result lies."""
    model = _quantised(what.model, folder, what.form)
    return _result(program, "attention", what.rows, model.query_heads * model.head_dim, 8)


def _result(
    program: Program, op: Literal["gemm", "attention"], rows: int, columns: int, bits: Any
) -> Operation:
    from bankside.mapping.npu_gpt_pieces import GptPieces

    index = np.arange(rows * columns).reshape(rows, columns)
    places = GptPieces.result_address(program) + index * (bits // 8)
    return Operation("npu", op, bits, places, spans_of(program))
