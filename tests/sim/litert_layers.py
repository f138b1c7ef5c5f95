"""Single int8 layers for comparisons: the npu's golden model and LiteRT work out the same one.

`npu(kernel)` programs the npu for a LiteRT kernel: its rounding and its way to integer multipliers.
`rounding` overrides the former, so that a test can show that another one differs.
"""

import importlib.util
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bankside.isa import numerics_npu as n
from bankside.isa.machines import load_machine
from bankside.isa.npu_weights import PACKED, RAW8, WeightLayout
from bankside.isa.program import Builder, Program
from bankside.sim.golden.npu import NpuGolden


def sibling(name: str):
    """A module beside this file; test folders are no packages."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


litert = sibling("litert_models")
Tensor = litert.Tensor
MACHINES = [load_machine(f"npu_{profile}_128") for profile in ("u55", "llm")]
DOUBLE, HALF_UP, RNE = "gemmlowp_double", "single_half_up", "rne"
F = np.float32
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# Operators whose rounding depends on the kernel -> resolver -> rounding of the npu that gives the
# same bits. FULLY_CONNECTED's reference kernel and the optimised ones of all three have none.
ROUNDING = {
    "CONV_2D": {"reference": DOUBLE, "default": RNE},
    "DEPTHWISE_CONV_2D": {"reference": DOUBLE, "default": RNE},
    "FULLY_CONNECTED": {"default": RNE},
    "ADD": {"reference": DOUBLE, "builtin": DOUBLE, "default": HALF_UP},
    "SUB": {"reference": DOUBLE, "builtin": DOUBLE, "default": HALF_UP},
    "MUL": {"reference": DOUBLE, "builtin": DOUBLE, "default": RNE},
}


class Scaling(NamedTuple):
    """Integers of an addition, as the registers take them."""

    a: tuple[int, int]
    b: tuple[int, int]
    o: tuple[int, int]
    left_shift: int


def multiplier(real: float) -> tuple[int, int]:
    """(mult, shift) of a real multiplier. Ref: TFLite, QuantizeMultiplier."""
    fraction, shift = math.frexp(real)
    mult = round(fraction * (1 << 31))
    return (mult // 2, shift + 1) if mult == 1 << 31 else (mult, shift)


def product_scale(kernel: str, a: F, b: F, out: F) -> float:
    """a * b / out: TFLite works it out in double, XNNPACK in single precision."""
    return float(F(a) * F(b) / F(out)) if kernel == "default" else float(a) * float(b) / float(out)


def addition(kernel: str, a: F, b: F, out: F) -> Scaling:
    """Ref: TFLite, add.cc, Prepare: twice the larger scale and 20 bits; XNNPACK: factors of both
    inputs with 20 bits behind the leading one of the larger, and a single shift.
    """
    if kernel != "default":
        twice = 2 * max(float(a), float(b))
        whole = twice / ((1 << 20) * float(out))
        return Scaling(*(multiplier(x) for x in (float(a) / twice, float(b) / twice, whole)), 20)
    ratios = [float(F(scale) / F(out)) for scale in (a, b)]
    shift = 21 - math.frexp(max(ratios))[1]
    factors = [round(math.ldexp(ratio, shift)) for ratio in ratios]
    # (factor * 2^9, 31 - 9) is the factor itself, (2^30, 1 - shift) is 2^-shift.
    return Scaling((factors[0] << 9, 22), (factors[1] << 9, 22), (1 << 30, 1 - shift), 0)


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


class Window:
    """Kernel, stride, dilation and padding of a layer over an input [h, w, c]."""

    def __init__(self, shape, kernel=(1, 1), stride=1, dilation=1, same_pad=True) -> None:
        self.shape, self.kernel = shape, kernel
        self.stride, self.dilation, self.same_pad = stride, dilation, same_pad

    def axis(self, i: int) -> tuple[int, int]:
        """(outputs, padding before) of an axis."""
        size, reach = self.shape[i], (self.kernel[i] - 1) * self.dilation + 1
        if not self.same_pad:
            return (size - reach) // self.stride + 1, 0
        outputs = -(-size // self.stride)
        return outputs, max((outputs - 1) * self.stride + reach - size, 0) // 2

    @property
    def outputs(self) -> tuple[int, int]:
        return self.axis(0)[0], self.axis(1)[0]

    def registers(self) -> dict[str, int]:
        (_, top), (_, left) = self.axis(0), self.axis(1)
        return {
            "ifm_h": self.shape[0], "ifm_w": self.shape[1], "ifm_c": self.shape[2],
            "kernel_h": self.kernel[0], "kernel_w": self.kernel[1], "stride_y": self.stride,
            "stride_x": self.stride, "dilation_y": self.dilation, "dilation_x": self.dilation,
            "pad_top": top, "pad_left": left, "block": 16,
        }  # fmt: skip

    def options(self) -> dict[str, int]:
        return {"Padding": 0 if self.same_pad else 1, "StrideH": self.stride,
                "StrideW": self.stride}  # fmt: skip


class Convolution:
    """CONV_2D, DEPTHWISE_CONV_2D or FULLY_CONNECTED with random weights and a scale for each output
    channel (FULLY_CONNECTED: one). exact: scales are powers of two, so ties are common.
    """

    def __init__(self, kind, window, outputs, *, exact=False, relu6=False, zeros=(3, -5),
                 seed=None) -> None:  # fmt: skip
        seed = outputs if seed is None else seed
        rng = np.random.default_rng(seed)
        self.kind, self.window, self.relu6, (self.in_zero, self.out_zero) = (
            kind, window, relu6, zeros,
        )  # fmt: skip
        self.x, inputs = activations(seed, window.shape), window.shape[-1]
        depthwise = kind == "DEPTHWISE_CONV_2D"
        full = (outputs, *window.kernel) if depthwise else (outputs, *window.kernel, inputs)
        self.w = rng.integers(-127, 128, full).astype(np.int8)
        self.bias = rng.integers(-3000, 3000, outputs).astype(np.int32)
        # Sums spread as sqrt(products) * 74 * 73; the output scale brings them to about 60.
        spread = math.sqrt(self.w[0].size) * 5400 / 60
        self.in_scale = F(2**-6) if exact else F(rng.uniform(0.01, 0.05))
        one = F(2**-7) if exact else F(rng.uniform(0.003, 0.02))
        count = 1 if kind == "FULLY_CONNECTED" else outputs
        steps = 2.0 ** -rng.integers(0, 2, count) if exact else rng.uniform(0.5, 1, count)
        self.w_scale = (one * steps).astype(F)
        out = float(self.in_scale) * float(one) * spread
        self.out_scale = F(2.0 ** math.floor(math.log2(out))) if exact else F(out)

    def _limits(self) -> tuple[int, int]:
        if not self.relu6:
            return -128, 127
        return self.out_zero, min(127, self.out_zero + round(6 / float(self.out_scale)))

    def npu(self, kernel: str, machine=MACHINES[0], rounding: str | None = None) -> np.ndarray:
        """Output of the golden model."""
        m, outputs = Shared(machine), len(self.w)
        m.map("ifm", self.window.shape, self.x)
        m.map("ofm", (*self.window.outputs, outputs))
        low, high = self._limits()
        m.reg |= self.window.registers() | {
            "ifm_zero": self.in_zero, "ofm_zero": self.out_zero, "ofm_min": low, "ofm_max": high,
            "rounding": rounding or ROUNDING[self.kind][kernel], "scale_mode": 1,
        }  # fmt: skip
        records = b""
        for bias, scale in zip(self.bias, np.broadcast_to(self.w_scale, outputs), strict=True):
            real = product_scale(kernel, self.in_scale, scale, self.out_scale)
            records += n.Record(int(bias), *multiplier(real)).pack()
        m.table("scale", records)
        form = RAW8 if machine.wide else PACKED
        m.reg["weight_format"] = form
        depthwise = self.kind == "DEPTHWISE_CONV_2D"
        layout = WeightLayout(
            form, machine.group(False), machine.weight_port_bytes, outputs, self.window.kernel,
            None if depthwise else self.window.shape[2],
        )  # fmt: skip
        data = np.frombuffer(layout.encode(self.w), np.uint8)
        m.golden.weights[: len(data)] = data
        return m.result("DEPTHWISE" if depthwise else "CONV")

    def litert(self, resolver: str) -> np.ndarray:
        """Output of the interpreter, [h, w, c]."""
        outputs, fc = len(self.w), self.kind == "FULLY_CONNECTED"
        depthwise = self.kind == "DEPTHWISE_CONV_2D"
        x, w = self.x[None], self.w
        full = (*self.window.outputs, outputs)
        shape, table = (1, *full), "Conv2DOptions"
        options = self.window.options() | dict.fromkeys(
            ("DilationHFactor", "DilationWFactor"), self.window.dilation
        )
        if fc:
            x, w, shape = self.x[:, 0], self.w[:, 0, 0], (self.window.shape[0], outputs)
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
        return litert.run(content, [x], resolver).reshape(full)


class Elementwise:
    """ADD, SUB or MUL of two random maps; scales and zeros of both inputs and the output."""

    def __init__(self, op, scales, *, shape=(16, 16, 40), zeros=(3, -7, 11), seed=1) -> None:
        self.op, self.shape, self.zeros = op, shape, zeros
        self.scales = [F(scale) for scale in scales]
        self.a, self.b = activations(2 * seed, shape), activations(2 * seed + 1, shape)

    def npu(self, kernel: str, machine=MACHINES[0], rounding: str | None = None) -> np.ndarray:
        m = Shared(machine)
        m.map("ifm", self.shape, self.a)
        m.map("ifm2", self.shape, self.b)
        m.map("ofm", self.shape)
        names = ("ifm_zero", "ifm2_zero", "ofm_zero")
        m.reg |= dict(zip(names, self.zeros, strict=True)) | {"ofm_min": -128, "ofm_max": 127}
        m.reg["rounding"] = rounding or ROUNDING[self.op][kernel]
        if self.op == "MUL":
            parts = {"o": multiplier(product_scale(kernel, *self.scales))}
        else:
            scaling = addition(kernel, *self.scales)
            parts = {"a": scaling.a, "b": scaling.b, "o": scaling.o}
            m.reg["left_shift"] = scaling.left_shift
        for name, pair in parts.items():
            m.reg[f"{name}_mult"], m.reg[f"{name}_shift"] = pair
        return m.result("ELEMENTWISE", op=self.op.lower())

    def litert(self, resolver: str) -> np.ndarray:
        shape = (1, *self.shape)
        tensors = [Tensor(shape, [s], z) for s, z in zip(self.scales, self.zeros, strict=True)]
        table = f"{self.op.capitalize()}Options"
        content = litert.model(self.op, 2, tensors[:2], tensors[2], (table, {}))
        return litert.run(content, [self.a[None], self.b[None]], resolver)[0]


class Pool:
    """MAX_POOL_2D or AVERAGE_POOL_2D (kind: max, average); input and output have one scale."""

    def __init__(self, kind, window, *, zero=4, seed=3) -> None:
        self.kind, self.window, self.zero = kind, window, zero
        self.x = activations(seed, window.shape)

    def npu(self, kernel: str, machine=MACHINES[0]) -> np.ndarray:
        m = Shared(machine)
        m.map("ifm", self.window.shape, self.x)
        m.map("ofm", (*self.window.outputs, self.window.shape[2]))
        m.reg |= self.window.registers()
        m.reg |= {"ofm_min": -128, "ofm_max": 127, "ifm_zero": self.zero}
        return m.result("POOL", mode=self.kind)

    def litert(self, resolver: str) -> np.ndarray:
        window = self.window
        options = window.options() | {"FilterHeight": window.kernel[0],
                                      "FilterWidth": window.kernel[1]}  # fmt: skip
        output = (*window.outputs, window.shape[2])
        content = litert.model(
            f"{self.kind.upper()}_POOL_2D", 2, [Tensor((1, *window.shape), [0.1], self.zero)],
            Tensor((1, *output), [0.1], self.zero), ("Pool2DOptions", options),
        )  # fmt: skip
        return litert.run(content, [self.x[None]], resolver)[0]


class Softmax:
    """SOFTMAX of rows of `channels`; the second half of the rows has the larger differences."""

    def __init__(self, rows, channels, scale, *, zero=5, seed=4) -> None:
        self.scale, self.zero = F(scale), zero
        self.x = activations(seed, (rows, 1, channels))
        self.x[: rows // 2] //= 8

    def npu(self, kernel: str, machine=MACHINES[0]) -> np.ndarray:
        mult, left = multiplier(min(float(self.scale) * (1 << 26), 2.0**31 - 1))
        # Ref: TFLite, CalculateInputRadius with 5 integer bits.
        radius = math.floor(31 * (1 << 26) / (1 << left))
        m = Shared(machine)
        m.map("ifm", self.x.shape, self.x)
        m.map("ofm", self.x.shape)
        m.table("lut", np.array(n.softmax_table(mult, left, -radius), "<i4").tobytes())
        m.reg |= {"ofm_zero": -128, "ofm_min": -128, "ofm_max": 127}
        return m.result("SOFTMAX")

    def litert(self, resolver: str) -> np.ndarray:
        flat = self.x.shape[::2]
        content = litert.model(
            "SOFTMAX", 2, [Tensor(flat, [self.scale], self.zero)], Tensor(flat, [1 / 256], -128),
            ("SoftmaxOptions", {"Beta": 1.0}),
        )  # fmt: skip
        return litert.run(content, [self.x[:, 0]], resolver).reshape(self.x.shape)
