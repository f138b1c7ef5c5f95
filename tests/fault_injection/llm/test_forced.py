"""A model led along given tokens against the same model decoding token by token."""

from functools import cache

import numpy as np
import pytest

from bankside.config import PimHardware
from bankside.fault_injection.llm.forced import Corruption, Forced, RankAttention, corruption
from bankside.isa.machine import Machine
from bankside.mapping.llm.loader import find_model, load_model
from bankside.mapping.llm.model import Model
from bankside.mapping.llm.transformer import NumpyAttention, generate
from bankside.mapping.lower_pim import KvLayout, Shape
from bankside.sim.attention import PimAttention

PROMPT, NEW = b"And the LORD spake unto Mo", 12
ROWS = len(PROMPT) + NEW - 1
FIRST = len(PROMPT)


@cache
def model(name: str = "gpt_mha") -> Model:
    return load_model(find_model(name))


@cache
def layout(name: str = "gpt_mha") -> KvLayout:
    m = model(name)
    machine = Machine.of(PimHardware.load("dimm_pim_ddr5"))
    shape = Shape(len(m.layers), m.kv_heads, m.query_heads, m.head_dim, ROWS)
    return KvLayout.of(machine, shape)


@cache
def forced(on_rank: bool, name: str = "gpt_mha") -> tuple[Forced, np.ndarray]:
    """A run along what the model itself writes, and the logits of that writing."""
    engine = RankAttention(layout(name)) if on_rank else NumpyAttention()
    made = generate(model(name), engine, PROMPT, NEW)
    tokens = [*PROMPT, *made.tokens[:-1]]
    return Forced(model(name), tokens, FIRST, layout(name) if on_rank else None), made.logits


@pytest.mark.parametrize("name", ["gpt_mha", "gpt_gqa"])
@pytest.mark.parametrize("on_rank", [False, True])
def test_fault_free_logits_are_those_of_decoding(on_rank: bool, name: str) -> None:
    run, wanted = forced(on_rank, name)
    assert np.array_equal(run.logits[FIRST - 1 :], wanted)


def test_the_rank_is_that_of_the_golden_programs() -> None:
    machine = layout().machine
    made = generate(model(), PimAttention(machine, ["golden", "timing"]), PROMPT, 4)
    assert np.array_equal(made.logits, forced(True)[1][:4])


def spoiled(base: type, layer: int, side: str, where: tuple[int, int, int], xor: int, first: int):
    """An engine whose cache has inverted bits from the row `first` on, for good."""

    class Spoiled(base):
        def decode(self, index, q, k, v):
            if index == layer and self._used[index] == first:
                store = (self._keys if side == "key" else self._values)[index]
                store.view(np.uint16)[where] ^= np.uint16(xor)
            return super().decode(index, q, k, v)

    return Spoiled


@pytest.mark.parametrize("on_rank", [False, True])
@pytest.mark.parametrize("first", [FIRST, FIRST + 5])
@pytest.mark.parametrize(
    ("layer", "side", "where", "xor"),
    [
        (0, "key", (3, 1, 7), 0x4000),
        (1, "value", (20, 0, 60), 0x8000),
        (3, "key", (25, 1, 9), 0x3000),
        (2, "value", (0, 0, 0), 0x0201),
    ],
)
def test_faulty_logits_are_those_of_decoding_from_a_faulty_cache(
    layer, side, where, xor, first, on_rank
) -> None:
    """Up to the first token that differs; behind it another text is decoded."""
    run, _ = forced(on_rank)
    shape = (len(model().layers), 2, ROWS, *run._golden.keys[0].shape[1:])
    element = np.ravel_multi_index((layer, side == "value", *where), shape)
    wrong = corruption(shape, np.array([element]), np.array([xor], np.uint16), first)
    found = run.faulty(wrong)
    kind = spoiled(RankAttention if on_rank else NumpyAttention, layer, side, where, xor, first)
    made = generate(model(), kind(layout()) if on_rank else kind(), PROMPT, NEW)
    same = len(made.tokens)
    for i, (one, two) in enumerate(zip(made.tokens, run.logits[FIRST - 1 :], strict=True)):
        if one != two.argmax():
            same = i + 1
            break
    assert np.array_equal(found[FIRST - 1 :][:same], made.logits[:same])
    assert np.array_equal(found[:first], run.logits[:first])
    if (layer, first) == (0, FIRST):
        assert not np.array_equal(found, run.logits)


def test_no_inverted_bits_no_change() -> None:
    run, _ = forced(True)
    nothing = Corruption(FIRST, {1: np.zeros_like(run._golden.keys[1], np.uint16)})
    assert np.array_equal(run.faulty(nothing), run.logits)


def test_infinities_of_a_gpu_break_the_rows_behind_them() -> None:
    """Exponent of all ones in every value of a token that is surely read: its own row's."""
    run, _ = forced(False)
    mask = np.zeros((ROWS, *run._golden.values[2].shape[1:]), np.uint16)
    bits = run._golden.values[2][FIRST + 2].view(np.uint16)
    mask[FIRST + 2] = ~bits & 0x7C00
    found = run.faulty(Corruption(FIRST + 2, {}, {2: mask}))
    assert np.isnan(found[FIRST + 2 :]).all() and np.isfinite(found[: FIRST + 2]).all()
    assert np.isfinite(forced(True)[0].faulty(Corruption(FIRST + 2, {}, {2: mask}))).all()


def test_a_tap_changes_one_layer_and_row() -> None:
    run, _ = forced(True)
    seen = []

    def tap(layer, first, y):
        seen.append((layer, first, y.shape))
        return y + np.float16(layer == 2)

    found = run.faulty(tap=tap, first=FIRST + 3, lowest=2)
    heads = model().query_heads, model().head_dim
    assert seen == [(i, FIRST + 3, (NEW - 4, *heads)) for i in (2, 3)]
    assert np.array_equal(found[: FIRST + 3], run.logits[: FIRST + 3])
    assert not np.array_equal(found[FIRST + 3], run.logits[FIRST + 3])
    assert np.array_equal(run.faulty(tap=lambda i, f, y: y), run.logits)
