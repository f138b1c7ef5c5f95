"""int8 operators of the npu's golden model equal LiteRT (TFLite's interpreter) bit for bit.

Which kernel rounds how stands in docs/numerics.md; a rounding that is not the kernel's is found.
Needs the extra `litert`.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

for _name in ("tflite", "ai_edge_litert"):
    pytest.importorskip(_name, reason="install the extra: pip install -e .[litert]")


def _layers():
    """The module beside this file; test folders are no packages."""
    path = Path(__file__).with_name("litert_layers.py")
    spec = importlib.util.spec_from_file_location("litert_layers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


layers = _layers()
Convolution, Elementwise, Pool = layers.Convolution, layers.Elementwise, layers.Pool
Softmax, Window = layers.Softmax, layers.Window
MACHINES, ROUNDING = layers.MACHINES, layers.ROUNDING
DOUBLE, HALF_UP, RNE = layers.DOUBLE, layers.HALF_UP, layers.RNE
EVERY = tuple(layers.litert.RESOLVERS)
KERNELS = [(op, resolver) for op in ROUNDING for resolver in ROUNDING[op]]


def same(layer, resolver: str, least: int = 10, machine=MACHINES[0]) -> None:
    """Bit for bit, and there are so many different results at least."""
    want = layer.litert(resolver)
    np.testing.assert_array_equal(layer.npu(resolver, machine), want)
    assert len(np.unique(want)) >= least


# --- directed -----------------------------------------------------------------------------------

CONVOLUTIONS = {
    "conv": ("CONV_2D", Window((14, 13, 20), (3, 3)), 24),
    "conv 1x1": ("CONV_2D", Window((9, 9, 70)), 40),
    "conv stride": ("CONV_2D", Window((15, 12, 3), (3, 5), 2), 17),
    "conv dilated": ("CONV_2D", Window((15, 15, 8), (3, 3), dilation=2), 16),
    "conv valid": ("CONV_2D", Window((9, 9, 33), (3, 3), same_pad=False), 16),
    "depthwise": ("DEPTHWISE_CONV_2D", Window((20, 20, 48), (3, 3)), 48),
    "depthwise stride": ("DEPTHWISE_CONV_2D", Window((21, 16, 10), (5, 3), 2), 10),
    "fully connected": ("FULLY_CONNECTED", Window((128, 1, 96)), 120),
}


@pytest.mark.parametrize("machine", MACHINES, ids=["u55", "llm"])
@pytest.mark.parametrize("exact", [False, True], ids=["", "powers of two"])
@pytest.mark.parametrize(
    ("case", "resolver"),
    [(case, resolver) for case, spec in CONVOLUTIONS.items() for resolver in ROUNDING[spec[0]]],
)
def test_convolutions(case, resolver, exact, machine):
    layer = Convolution(*CONVOLUTIONS[case], exact=exact, relu6=case == "conv valid")
    same(layer, resolver, machine=machine)


@pytest.mark.parametrize("scales", [(0.0313, 0.0157, 0.0625), (2**-5, 2**-6, 2**-4)])
@pytest.mark.parametrize(("op", "resolver"), [k for k in KERNELS if k[0] in ("ADD", "SUB", "MUL")])
def test_elementwise(op, resolver, scales):
    if op == "MUL":
        scales = (*scales[:2], scales[0] * scales[1] * 100 if scales[0] != 2**-5 else 2**-4)
    same(Elementwise(op, scales), resolver)


@pytest.mark.parametrize("resolver", EVERY)
@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), 2), ((2, 2), 2), ((5, 4), 1)])
def test_pools(kind, resolver, kernel, stride):
    """Windows that reach over the edge count what is inside."""
    same(Pool(kind, Window((13, 12, 40), kernel, stride)), resolver)


@pytest.mark.parametrize("resolver", EVERY)
@pytest.mark.parametrize(
    ("channels", "scale"), [(2, 0.06), (10, 0.5), (10, 0.06), (100, 0.003), (1000, 0.06)]
)
def test_softmax(channels, scale, resolver):
    same(Softmax(32, channels, scale), resolver, 3)


# --- random -------------------------------------------------------------------------------------


def _window(rng: np.random.Generator, inputs: int) -> Window:
    same_pad = bool(rng.random() < 0.6)
    kernel = tuple(int(k) for k in rng.integers(1, 6, 2))
    stride = int(rng.integers(1, 4))
    dilation = int(rng.integers(1, 3)) if stride == 1 else 1
    shape = tuple(int(s) for s in rng.integers(max(kernel) * dilation, 18, 2))
    return Window((*shape, inputs), kernel, stride, dilation, same_pad)


def _zeros(rng: np.random.Generator, count: int) -> tuple[int, ...]:
    return tuple(int(z) for z in rng.integers(-128, 128, count))


def drawn(op: str, seed: int):
    """A layer of random shape, scales and zero points; in odd ones the scales of operators that
    round are powers of two.
    """
    rng, exact = np.random.default_rng([seed, sum(op.encode())]), seed % 2 == 1
    if op in layers.CONVOLUTIONS:
        inputs, outputs = (int(c) for c in rng.integers(1, 41, 2))
        window = _window(rng, inputs)
        if op == "DEPTHWISE_CONV_2D":
            outputs = inputs
        if op == "FULLY_CONNECTED":
            window = Window((int(rng.integers(1, 70)), 1, int(rng.integers(1, 300))))
        zeros, relu6 = _zeros(rng, 2), bool(rng.random() < 0.2)
        return Convolution(op, window, outputs, exact=exact, relu6=relu6, zeros=zeros, seed=seed)
    if op in ("ADD", "SUB", "MUL"):
        a, b = 2.0 ** -rng.integers(3, 8, 2) if exact else rng.uniform(0.003, 0.1, 2)
        step = 2.0 ** rng.integers(1, 4) if exact else rng.uniform(0.5, 4)
        out = step * (a * b * 32 if op == "MUL" else max(a, b) / 2)
        shape = (*(int(s) for s in rng.integers(8, 17, 2)), int(rng.integers(8, 70)))
        return Elementwise(op, (a, b, out), shape=shape, zeros=_zeros(rng, 3), seed=seed)
    if op == "SOFTMAX":
        rows, channels = int(rng.integers(2, 40)), int(rng.integers(1, 300))
        return Softmax(rows, channels, rng.uniform(0.001, 0.4), zero=_zeros(rng, 1)[0], seed=seed)
    window = _window(rng, int(rng.integers(1, 70)))
    window.dilation = 1
    return Pool(op, window, zero=_zeros(rng, 1)[0], seed=seed)


RANDOM = [*KERNELS, *((op, r) for op in ("max", "average", "SOFTMAX") for r in EVERY)]


@pytest.mark.parametrize(("op", "resolver"), RANDOM)
def test_random_layers(op, resolver):
    for seed in range(12):
        layer = drawn(op, seed)
        want = layer.litert(resolver)
        got = layer.npu(resolver, MACHINES[seed // 2 % 2])
        np.testing.assert_array_equal(got, want, err_msg=f"{op} {resolver}, seed {seed}")


# --- what is wrong is found ---------------------------------------------------------------------


@pytest.mark.parametrize(("op", "resolver"), KERNELS)
def test_another_rounding_is_found(op, resolver):
    """Where scales are powers of two, ties are common."""
    layer = {
        "CONV_2D": Convolution("CONV_2D", Window((40, 40, 8)), 40, exact=True),
        "DEPTHWISE_CONV_2D": Convolution(*CONVOLUTIONS["depthwise"], exact=True),
        "FULLY_CONNECTED": Convolution(*CONVOLUTIONS["fully connected"], exact=True),
        "MUL": Elementwise("MUL", (2**-5, 2**-6, 2**-4)),
    }.get(op) or Elementwise(op, (2**-5, 2**-6, 2**-4))
    want = layer.litert(resolver)
    wrong = {
        r: int((layer.npu(resolver, rounding=r) != want).sum()) for r in (DOUBLE, HALF_UP, RNE)
    }
    right = ROUNDING[op][resolver]
    assert wrong.pop(right) == 0 and all(count > 0 for count in wrong.values()), wrong


@pytest.mark.parametrize("op", ["max", "average", "SOFTMAX"])
def test_other_inputs_are_found(op):
    layer = drawn(op, 2)
    want = layer.litert("reference")
    layer.x = layer.x[::-1]
    assert (layer.npu("reference") != want).any()
