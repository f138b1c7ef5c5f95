"""Random graphs of quantised layers of the `npu` engine, of every kind, and their programs.

Ref: docs/npu_compiler.md.
"""

from __future__ import annotations

import numpy as np

from bankside.errors import ConfigError
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.numerics_npu import softmax_table
from bankside.isa.program import Program
from bankside.mapping.llm.quantise import Affine, multiplier
from bankside.mapping.lower_npu.compiled import compile_graph
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

KINDS = ("conv2d", "depthwise", "pool", "elementwise", "lut", "softmax", "norm", "copy", "matmul")


class RandomGraphs:
    """Graphs for one machine; sizes up to `size` rows and columns, `channels` channels.

    seed: a number, or a generator to draw from. views: share of inputs that are parts of tensors.
    """

    def __init__(
        self, machine: NpuMachine, seed: int | np.random.Generator, size: int = 8,
        channels: int = 80, *, views: float = 0.2,
    ) -> None:  # fmt: skip
        self.views = views
        self.machine, self.rng = machine, np.random.default_rng(seed)
        self.size, self.channels = size, channels

    def graph(self, layers: int, kinds: tuple[str, ...] = KINDS) -> Graph:
        """So many layers, each on a tensor that is there; the last results are outputs."""
        if not self.machine.wide:
            kinds = tuple(k for k in kinds if k != "matmul")
        self.count = 0
        self.inputs = [self.tensor(), self.tensor()]
        self.there = list(self.inputs)
        found: list[Layer] = []
        for index in range(layers):
            self.name = f"{index} {kinds[self.pick(0, len(kinds) - 1)]}"
            found.append(getattr(self, self.name.split()[1])())
            self.there.append(found[-1].output)
        used = {id(t.base) for layer in found for t in layer.inputs}
        outputs = [layer.output for layer in found if id(layer.output) not in used]
        return Graph("random", self.inputs, found, outputs)

    # --- parts ----------------------------------------------------------------------------------
    def pick(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def flip(self, share: float = 0.5) -> bool:
        return bool(self.rng.random() < share)

    def form(self, bits: int = 8) -> Affine:
        return Affine(0.01 * self.pick(1, 9), self.pick(-20, 20), bits)

    def tensor(self, shape: tuple[int, int, int] | None = None, bits: int = 8) -> Tensor:
        shape = shape or (
            self.pick(1, self.size), self.pick(1, self.size), self.pick(1, self.channels),
        )  # fmt: skip
        self.count += 1
        return Tensor(f"t{self.count}", shape, self.form(bits))

    def source(self, *bits: int) -> Tensor:
        """A tensor that is there, or a view of one."""
        fitting = [t for t in self.there if t.form.bits in (bits or (8,))]
        tensor = fitting[self.pick(0, len(fitting) - 1)]
        if not self.flip(self.views):
            return tensor
        unit = tensor.word_channels
        at = (*(self.pick(0, n - 1) for n in tensor.shape[:2]),
              self.pick(0, (tensor.shape[2] - 1) // unit) * unit)  # fmt: skip
        shape = tuple(self.pick(1, n - a) for n, a in zip(tensor.shape, at, strict=True))
        self.count += 1
        return tensor.view(f"t{self.count}", at, shape)

    def scaling(self, channels: int, depth: int) -> dict:
        per = channels if self.flip(0.7) else 1
        real = [0.6 / (74 * depth**0.5) * self.rng.uniform(0.5, 2) for _ in range(per)]
        mult, shift = (np.array(v, np.int32) for v in zip(*map(multiplier, real), strict=True))
        return {"mult": mult, "shift": shift, "rounding": self.pick(0, 3)}

    def table(self) -> np.ndarray:
        return self.rng.integers(-128, 128, 256).astype(np.int8)

    def clamp(self) -> tuple[int, int] | None:
        return (self.pick(-90, 0), self.pick(1, 90)) if self.flip(0.3) else None

    def window(self, source: Tensor) -> tuple[dict, tuple[int, int]]:
        """Window and the size of its output."""
        kernel = self.pick(1, 3), self.pick(1, 3)
        stride, pad = (self.pick(1, 2), self.pick(1, 2)), (self.pick(0, 2), self.pick(0, 2))
        most = [(n + p - 1) // s + 1 for n, p, s in zip(source.shape, pad, stride, strict=False)]
        return {"kernel": kernel, "stride": stride, "pad": pad}, tuple(
            self.pick(max(1, m - 2), m) for m in most
        )

    # --- layers ---------------------------------------------------------------------------------
    def conv2d(self) -> Layer:
        source = self.source()
        window, size = self.window(source)
        window["dilation"] = (self.pick(1, 2), self.pick(1, 2))
        outputs = self.pick(1, self.channels)
        weights = (outputs, *window["kernel"], source.shape[2])
        scales, low = None, -128
        if self.machine.wide and self.flip():
            blocks = -(-source.shape[2] // 32)
            scales, low = self.rng.integers(1, 64, (*weights[:3], blocks)).astype(np.uint8), -8
        output = self.tensor((*size, outputs), 16 if self.flip(0.3) else 8)
        return Conv2d(
            self.name, output, source=source, **window,
            **self.scaling(outputs, int(np.prod(weights[1:]))),
            weights=self.rng.integers(low, -low, weights).astype(np.int8), scales=scales,
            bias=self.rng.integers(-2000, 2000, outputs).astype(np.int32), clamp=self.clamp(),
            table=self.table() if output.form.bits == 8 and self.flip(0.3) else None,
        )  # fmt: skip

    def depthwise(self) -> Layer:
        source = self.source()
        window, size = self.window(source)
        channels = source.shape[2]
        weights = self.rng.integers(-128, 128, (channels, *window["kernel"])).astype(np.int8)
        output = self.tensor((*size, channels), 16 if self.flip(0.3) else 8)
        return Depthwise(
            self.name, output, source=source, **window, **self.scaling(channels, 9),
            weights=weights, bias=self.rng.integers(-200, 200, channels).astype(np.int32),
        )  # fmt: skip

    def pool(self) -> Layer:
        source = self.source()
        window, size = self.window(source)
        output = self.tensor((*size, source.shape[2]))
        mode = "max" if self.flip() else "average"
        return Pool(self.name, output, source=source, **window, mode=mode, clamp=self.clamp())

    def matmul(self) -> Layer:
        a = self.source()
        b = self.tensor((1, self.pick(1, self.channels), a.shape[2]))
        self.inputs.append(b)
        output = self.tensor((*a.shape[:2], b.shape[1]))
        scaling = self.scaling(1, a.shape[2])
        return MatMul(self.name, output, a=a, b=b, **scaling)

    def elementwise(self) -> Layer:
        a = self.source(8, 16)
        shape = tuple(1 if self.flip(0.2) else n for n in a.shape)
        b = self.tensor(shape, 16 if self.flip() else 8)
        half = 1 << b.form.bits - 1
        b = Tensor(b.name, shape, b.form, self.rng.integers(-half, half, shape))
        op = ("add", "sub", "mul")[self.pick(0, 2)]
        real = 0.4 if op != "mul" else 0.004 if b.form.bits == 8 else 0.00002
        scales = {"o_scale": multiplier(real / (256 if a.form.bits == 16 else 1))}
        if op != "mul":
            scales |= {"a_scale": multiplier(0.9), "b_scale": multiplier(0.3),
                       "left_shift": self.pick(0, 4)}  # fmt: skip
        output = self.tensor(a.shape, 16 if self.flip(0.3) else 8)
        return Elementwise(self.name, output, op=op, a=a, b=b, rounding=self.pick(0, 3), **scales)

    def lut(self) -> Layer:
        source = self.source()
        return Lut(self.name, self.tensor(source.shape), source=source, table=self.table())

    def softmax(self) -> Layer:
        source = self.source()
        table = np.array(softmax_table(1 << 30, self.pick(22, 24), -255), np.int32)
        output = Tensor(self.tensor().name, source.shape, Affine(1 / 256, -128))
        return Softmax(self.name, output, source=source, table=table)

    def norm(self) -> Layer:
        source = self.source(8, 16)
        gain = self.rng.integers(-32768, 32768, source.shape[2]).astype(np.int16)
        output = self.tensor(source.shape, 16 if self.flip(0.3) else 8)
        return Normalisation(
            self.name, output, source=source, gain=gain, mode="rms" if self.flip() else "layer",
            epsilon=self.pick(0, 1000), epsilon_shift=self.pick(0, 12), o_shift=46 + 9,
        )  # fmt: skip

    def copy(self) -> Layer:
        source = self.source(8, 16)
        order = tuple(int(i) for i in self.rng.permutation(3))
        shape = tuple(source.shape[i] for i in order)
        output = self.tensor(shape, source.form.bits)
        return Copy(self.name, output, source=source, order=order)


def network_program(rng: np.random.Generator, machine: NpuMachine) -> Program:
    """A compiled network of a few layers with random inputs."""
    while True:
        graph = RandomGraphs(machine, rng).graph(int(rng.integers(1, 7)))
        try:
            compiled = compile_graph(graph, machine)
        except ConfigError:
            continue  # a layer that the machine cannot hold; draw again
        return compiled.bind({t.name: rng.integers(-128, 128, t.shape) for t in graph.inputs})
