"""int8 operators of the npu's golden model equal LiteRT (TFLite's interpreter) bit for bit.

Which kernel rounds how stands in docs/numerics.md; a rounding that is not the kernel's is found.
Needs the extra `litert`.
"""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from bankside.isa import numerics_npu as n
from bankside.isa.machines import load_machine
from bankside.isa.npu_weights import PACKED, RAW8, WeightLayout
from bankside.isa.program import Builder, Program
from bankside.sim.golden.npu import NpuGolden

for _name in ("tflite", "ai_edge_litert"):
    pytest.importorskip(_name, reason="install the extra: pip install -e .[litert]")


def _sibling(name: str):
    """A module beside this file; test folders are no packages."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


litert = _sibling("litert_models")
Tensor = litert.Tensor
MACHINES = [load_machine(f"npu_{profile}_128") for profile in ("u55", "llm")]
EVERY = tuple(litert.RESOLVERS)
DOUBLE, HALF_UP, RNE = "gemmlowp_double", "single_half_up", "rne"
F = np.float32


def multiplier(real: float) -> tuple[int, int]:
    """(mult, shift) of a real multiplier. Ref: TFLite, QuantizeMultiplier."""
    fraction, shift = math.frexp(real)
    mult = round(fraction * (1 << 31))
    return (mult // 2, shift + 1) if mult == 1 << 31 else (mult, shift)


class Shared:
    """Feature maps and tables one after the other, and the registers that tell where."""

    def __init__(self, machine) -> None:
        self.machine, self.golden, self.next, self.reg = machine, NpuGolden(machine), 0, {}

    def map(self, name: str, shape, values=None) -> None:
        """An int8 map [h, w, c]."""
        h, w, c = shape
        words = -(-c // 32)
        self.reg |= {name: self.next, f"{name}_sx": words, f"{name}_sy": words * w}
        if name == "ofm":
            self.reg |= {"ofm_h": h, "ofm_w": w, "ofm_c": c}
        if values is not None:
            room = self.golden.shared[self.next : self.next + h * w * words].view(np.int8)
            room.reshape(h, w, -1)[:, :, :c] = values
        self.next += h * w * words

    def table(self, name: str, data: bytes) -> None:
        words = -(-len(data) // 32)
        room = self.golden.shared[self.next : self.next + words].reshape(-1)
        room[: len(data)] = np.frombuffer(data, np.uint8)
        self.reg[name] = self.next
        self.next += words

    def result(self, name: str, **operands) -> np.ndarray:
        """Execute the operation: the output [h, w, c]."""
        b = Builder("npu", self.machine.burst_elements)
        for register, value in self.reg.items():
            value = b.spec.enums["rounding"][value] if register == "rounding" else int(value)
            b.SET(reg=register, value=value & 0xFFFFFFFF)
        b.emit(name, **operands)
        b.STOP()
        self.golden.run(Program("npu", tuple(b.words), np.zeros((0, b._burst_elements), np.uint16)))
        h, w, c = (self.reg[f"ofm_{axis}"] for axis in "hwc")
        words = self.golden.shared[self.reg["ofm"] :][: h * w * self.reg["ofm_sx"]]
        return words.view(np.int8).reshape(h, w, -1)[:, :, :c]


def activations(seed: int, shape) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def same(got: np.ndarray, want: np.ndarray, least: int = 10) -> None:
    """Bit for bit, and there are so many different results at least."""
    np.testing.assert_array_equal(got.reshape(want.shape), want)
    assert len(np.unique(want)) >= least


# --- convolutions -------------------------------------------------------------------------------


class Convolution:
    """CONV_2D, DEPTHWISE_CONV_2D or FULLY_CONNECTED with random weights and a scale each output
    channel (FULLY_CONNECTED: one).
    """

    in_zero, out_zero = 3, -5

    def __init__(self, kind, shape, outputs, kernel=(3, 3), stride=1, dilation=1, same_pad=True,
                 exact=False, relu6=False) -> None:  # fmt: skip
        rng = np.random.default_rng(outputs)
        self.kind, self.shape, self.kernel = kind, shape, kernel
        self.stride, self.dilation, self.same_pad, self.relu6 = stride, dilation, same_pad, relu6
        self.x, inputs = activations(outputs, shape), shape[-1]
        depthwise = kind == "DEPTHWISE_CONV_2D"
        full = (outputs, *kernel) if depthwise else (outputs, *kernel, inputs)
        self.w = rng.integers(-127, 128, full).astype(np.int8)
        self.bias = rng.integers(-3000, 3000, outputs).astype(np.int32)
        # Sums spread as sqrt(products) * 74 * 73; the output scale brings them to about 60.
        spread = math.sqrt(self.w[0].size) * 5400 / 60
        self.in_scale = F(2**-6) if exact else F(0.0213)
        one = F(2**-7) if exact else F(0.0057)
        count = 1 if kind == "FULLY_CONNECTED" else outputs
        steps = 2.0 ** -rng.integers(0, 2, count) if exact else rng.uniform(0.5, 1, count)
        self.w_scale = (one * steps).astype(F)
        out = float(self.in_scale) * float(one) * spread
        self.out_scale = F(2.0 ** math.floor(math.log2(out))) if exact else F(out)

    def _axis(self, i: int) -> tuple[int, int]:
        """(outputs, padding before) of an axis."""
        size, reach = self.shape[i], (self.kernel[i] - 1) * self.dilation + 1
        if not self.same_pad:
            return (size - reach) // self.stride + 1, 0
        outputs = -(-size // self.stride)
        return outputs, max((outputs - 1) * self.stride + reach - size, 0) // 2

    def _limits(self) -> tuple[int, int]:
        if not self.relu6:
            return -128, 127
        return self.out_zero, min(127, self.out_zero + round(6 / float(self.out_scale)))

    def npu(self, machine, rounding: str) -> np.ndarray:
        """Output of the golden model."""
        m, outputs = Shared(machine), len(self.w)
        (oh, top), (ow, left) = self._axis(0), self._axis(1)
        m.map("ifm", self.shape, self.x)
        m.map("ofm", (oh, ow, outputs))
        low, high = self._limits()
        m.reg |= {
            "ifm_h": self.shape[0], "ifm_w": self.shape[1], "ifm_c": self.shape[2],
            "kernel_h": self.kernel[0], "kernel_w": self.kernel[1], "stride_y": self.stride,
            "stride_x": self.stride, "dilation_y": self.dilation, "dilation_x": self.dilation,
            "pad_top": top, "pad_left": left, "ifm_zero": self.in_zero, "block": 16,
            "ofm_zero": self.out_zero, "ofm_min": low, "ofm_max": high,
            "rounding": rounding, "scale_mode": 1,
        }  # fmt: skip
        records = b""
        for bias, scale in zip(self.bias, np.broadcast_to(self.w_scale, outputs), strict=True):
            real = float(self.in_scale) * float(scale) / float(self.out_scale)
            records += n.Record(int(bias), *multiplier(real)).pack()
        m.table("scale", records)
        form = RAW8 if machine.wide else PACKED
        m.reg["weight_format"] = form
        depthwise = self.kind == "DEPTHWISE_CONV_2D"
        layout = WeightLayout(form, machine.group(False), machine.weight_port_bytes, outputs,
                              self.kernel, None if depthwise else self.shape[2])  # fmt: skip
        data = np.frombuffer(layout.encode(self.w), np.uint8)
        m.golden.weights[: len(data)] = data
        return m.result("DEPTHWISE" if depthwise else "CONV")

    def litert(self, resolver: str) -> np.ndarray:
        """Output of the interpreter."""
        outputs, fc = len(self.w), self.kind == "FULLY_CONNECTED"
        depthwise = self.kind == "DEPTHWISE_CONV_2D"
        x, w = self.x[None], self.w
        shape = (1, self._axis(0)[0], self._axis(1)[0], outputs)
        options = {"Padding": 0 if self.same_pad else 1, "StrideH": self.stride,
                   "StrideW": self.stride, "DilationHFactor": self.dilation,
                   "DilationWFactor": self.dilation}  # fmt: skip
        table = "Conv2DOptions"
        if fc:
            x, w, shape = self.x[:, 0], self.w[:, 0, 0], (self.shape[0], outputs)
            table, options = "FullyConnectedOptions", {}
        elif depthwise:
            w, table = np.moveaxis(self.w, 0, -1)[None], "DepthwiseConv2DOptions"
            options["DepthMultiplier"] = 1
        if self.relu6:
            options["FusedActivationFunction"] = 3
        inputs = [
            Tensor(x.shape, [self.in_scale], self.in_zero),
            Tensor(w.shape, self.w_scale, 0, np.ascontiguousarray(w), 3 if depthwise else 0),
            Tensor((outputs,), self.in_scale * self.w_scale, 0, self.bias),
        ]
        output = Tensor(shape, [self.out_scale], self.out_zero)
        content = litert.model(self.kind, 4 if fc else 3, inputs, output, (table, options))
        return litert.run(content, [x], resolver)


CONVOLUTIONS = {
    "conv": lambda **k: Convolution("CONV_2D", (14, 13, 20), 24, **k),
    "conv 1x1": lambda **k: Convolution("CONV_2D", (9, 9, 70), 40, (1, 1), **k),
    "conv stride": lambda **k: Convolution("CONV_2D", (15, 12, 3), 17, (3, 5), 2, **k),
    "conv dilated": lambda **k: Convolution("CONV_2D", (15, 15, 8), 16, dilation=2, **k),
    "conv valid, relu6": lambda **k: Convolution("CONV_2D", (9, 9, 33), 16, same_pad=False,
                                                 relu6=True, **k),
    "depthwise": lambda **k: Convolution("DEPTHWISE_CONV_2D", (20, 20, 48), 48, **k),
    "depthwise stride": lambda **k: Convolution("DEPTHWISE_CONV_2D", (21, 16, 10), 10, (5, 3), 2,
                                                **k),
}  # fmt: skip
ROUNDINGS = [("reference", DOUBLE), ("default", RNE)]


@pytest.mark.parametrize("machine", MACHINES, ids=["u55", "llm"])
@pytest.mark.parametrize(("resolver", "rounding"), ROUNDINGS)
@pytest.mark.parametrize("exact", [False, True], ids=["", "powers of two"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(case, exact, resolver, rounding, machine):
    layer = CONVOLUTIONS[case](exact=exact)
    same(layer.npu(machine, rounding), layer.litert(resolver))


@pytest.mark.parametrize("machine", MACHINES, ids=["u55", "llm"])
@pytest.mark.parametrize("exact", [False, True], ids=["", "powers of two"])
def test_fully_connected(exact, machine):
    """The default kernel; the reference one rounds once, ties away from zero, as no mode does."""
    layer = Convolution("FULLY_CONNECTED", (128, 1, 96), 120, (1, 1), exact=exact)
    same(layer.npu(machine, RNE), layer.litert("default"))


def test_the_other_roundings_are_found():
    """Where scales are powers of two, ties are common."""
    layer = Convolution("FULLY_CONNECTED", (128, 1, 96), 120, (1, 1), exact=True)
    want = layer.litert("default").reshape(128, 1, 120)
    wrong = {r: int((layer.npu(MACHINES[0], r) != want).sum()) for r in (DOUBLE, HALF_UP, RNE)}
    assert wrong[RNE] == 0 and wrong[DOUBLE] > 0 and wrong[HALF_UP] > 0
    layer = CONVOLUTIONS["depthwise"](exact=False)
    want = layer.litert("reference")[0]
    wrong = {r: int((layer.npu(MACHINES[0], r) != want).sum()) for r in (DOUBLE, HALF_UP, RNE)}
    assert wrong[DOUBLE] == 0 and wrong[HALF_UP] > 0 and wrong[RNE] > 0


# --- elementwise, pools, softmax ----------------------------------------------------------------


def elementwise(op: str, scales, rounding: str, resolver: str) -> tuple[np.ndarray, np.ndarray]:
    """(golden, interpreter) of two random maps."""
    shape, (sa, sb, so) = (16, 16, 40), (F(s) for s in scales)
    a, b = activations(1, shape), activations(2, shape)
    m = Shared(MACHINES[0])
    m.map("ifm", shape, a)
    m.map("ifm2", shape, b)
    m.map("ofm", shape)
    m.reg |= {"ifm_zero": 3, "ifm2_zero": -7, "ofm_zero": 11, "ofm_min": -128, "ofm_max": 127,
              "rounding": rounding}  # fmt: skip
    if op == "MUL":
        parts = {"o": float(sa) * float(sb) / float(so)}
    else:
        twice = 2 * max(float(sa), float(sb))
        parts = {"a": float(sa) / twice, "b": float(sb) / twice,
                 "o": twice / ((1 << 20) * float(so))}  # fmt: skip
        m.reg["left_shift"] = 20
    for name, real in parts.items():
        m.reg[f"{name}_mult"], m.reg[f"{name}_shift"] = multiplier(real)
    inputs = [Tensor((1, *shape), [sa], 3), Tensor((1, *shape), [sb], -7)]
    table = f"{op.capitalize()}Options"
    content = litert.model(op, 2, inputs, Tensor((1, *shape), [so], 11), (table, {}))
    want = litert.run(content, [a[None], b[None]], resolver)
    return m.result("ELEMENTWISE", op=op.lower()), want


@pytest.mark.parametrize(("resolver", "rounding"), [
    ("reference", {"ADD": DOUBLE, "SUB": DOUBLE, "MUL": DOUBLE}),
    ("default", {"ADD": HALF_UP, "SUB": HALF_UP, "MUL": RNE}),
])  # fmt: skip
@pytest.mark.parametrize("scales", [(0.0313, 0.0157, 0.0625), (2**-5, 2**-6, 2**-4)])
@pytest.mark.parametrize("op", ["ADD", "SUB", "MUL"])
def test_elementwise(op, scales, resolver, rounding):
    if op == "MUL":
        scales = (*scales[:2], scales[0] * scales[1] * 100 if scales[0] != 2**-5 else 2**-4)
    same(*elementwise(op, scales, rounding[op], resolver))


def test_the_other_rounding_of_elementwise_is_found():
    for resolver, rounding in (("reference", HALF_UP), ("default", DOUBLE)):
        got, want = elementwise("ADD", (2**-5, 2**-6, 2**-4), rounding, resolver)
        assert (got != want[0]).sum() > 1000


@pytest.mark.parametrize("resolver", EVERY)
@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize(("window", "stride"), [((3, 3), 2), ((2, 2), 2), ((5, 4), 1)])
def test_pools(kind, resolver, window, stride):
    """Windows that reach over the edge count what is inside."""
    shape = (13, 12, 40)
    x = activations(3, shape)
    sizes = [-(-size // stride) for size in shape[:2]]
    pads = [max((o - 1) * stride + k - s, 0) // 2
            for o, k, s in zip(sizes, window, shape[:2], strict=True)]  # fmt: skip
    m = Shared(MACHINES[0])
    m.map("ifm", shape, x)
    m.map("ofm", (*sizes, shape[2]))
    m.reg |= {"ifm_h": shape[0], "ifm_w": shape[1], "ifm_c": shape[2], "kernel_h": window[0],
              "kernel_w": window[1], "stride_y": stride, "stride_x": stride, "dilation_y": 1,
              "dilation_x": 1, "pad_top": pads[0], "pad_left": pads[1], "block": 16,
              "ofm_min": -128, "ofm_max": 127, "ifm_zero": 4}  # fmt: skip
    options = {"Padding": 0, "StrideH": stride, "StrideW": stride, "FilterHeight": window[0],
               "FilterWidth": window[1]}  # fmt: skip
    content = litert.model(
        f"{kind.upper()}_POOL_2D", 2, [Tensor((1, *shape), [0.1], 4)],
        Tensor((1, *sizes, shape[2]), [0.1], 4), ("Pool2DOptions", options),
    )  # fmt: skip
    same(m.result("POOL", mode=kind), litert.run(content, [x[None]], resolver))


@pytest.mark.parametrize("resolver", EVERY)
@pytest.mark.parametrize(
    ("channels", "scale"), [(2, 0.06), (10, 0.5), (10, 0.06), (100, 0.003), (1000, 0.06)]
)
def test_softmax(channels, scale, resolver):
    shape = (32, 1, channels)
    x = activations(4, shape)
    x[:16] //= 8
    mult, left = multiplier(min(float(F(scale)) * (1 << 26), 2.0**31 - 1))
    # Ref: TFLite, CalculateInputRadius with 5 integer bits.
    radius = math.floor(31 * (1 << 26) / (1 << left))
    m = Shared(MACHINES[0])
    m.map("ifm", shape, x)
    m.map("ofm", shape)
    m.table("lut", np.array(n.softmax_table(mult, left, -radius), "<i4").tobytes())
    m.reg |= {"ofm_zero": -128, "ofm_min": -128, "ofm_max": 127}
    flat = (32, channels)
    content = litert.model(
        "SOFTMAX", 2, [Tensor(flat, [scale], 5)], Tensor(flat, [1 / 256], -128),
        ("SoftmaxOptions", {"Beta": 1.0}),
    )  # fmt: skip
    same(m.result("SOFTMAX"), litert.run(content, [x[:, 0]], resolver), 3)
