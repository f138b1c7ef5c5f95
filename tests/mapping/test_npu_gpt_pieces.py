"""Single operations of a model on the npu: the numbers of the whole model, bit for bit."""

from functools import cache

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.isa.machines import load_machine, verify_program
from bankside.isa.program import Program
from bankside.mapping.llm import quantise_np
from bankside.mapping.llm.loader import SHIPPED, find_model, load_model
from bankside.mapping.npu_gpt import QuantGpt, prepared
from bankside.mapping.npu_gpt_pieces import (
    PRODUCTS,
    AttentionOperands,
    GptPieces,
    Operands,
    operands,
)
from bankside.sim.golden.npu import NpuGolden

MACHINE, TOKENS, LAYER = load_machine("npu_llm_32"), list(b"And God said"), 1


@cache
def model() -> QuantGpt:
    text = (SHIPPED / "text_kjv" / "calibration.txt").read_bytes()[:128]
    return prepared(load_model(find_model("gpt_gqa")), [list(text)])


@cache
def given() -> tuple[Operands, dict[str, np.ndarray]]:
    """Operands of the layer, and what the whole model makes of them."""
    kept: dict[str, np.ndarray] = {}

    def tap(name: str, result: np.ndarray) -> np.ndarray:
        kept[name.removeprefix(f"{LAYER}.")] = result.copy()
        return result

    quantise_np.logits(model(), TOKENS, tap)
    return operands(model(), TOKENS, LAYER), kept


def pieces() -> GptPieces:
    return GptPieces(MACHINE, model(), LAYER, len(TOKENS))


def run(program: Program, wanted: np.ndarray, bits: int) -> np.ndarray:
    verify_program(program, MACHINE)
    memory = np.ascontiguousarray(NpuGolden(MACHINE).run(program).outputs).reshape(-1)
    data = memory.view(np.uint8)[GptPieces.result_address(program) :]
    return data.view(np.int8 if bits == 8 else np.int16)[: wanted.size].reshape(wanted.shape)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("product", PRODUCTS)
def test_a_product(product: str, rows: int) -> None:
    found, wanted = given()
    made = pieces()
    x, expected = found.products[product][-rows:], wanted[product][-rows:]
    result = run(made.product(product, x), expected, made.linear(product).out.bits)
    assert np.array_equal(result, expected) and expected.any()


@pytest.mark.parametrize("rows", [1, 3])
def test_attention(rows: int) -> None:
    found, wanted = given()
    all_of = found.attention
    expected = wanted["context"][-rows:]
    program = pieces().attention(AttentionOperands(all_of.q[-rows:], all_of.k, all_of.v))
    assert np.array_equal(run(program, expected, 8), expected) and expected.any()


def test_what_does_not_fit_is_refused() -> None:
    made, found = pieces(), given()[0]
    with pytest.raises(ConfigError, match="'gait' is none of a decoder layer.*mean 'gate'"):
        made.product("gait", found.products["gate"])
    with pytest.raises(ConfigError, match="17 rows; one program takes 1 to 12"):
        made.product("gate", np.zeros((17, 128), np.int64))
    with pytest.raises(ConfigError, match="1 keys for 2 queries"):
        a = found.attention
        made.attention(AttentionOperands(a.q[-2:], a.k[:1], a.v[:1]))
