"""Random operations of the npu with everything they need: registers, tables, weights.

For tests of the executions: sizes are small, values cover their whole range.
"""

from dataclasses import dataclass

import numpy as np

from bankside.isa import numerics_npu as n
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.npu_weights import PACKED, RAW8, W4, WeightLayout
from bankside.isa.program import Builder, Program

KINDS = ("CONV", "DEPTHWISE", "MATMUL", "POOL", "ELEMENTWISE", "SOFTMAX", "NORM", "COPY")
_ROWS = {"POOL": "mode", "NORM": "mode", "ELEMENTWISE": "op"}


def set_registers(b: Builder, reg: dict[str, int]) -> None:
    """A SET for each register."""
    for name, value in reg.items():
        b.SET(reg=name, value=value & 0xFFFFFFFF)


def finish(b: Builder, machine: NpuMachine) -> Program:
    """STOP, and a program without main memory."""
    b.STOP()
    return Program("npu", tuple(b.words), np.zeros((0, machine.burst_elements), np.uint16))


@dataclass
class Layer:
    """An operation: registers, its mode, buffers before, weights as numbers."""

    name: str
    mode: int
    reg: dict[str, int]
    shared: np.ndarray
    weights: np.ndarray
    numbers: np.ndarray | None = None

    def emit(self, b: Builder) -> None:
        set_registers(b, self.reg)
        b.emit(self.name, **({_ROWS[self.name]: self.mode} if self.name in _ROWS else {}))


class Layers:
    """Random layers of one machine."""

    def __init__(self, machine: NpuMachine, seed: int) -> None:
        self.machine, self.rng = machine, np.random.default_rng(seed)

    def _pick(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def layer(self, name: str) -> Layer:
        """One layer, with random bytes wherever it uses none."""
        rng, mc = self.rng, self.machine
        self.next = self._pick(0, 20)
        shared = rng.integers(0, 256, mc.shared_words * 32).astype(np.uint8)
        weights = rng.integers(0, 256, mc.config.npu.weight_bytes).astype(np.uint8)
        low = self._pick(-128, 100)
        reg = {"ofm_zero": self._pick(-128, 127), "ofm_min": low, "ofm_max": self._pick(low, 127)}
        layer = Layer(name, 0, reg, shared, weights)
        getattr(self, f"_{name.lower()}")(layer)
        return layer

    # --- places -------------------------------------------------------------------------------
    def _map(self, reg, name, shape, bits=0) -> None:
        """Room for a feature map: rows of columns, or columns of rows."""
        h, w, c = shape
        words = -(-c // (32 >> bits)) + self._pick(0, 1)
        inner, outer = words, words * (w if self.rng.random() < 0.7 else h)
        by_rows = outer == words * w
        sx, sy = (inner, outer) if by_rows else (words * h, inner)
        reg |= {name: self.next, f"{name}_sx": sx, f"{name}_sy": sy, f"{name}_bits": bits}
        self.next += words * h * w + self._pick(0, 2)

    def _table(self, layer, name, data) -> None:
        first = self.next * 32
        layer.reg[name] = self.next
        layer.shared[first : first + data.size] = data.view(np.uint8)
        self.next += -(-data.size // 32) + self._pick(0, 2)

    def _zero(self, bits=0) -> int:
        return self._pick(-(128 << 8 * bits), (128 << 8 * bits) - 1)

    def _wide_output(self, reg, bits) -> None:
        if bits:
            reg |= {"ofm_min": self._pick(-32768, 0), "ofm_max": self._pick(0, 32767)}

    # --- MAC operations -----------------------------------------------------------------------
    def _window(self, reg, channels) -> None:
        pick = self._pick
        reg |= {"kernel_h": pick(1, 3), "kernel_w": pick(1, 3), "stride_y": pick(1, 3),
                "stride_x": pick(1, 3), "dilation_y": pick(1, 2), "dilation_x": pick(1, 2),
                "pad_top": pick(0, 3), "pad_left": pick(0, 3),
                "ifm_h": pick(1, 6), "ifm_w": pick(1, 6), "ifm_c": channels,
                "ofm_h": pick(1, 4), "ofm_w": pick(1, 4), "ifm_zero": self._zero()}  # fmt: skip
        self._map(reg, "ifm", (reg["ifm_h"], reg["ifm_w"], channels))

    def _mac(self, layer) -> None:
        """Block, mode, table, output map."""
        reg, mc = layer.reg, self.machine
        wide = layer.name != "POOL" and self._pick(0, 3) == 0
        reg |= {"block": self._pick(1, mc.config.npu.accumulators),
                "weight_mode": self._pick(0, 1) if mc.wide else 0, "depend": self._pick(0, 1),
                "lut_enable": 0 if wide else self._pick(0, 1)}  # fmt: skip
        self._wide_output(reg, wide)
        self._map(reg, "ofm", (reg["ofm_h"], reg["ofm_w"], reg["ofm_c"]), int(wide))
        if reg["lut_enable"]:
            self._table(layer, "lut", self.rng.integers(0, 256, 256).astype(np.uint8))

    def _scales(self, layer) -> None:
        """Records that bring sums into the range of the output, now and then anything."""
        reg, rng = layer.reg, self.rng
        reg |= {"scale_mode": self._pick(0, 2), "rounding": self._pick(0, 3)}
        records = b""
        for _ in range(reg["ofm_c"]):
            wild = rng.random() < 0.05
            bias = self._pick(*((-(1 << 31), (1 << 31) - 1) if wild else (-5000, 5000)))
            shift = self._pick(*((n.SHIFT_MIN, n.SHIFT_MAX) if wild else (-11, -5)))
            records += n.Record(bias, self._pick(1 << 30, (1 << 31) - 1), shift).pack()
        if reg["scale_mode"] != 2:
            self._table(layer, "scale", np.frombuffer(records, np.uint8))

    def _put_weights(self, layer, shape, inputs) -> None:
        reg, mc, rng = layer.reg, self.machine, self.rng
        if mc.wide:
            form = RAW8 if inputs is None else int(rng.choice([RAW8, W4]))
        else:
            form = PACKED
        layout = WeightLayout(
            form, mc.group(bool(reg["weight_mode"])), mc.weight_port_bytes, shape[0], shape[1:3],
            inputs,
        )  # fmt: skip
        half = 8 if form == W4 else 1 << self._pick(0, 7)
        w = rng.integers(-half, half, shape)
        w = np.where(rng.random(shape) < rng.choice([0, 0.7]), 0, w).astype(np.int8)
        scales, numbers = None, w.astype(np.int64)
        if form == W4:
            scales = rng.integers(1, 64, (*shape[:3], -(-inputs // 32)))
            numbers = w * np.repeat(scales, 32, axis=3)[..., :inputs]
        data = np.frombuffer(layout.encode(w, scales), np.uint8)
        words = len(data) // mc.weight_port_bytes
        first = self._pick(0, mc.weight_words - words)
        layer.weights[first * mc.weight_port_bytes :][: len(data)] = data
        layer.numbers = numbers
        reg |= {"weights": first, "weight_format": form}

    def _conv(self, layer) -> None:
        reg = layer.reg
        self._window(reg, self._pick(1, 40))
        reg["ofm_c"] = self._pick(1, 40)
        self._mac(layer)
        self._scales(layer)
        shape = (reg["ofm_c"], reg["kernel_h"], reg["kernel_w"], reg["ifm_c"])
        self._put_weights(layer, shape, reg["ifm_c"])

    def _depthwise(self, layer) -> None:
        reg = layer.reg
        reg["ofm_c"] = self._pick(1, 70)
        self._window(reg, reg["ofm_c"])
        self._mac(layer)
        self._scales(layer)
        self._put_weights(layer, (reg["ofm_c"], reg["kernel_h"], reg["kernel_w"]), None)

    def _matmul(self, layer) -> None:
        reg = layer.reg
        reg |= {"ofm_h": self._pick(1, 3), "ofm_w": self._pick(1, 4), "ofm_c": self._pick(1, 40),
                "ifm_c": self._pick(1, 70), "ifm_zero": self._zero(),
                "ifm2_zero": self._zero()}  # fmt: skip
        self._map(reg, "ifm", (reg["ofm_h"], reg["ofm_w"], reg["ifm_c"]))
        self._map(reg, "ifm2", (1, reg["ofm_c"], reg["ifm_c"]))
        reg["ifm2_sx"] = -(-reg["ifm_c"] // 32)
        self._mac(layer)
        self._scales(layer)

    def _pool(self, layer) -> None:
        reg = layer.reg
        layer.mode = self._pick(0, 1)
        reg["ofm_c"] = self._pick(1, 70)
        self._window(reg, reg["ofm_c"])
        self._mac(layer)

    # --- vector operations --------------------------------------------------------------------
    def _shape(self, reg, channels) -> tuple[int, int, int]:
        reg |= {"ofm_h": self._pick(1, 4), "ofm_w": self._pick(1, 4), "ofm_c": channels}
        return reg["ofm_h"], reg["ofm_w"], channels

    def _elementwise(self, layer) -> None:
        reg, pick = layer.reg, self._pick
        layer.mode = pick(0, 3)
        bits = [0, 0, 0] if layer.mode == 3 else [pick(0, 1) for _ in range(3)]
        shape = self._shape(reg, pick(1, 70))
        self._map(reg, "ifm", shape, bits[0])
        flags = pick(0, 7)
        small = tuple(1 if flags >> i & 1 else v for i, v in enumerate(shape))
        self._map(reg, "ifm2", small, bits[1])
        self._wide_output(reg, bits[2])
        self._map(reg, "ofm", shape, bits[2])
        reg |= {"ifm_zero": self._zero(bits[0]), "ifm2_zero": self._zero(bits[1]),
                "ifm2_broadcast": flags, "rounding": pick(0, 3), "left_shift": pick(0, 20)}
        for name in "abo":
            reg[f"{name}_mult"] = pick(1 << 30, (1 << 31) - 1)
            reg[f"{name}_shift"] = pick(-8, 2)
        reg["o_shift"] -= reg["left_shift"] if layer.mode < 2 else 4
        reg["o_shift"] = max(reg["o_shift"], n.SHIFT_MIN)
        self._table(layer, "lut", self.rng.integers(0, 256, 256).astype(np.uint8))

    def _softmax(self, layer) -> None:
        reg = layer.reg
        shape = self._shape(reg, self._pick(1, 70))
        reg["ifm_zero"] = self._zero()
        self._map(reg, "ifm", shape)
        self._map(reg, "ofm", shape)
        left = self._pick(15, 25)
        table = n.softmax_table(self._pick(1 << 30, (1 << 31) - 1), left, -self._pick(0, 255))
        self._table(layer, "lut", np.array(table, "<i4").view(np.uint8))

    def _norm(self, layer) -> None:
        reg, bits = layer.reg, [self._pick(0, 1) for _ in range(2)]
        layer.mode = self._pick(0, 1)
        shape = self._shape(reg, self._pick(1, 70))
        self._map(reg, "ifm", shape, bits[0])
        self._wide_output(reg, bits[1])
        self._map(reg, "ofm", shape, bits[1])
        reg |= {"ifm_zero": self._zero(bits[0]), "o_shift": self._pick(44, 56),
                "epsilon": self._pick(0, 1 << 31), "epsilon_shift": self._pick(0, 20)}
        self._table(layer, "scale", self.rng.integers(0, 256, 2 * shape[2]).astype(np.uint8))

    def _copy(self, layer) -> None:
        """Words or bytes with the axes in any order on either side."""
        reg, size = layer.reg, 32 if self._pick(0, 1) else 1
        counts = [self._pick(1, 6) for _ in range(3)]
        reg |= {"wide": size // 32} | {f"n{i}": c for i, c in enumerate(counts)}
        at = self.next * size
        for side in ("src", "dst"):
            step = size
            for i in self.rng.permutation(3):
                reg[f"{side}_s{i}"] = step
                step *= counts[i]
            reg[side] = at
            if self._pick(0, 1):
                reg[side] += (counts[0] - 1) * reg[f"{side}_s0"]
                reg[f"{side}_s0"] = -reg[f"{side}_s0"]
            at += step
