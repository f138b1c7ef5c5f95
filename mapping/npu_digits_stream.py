"""Programs of the `npu` engine for a small network of convolutions and pools: one that brings the
weights and scale records, which stay in the buffers, then one per image. Ref: docs/npu.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.npu_weights import PACKED, RAW8, WeightLayout
from bankside.isa.numerics_npu import Record
from bankside.isa.program import Program
from bankside.isa.spec import load_spec
from bankside.mapping.npu_digits import (
    DEPTHWISE,
    MAX_POOL,
    ROUNDING,
    QuantConv,
    QuantNetwork,
    QuantPool,
)
from bankside.mapping.npu_stream import Stream

_ENUMS = load_spec("npu").enums
_GRID, _CHANNEL = _ENUMS["weight_mode"]["grid"], _ENUMS["scale_mode"]["channel"]
WEIGHTS, RECORDS, IMAGE, SCORES = range(4)
"""Regions of main memory."""


def _words(size: int, unit: int = WORD_BYTES) -> int:
    return -(-size // unit)


class NetworkPrograms:
    """Programs of one network on one machine.

    Feature maps lie row by row, a position takes a whole number of words; two buffers alternate.
    Raises ConfigError when the machine cannot hold the network.
    """

    def __init__(self, machine: NpuMachine, network: QuantNetwork) -> None:
        self.machine, self.network = machine, network
        self._weight_word: dict[str, int] = {}
        self._record_word: dict[str, int] = {}
        self._weights, self._records = self._encode()
        self._shapes = self._trace_shapes()
        self._place()

    def _encode(self) -> tuple[bytes, bytes]:
        port = self.machine.weight_port_bytes
        weights, records = b"", b""
        for layer in self.network.layers:
            if isinstance(layer, QuantPool):
                continue
            inputs = None if layer.kind == DEPTHWISE else layer.weight.shape[3]
            layout = WeightLayout(
                RAW8 if self.machine.wide else PACKED, self.machine.channels, port,
                len(layer.weight), (layer.kernel,) * 2, inputs,
            )  # fmt: skip
            self._weight_word[layer.name] = len(weights) // port
            weights += layout.encode(layer.weight)
            self._record_word[layer.name] = len(records) // WORD_BYTES
            rows = zip(layer.bias, layer.mult, layer.shift, strict=True)
            packed = b"".join(Record(*(int(v) for v in row)).pack() for row in rows)
            records += packed.ljust(_words(len(packed)) * WORD_BYTES, b"\0")
        limit = self.machine.config.npu.weight_bytes
        if len(weights) > limit:
            raise ConfigError(
                f"{self.machine.config.name}: the weights of {self.network.name} take "
                f"{len(weights)} bytes of the weight buffer, which has {limit}"
            )
        return weights, records

    def _trace_shapes(self) -> list[tuple[int, int, int]]:
        """Rows, columns and channels before the first layer and after every layer."""
        shapes = [self.network.shape]
        for layer in self.network.layers:
            rows, columns, channels = shapes[-1]
            if isinstance(layer, QuantPool):
                shapes.append((rows // layer.kernel, columns // layer.kernel, channels))
            else:
                grow = 2 * layer.pad - layer.kernel + 1
                shapes.append((rows + grow, columns + grow, len(layer.weight)))
        return shapes

    def _place(self) -> None:
        bus = self.machine.bus_bytes
        unit = max(bus // WORD_BYTES, 1)
        records = _words(_words(len(self._records)), unit) * unit
        largest = max(r * c * _words(n) for r, c, n in self._shapes)
        size = _words(largest, unit) * unit
        self._record_base, self._maps = 0, (records, records + size)
        if records + 2 * size > self.machine.shared_words:
            raise ConfigError(
                f"{self.machine.config.name}: {self.network.name} takes {records + 2 * size} words "
                f"of the shared buffer, which has {self.machine.shared_words}"
            )
        rows, columns, channels = self.network.shape
        self._image_bytes = rows * columns * _words(channels) * WORD_BYTES
        classes = self._shapes[-1][0] * self._shapes[-1][1] * _words(self._shapes[-1][2])
        sizes = (
            len(self._weights), len(self._records), self._image_bytes, classes * WORD_BYTES
        )  # fmt: skip
        regions, place = [], 0
        for size in sizes:
            regions.append((place, _words(size, bus) * bus))
            place += regions[-1][1]
        self.regions = tuple(regions)

    @property
    def macs(self) -> int:
        """Multiplications of one image."""
        total = 0
        for layer, (rows, columns, _) in zip(self.network.layers, self._shapes[1:], strict=True):
            if isinstance(layer, QuantConv):
                total += rows * columns * layer.weight.size
        return total

    # --- programs
    def _program(
        self, words: tuple[int, ...], contents: dict[int, bytes], outputs: dict
    ) -> Program:
        bus = self.machine.bus_bytes
        image = bytearray(self.regions[-1][0] + self.regions[-1][1])
        for region, data in contents.items():
            base = self.regions[region][0]
            image[base : base + len(data)] = data
        rows = np.frombuffer(bytes(image), "<u2").reshape(-1, bus // 2)
        return Program("npu", words, rows, outputs, self.regions)

    def setup(self) -> Program:
        """Brings weights and records. Runs once, before all images."""
        stream = Stream(self.machine)
        for region, direction in ((WEIGHTS, "to_weights"), (RECORDS, "to_shared")):
            size = self.regions[region][1]
            stream.transfer(direction, {"region": region, "rows": 1, "row_bytes": size, "buf": 0})
        return self._program(stream.finish(), {WEIGHTS: self._weights, RECORDS: self._records}, {})

    def run(self, pixels: NDArray[np.uint8]) -> Program:
        """One image [rows, columns]; output `scores`."""
        words = np.zeros((pixels.size, WORD_BYTES), np.int8)
        words[:, 0] = self.network.image(pixels).reshape(-1)
        stream, bus = Stream(self.machine), self.machine.bus_bytes
        shared = self._maps[0] * WORD_BYTES
        stream.await_transfer(
            stream.transfer(
                "to_shared",
                {"region": IMAGE, "rows": 1, "row_bytes": self.regions[IMAGE][1], "buf": shared},
            )
        )
        for index in range(len(self.network.layers)):
            self._operation(stream, index)
        stream.emit("KERNEL_WAIT", outstanding=0)
        base, size = self.regions[SCORES]
        last = self._maps[len(self.network.layers) % 2] * WORD_BYTES
        stream.transfer("to_memory", {"region": SCORES, "row_bytes": size, "buf": last})
        outputs = {"scores": (base // bus, size // bus)}
        return self._program(stream.finish(), {IMAGE: words.tobytes()}, outputs)

    def _operation(self, stream: Stream, index: int) -> None:
        layer, source = self.network.layers[index], self._maps[index % 2]
        (rows, columns, inputs), (h, w, c) = self._shapes[index], self._shapes[index + 1]
        pool = isinstance(layer, QuantPool)
        step = layer.kernel if pool else 1
        pad = 0 if isinstance(layer, QuantPool) else layer.pad
        low = layer.out.low if isinstance(layer, QuantPool) else layer.low
        registers = {
            "ifm": source, "ifm_sy": columns * _words(inputs), "ifm_sx": _words(inputs),
            "ifm_h": rows, "ifm_w": columns, "ifm_c": inputs, "ifm_bits": 0,
            "ofm": self._maps[(index + 1) % 2], "ofm_sy": w * _words(c), "ofm_sx": _words(c),
            "ofm_h": h, "ofm_w": w, "ofm_c": c, "ofm_zero": layer.out.zero, "ofm_bits": 0,
            "ofm_min": low, "ofm_max": layer.out.high,
            "kernel_h": layer.kernel, "kernel_w": layer.kernel, "stride_y": step,
            "stride_x": step, "pad_top": pad, "pad_left": pad, "dilation_y": 1, "dilation_x": 1,
            "block": min(h * w, self.machine.config.npu.accumulators), "weight_mode": _GRID,
            "lut_enable": 0, "depend": 0,
        }  # fmt: skip
        if isinstance(layer, QuantPool):
            mode = "max" if layer.kind == MAX_POOL else "average"
            stream.operation("POOL", registers | {"ifm_zero": 0}, mode=mode)
            return
        registers |= {
            "ifm_zero": layer.source.zero, "weights": self._weight_word[layer.name],
            "weight_format": RAW8 if self.machine.wide else PACKED,
            "scale": self._record_base + self._record_word[layer.name],
            "scale_mode": _CHANNEL, "rounding": ROUNDING,
        }  # fmt: skip
        stream.operation("DEPTHWISE" if layer.kind == DEPTHWISE else "CONV", registers)

    def scores(self, rows: NDArray[np.uint16]) -> NDArray[np.int64]:
        """int8 scores of the output `scores`."""
        flat = np.ascontiguousarray(rows, np.uint16).reshape(-1).view(np.int8)
        return flat[: self._shapes[-1][2]].astype(np.int64)
