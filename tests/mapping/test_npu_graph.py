"""Graphs that make no sense are refused with the layer, what is wrong and what was expected."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.mapping.llm.quantise import Affine
from bankside.mapping.npu_graph import Graph, Layer, Tensor
from bankside.mapping.npu_layers import (
    Conv2d,
    Copy,
    Depthwise,
    Elementwise,
    Lut,
    MatMul,
    Normalisation,
    Pool,
    Softmax,
)

FORM, WIDE = Affine(0.1), Affine(0.1, 0, 16)
X = Tensor("x", (4, 5, 40), FORM)
ONE = {"mult": np.array([1 << 30], np.int32), "shift": np.array([-4], np.int32)}


def out(*shape: int, form: Affine = FORM) -> Tensor:
    return Tensor("y", shape, form)


def conv(**keys: Any) -> Conv2d:
    good = {
        "output": out(4, 5, 8), "source": X, "weights": np.ones((8, 1, 1, 40), np.int8),
        "bias": np.zeros(8, np.int32), **ONE,
    }  # fmt: skip
    return Conv2d("c", **(good | keys))


def depthwise(**keys: Any) -> Depthwise:
    good = {
        "output": out(4, 5, 40), "source": X, "weights": np.ones((40, 1, 1), np.int8),
        "bias": np.zeros(40, np.int32), **ONE,
    }  # fmt: skip
    return Depthwise("d", **(good | keys))


def matmul(**keys: Any) -> MatMul:
    good = {"output": out(4, 5, 7), "a": X, "b": Tensor("b", (1, 7, 40), FORM), **ONE}
    return MatMul("m", **(good | keys))


def pool(**keys: Any) -> Pool:
    return Pool("p", **({"output": out(2, 5, 40), "source": X, "mode": "max"} | keys))


def add(**keys: Any) -> Elementwise:
    good = {"output": out(4, 5, 40), "op": "add", "a": X, "b": X, "o_scale": (1 << 30, 0)}
    return Elementwise("e", **(good | keys))


def lut(**keys: Any) -> Lut:
    good = {"output": out(4, 5, 40), "source": X, "table": np.zeros(256, np.int8)}
    return Lut("l", **(good | keys))


def softmax(**keys: Any) -> Softmax:
    good = {"output": out(4, 5, 40), "source": X, "table": np.zeros(256, np.int32)}
    return Softmax("s", **(good | keys))


def norm(**keys: Any) -> Normalisation:
    good = {
        "output": out(4, 5, 40), "source": X, "gain": np.ones(40, np.int16), "mode": "rms",
        "epsilon": 1, "epsilon_shift": 0, "o_shift": 50,
    }  # fmt: skip
    return Normalisation("n", **(good | keys))


def copy(**keys: Any) -> Copy:
    return Copy("k", **({"output": out(5, 4, 40), "source": X, "order": (1, 0, 2)} | keys))


GOOD = (conv, depthwise, matmul, pool, add, lut, softmax, norm, copy)


@pytest.mark.parametrize("make", GOOD)
def test_the_layers_that_the_bad_ones_come_from_are_good(make: Callable[[], Layer]) -> None:
    layer = make()
    layer.check()
    assert layer.macs == {"c": 20 * 320, "d": 20 * 40, "m": 20 * 280}.get(layer.name, 0)


BAD = (
    (conv, {"weights": np.ones((8, 1, 2, 40), np.int8)},
     r"shape of weights is \(8, 1, 2, 40\); expected \(8, 1, 1, 40\)"),
    (conv, {"bias": np.zeros(7, np.int32)}, r"shape of bias is \(7,\); expected \(8,\)"),
    (conv, {"mult": np.ones(3, np.int32)}, r"mult of shape \(3,\); expected \(8,\) or \(1,\)"),
    (conv, {"shift": np.zeros(8, np.int32)}, r"shape of shift is \(8,\); expected \(1,\)"),
    (conv, {"shift": np.array([31], np.int32)}, r"shift 31..31; expected -31..30"),
    (conv, {"rounding": 4}, "rounding 4..4; expected 0..3"),
    (conv, {"source": Tensor("x", (4, 5, 40), WIDE)}, "'x' is int16; expected int8"),
    (conv, {"kernel": (0, 1)}, "kernel 0..1; expected 1..255"),
    (conv, {"pad": (-1, 0)}, "pad -1..0; expected 0..255"),
    (conv, {"output": out(5, 5, 8)}, r"5 output rows; at most 4 windows begin in the input of 4"),
    (conv, {"output": out(4, 6, 8)}, "6 output columns; at most 5"),
    (conv, {"stride": (2, 1)}, "4 output rows; at most 2"),
    (conv, {"table": np.zeros(255, np.int8)}, "table is"),
    (conv, {"table": np.zeros(256, np.int8), "output": out(4, 5, 8, form=WIDE)}, "'y' is int16"),
    (conv, {"scales": np.ones((8, 1, 1, 1), np.uint8)}, r"shape of scales .* \(8, 1, 1, 2\)"),
    (conv, {"scales": np.full((8, 1, 1, 2), 64, np.uint8)}, "scales 64..64; expected 1..63"),
    (conv, {"scales": np.ones((8, 1, 1, 2), np.uint8),
            "weights": np.full((8, 1, 1, 40), 8, np.int8)}, "weights 8..8; expected -8..7"),
    (depthwise, {"output": out(4, 5, 41)}, "input channels is 40; expected 41"),
    (depthwise, {"weights": np.ones((40, 2, 1), np.int8)}, "shape of weights"),
    (matmul, {"b": Tensor("b", (2, 7, 40), FORM)}, "rows of 'b' is 2; expected 1"),
    (matmul, {"b": Tensor("b", (1, 7, 39), FORM)}, "inner size is 39; expected 40"),
    (matmul, {"output": out(4, 5, 8)}, "output is"),
    (matmul, {"mult": np.ones(7, np.int32), "shift": np.ones(7, np.int32)}, "multipliers is 7"),
    (pool, {"mode": "min"}, "mode 'min'; expected 'max' or 'average'"),
    (pool, {"dilation": (2, 1)}, r"dilation is \(2, 1\)"),
    (pool, {"output": out(2, 5, 39)}, "output channels is 39; expected 40"),
    (pool, {"output": out(2, 5, 40, form=WIDE)}, "'y' is int16"),
    (add, {"op": "div"}, "op 'div'"),
    (add, {"output": out(4, 5, 41)}, "shape of a"),
    (add, {"b": Tensor("b", (4, 2, 40), FORM)}, r"b of \(4, 2, 40\); expected \(4, 5, 40\)"),
    (add, {"left_shift": 32}, "left_shift 32..32; expected 0..31"),
    (add, {"o_scale": (1, -32)}, "shift -32..-32"),
    (lut, {"table": np.zeros(256, np.int16)}, "table is"),
    (lut, {"output": out(4, 5, 41)}, "output is"),
    (softmax, {"table": np.zeros(255, np.int32)}, "table is"),
    (softmax, {"output": out(4, 5, 40, form=WIDE)}, "'y' is int16"),
    (norm, {"mode": "batch"}, "mode 'batch'; expected 'rms' or 'layer'"),
    (norm, {"gain": np.ones(39, np.int16)}, "gain is"),
    (norm, {"epsilon": -1}, "epsilon -1..-1"),
    (norm, {"epsilon_shift": 64}, "epsilon_shift 64..64; expected 0..63"),
    (norm, {"o_shift": 128}, "o_shift 128..128"),
    (copy, {"order": (1, 1, 2)}, r"axes is \[1, 1, 2\]; expected \[0, 1, 2\]"),
    (copy, {"output": out(5, 4, 41)}, r"output is \(5, 4, 41\); expected \(5, 4, 40\)"),
    (copy, {"output": out(5, 4, 40, form=WIDE)}, "bits is 16; expected 8"),
    (copy, {"order": (0, 1, 2), "output": out(4, 5, 41)}, "elements is 820; expected 800"),
    (copy, {"order": (0, 1, 2), "output": out(1, 25, 32)}, "40 to 32 channels; expected one"),
)  # fmt: skip


@pytest.mark.parametrize(("make", "keys", "message"), BAD)
def test_bad_layers(make: Callable[..., Layer], keys: dict, message: str) -> None:
    layer = make(**keys)
    with pytest.raises(ConfigError, match=rf"^layer '{layer.name}' \({layer.kind}\): .*{message}"):
        layer.check()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"shape": (0, 1, 1)}, r"shape \(0, 1, 1\); expected three of 1..65535"),
        ({"form": Affine(1.0, 0, 4)}, "4 bits; expected 8 or 16"),
        ({"form": Affine(1.0, 128)}, "zero point 128; expected -128..127"),
        ({"data": np.zeros((4, 5, 41))}, r"data of shape \(4, 5, 41\); expected \(4, 5, 40\)"),
        ({"data": np.full((4, 5, 40), 128)}, "data 128..128; expected -128..127"),
        ({"of": X, "at": (0, 0, 8)}, "begins at channel 8|of 'x', which has"),
        ({"of": X, "at": (1, 0, 0)}, r"\(1, 0, 0\)..\(5, 5, 40\) of 'x', which has \(4, 5, 40\)"),
        ({"of": X, "form": WIDE}, "16 bits; 'x' has 8"),
        ({"of": X, "persistent": True}, "a view of a view, or persistent"),
    ],
)
def test_bad_tensors(keys: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^tensor 't': .*{message}"):
        replace(Tensor("t", (4, 5, 40), FORM), **keys)


def test_views_begin_at_words() -> None:
    wide = Tensor("w", (1, 2, 96), WIDE)
    assert wide.view("v", (0, 1, 48), (1, 1, 48)).base is wide
    with pytest.raises(ConfigError, match=r"begins at channel 8; expected a multiple of 16: copy"):
        wide.view("v", (0, 0, 8), (1, 1, 8))
    with pytest.raises(ConfigError, match="a view of a view"):
        wide.view("v", (0, 0, 0), (1, 1, 96)).view("u", (0, 0, 0), (1, 1, 16))


def test_words() -> None:
    assert (X.words, X.word_channels, X.element_bytes, X.positions) == (2, 32, 1, 20)
    wide = replace(X, form=WIDE)
    assert (wide.words, wide.word_channels, wide.element_bytes) == (3, 16, 2)


def test_bad_graphs() -> None:
    first = conv()
    y = first.output
    fixed = replace(X, data=np.zeros(X.shape))
    cases: tuple[tuple[tuple, str], ...] = (
        (([X], [], [y]), "graph 'g': no layers"),
        (([], [first], [y]), r"layer 'c' \(conv2d\): nothing gives 'x'; make it an input"),
        (([X], [first, conv(output=Tensor("z", (4, 5, 8)))], [y]), "two layers are called 'c'"),
        (([X], [first, replace(lut(), output=out(4, 5, 40))], [y]), "two tensors are called 'y'"),
        (([X], [first, replace(conv(), name="again", output=y)], [y]), "writes 'y' a second time"),
        (([X], [first], [Tensor("z", (1, 1, 1))]), "output 'z': no layer writes it"),
        (([fixed], [conv(source=fixed, output=y)], [y]), "input 'x': constant"),
        (([X], [first], [y], [X]), "tensor 'x' is not persistent; make it so"),
    )
    for parts, message in cases:
        with pytest.raises(ConfigError, match=message):
            Graph("g", *parts)


def test_a_layer_must_not_write_what_it_reads() -> None:
    both = Tensor("both", (1, 2, 32), FORM)
    head, tail = (both.view(f"v{i}", (0, i, 0), (1, 1, 32)) for i in (0, 1))
    given = Copy("given", head, source=Tensor("x", (1, 1, 32), FORM))
    moved = Copy("moved", tail, source=head)
    with pytest.raises(ConfigError, match=r"'moved' \(copy\): reads and writes 'both'; copy it"):
        Graph("g", [given.source], [given, moved], [both])
    with pytest.raises(ConfigError, match=r"writes 'x', a constant or an input"):
        Graph("g", [given.source], [Copy("k", given.source, source=given.source)], [both])


def test_persistent_tensors_are_listed() -> None:
    cache = Tensor("cache", (1, 4, 32), FORM, persistent=True)
    source = Tensor("x", (1, 1, 32), FORM)
    layer = Copy("append", cache.view("row", (0, 2, 0), (1, 1, 32)), source=source)
    with pytest.raises(ConfigError, match="'cache' is not in the graph's list of persistent"):
        Graph("g", [source], [layer], [])
    graph = Graph("g", [source], [layer], [cache], [cache])
    assert [t.name for t in graph.tensors()] == ["cache", "x"]
    assert math.prod(cache.shape) == 128
