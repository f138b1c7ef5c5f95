"""InTAR's five kernels as task graphs, and each execution pattern on them.

Ref: arXiv 2502.08807; OswaldHe/InTAR, commit 10ca8ea; docs/scheduling.md, section InTAR's numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

from pydantic import Field

from bankside.mapping.scheduling.edges import Choice, Fabric, choose
from bankside.mapping.scheduling.generators import Maker
from bankside.mapping.scheduling.graph import Graph
from bankside.mapping.scheduling.patterns import Fixed, dataflow, sequential
from bankside.schema import Section, validate
from bankside.strict_yaml import load_yaml

Variant = tuple[Graph, frozenset[str]]
"""A graph and its tasks whose result is complete only after the last tile."""


class SelfAttention(Section):
    """Projections of `tokens` rows, scores, softmax, context; one head as wide as the model."""

    macs_per_cycle: int = Field(gt=0)
    tokens: int
    width: int


class GatedMlp(Section):
    """Two products, their gated product, and one back."""

    macs_per_cycle: int = Field(gt=0)
    rows: int
    inputs: int
    hidden: int


class Mlp(Section):
    """Products of one row, of these widths."""

    macs_per_cycle: int = Field(gt=0)
    widths: list[int]


class Vae(Section):
    """Two convolutions, a sample of their result, two transposed convolutions."""

    macs_per_cycle: int = Field(gt=0)
    size: int
    channels: int
    kernels: list[int]


class Cnn(Section):
    """Four convolutions of one channel: twice up, twice down by 2."""

    macs_per_cycle: int = Field(gt=0)
    size: int
    kernel: int


class Kernels(Section):
    """InTAR's benchmark."""

    self_attention: SelfAttention
    gated_mlp: GatedMlp
    mlp: Mlp
    vae: Vae
    cnn: Cnn


class Published(Section):
    """Mean speed-ups of the abstract."""

    over_dataflow: float
    over_sequential: float


class Exposed(Section):
    """Cycles of one design on the board and in a simulation with ideal memory."""

    board_cycles: int
    simulated_cycles: int

    @property
    def factor(self) -> float:
        """How much slower the board is."""
        return self.board_cycles / self.simulated_cycles


class Measured(Section):
    """Cycles on the board of the two fixed patterns."""

    sequential: int
    dataflow: int


class InTar(Section):
    """Everything in intar.yaml."""

    published: Published
    element_bytes: int
    port_bytes_per_cycle: int
    ports: int
    buffer_bytes: int
    units: int
    tiles: int
    function_bytes_per_cycle: int
    switch_cycles: int
    exposed_latency: Exposed
    measured: dict[str, Measured]
    kernels: Kernels

    def fabric(self, macs_per_cycle: int, late: frozenset[str] = frozenset()) -> Fabric:
        """The device, with the multipliers of one design."""
        return Fabric(
            self.units, macs_per_cycle // self.units, self.buffer_bytes,
            self.ports * self.port_bytes_per_cycle, self.tiles, self.switch_cycles, late,
            self.function_bytes_per_cycle,
        )  # fmt: skip


@cache
def parameters() -> InTar:
    """The parameters, read once."""
    data, locations = load_yaml(Path(__file__).with_name("intar.yaml"))
    return validate(InTar, data, locations)


# --- kernels --------------------------------------------------------------------------------------
def variants(name: str, data: InTar) -> Iterator[Variant]:
    """The graph of a kernel, in every orientation in which its tensors can stream."""
    kernel = getattr(data.kernels, name)
    makers = {
        "self_attention": _self_attention, "gated_mlp": _gated_mlp, "mlp": _mlp, "vae": _vae,
        "cnn": _cnn,
    }  # fmt: skip
    yield from makers[name](kernel, data.element_bytes)


def _self_attention(kernel: SelfAttention, width: int) -> Iterator[Variant]:
    n, d = kernel.tokens, kernel.width
    make = Maker("self_attention")
    x = make.given("x", n * d * width)
    q, k, v = (
        make.task(f"to_{name}", [x], n * d * width, weights=d * d * width, macs=n * d * d)
        for name in "qkv"
    )
    scores = make.task("scores", [q, k], n * n * width, whole=[k], macs=n * n * d)
    soft = make.task("softmax", [scores], n * n * width)
    out = make.task("context", [soft, v], n * d * width, whole=[v], macs=n * n * d)
    yield make.graph(out), frozenset()


def _gated_mlp(kernel: GatedMlp, width: int) -> Iterator[Variant]:
    """Streams along the hidden width: each tile of it takes a tile of every weight."""
    b, d, h = kernel.rows, kernel.inputs, kernel.hidden
    make = Maker("gated_mlp")
    x = make.given("x", b * d * width)
    weights = [make.given(f"w_{name}", d * h * width) for name in ("up", "gate", "down")]
    up = make.task("up", [x, weights[0]], b * h * width, whole=[x], macs=b * d * h)
    gate = make.task("gate", [x, weights[1]], b * h * width, whole=[x], macs=b * d * h)
    inner = make.task("silu_mul", [up, gate], b * h * width)
    down = make.task("down", [inner, weights[2]], b * d * width, macs=b * d * h)
    yield make.graph(down), frozenset({"down"})


def _mlp(kernel: Mlp, width: int) -> Iterator[Variant]:
    """Each layer can stream its input (a sum over tiles, complete at the end) or its output."""
    layers = range(len(kernel.widths) - 1)
    for by_input in product((False, True), repeat=len(layers)):
        make = Maker("mlp")
        x = make.given("x", kernel.widths[0] * width)
        for i in layers:
            n, m = kernel.widths[i : i + 2]
            w = make.given(f"w{i}", n * m * width)
            whole = [] if by_input[i] else [x]
            x = make.task(f"layer{i}", [x, w], m * width, whole=whole, macs=n * m)
        yield make.graph(x), frozenset(f"layer{i}" for i in layers if by_input[i])


def _vae(kernel: Vae, width: int) -> Iterator[Variant]:
    make, c, size = Maker("vae"), kernel.channels, kernel.size
    x = make.given("x", size * size * c * width)

    def conv(name: str, x: str, size: int, k: int, places: int) -> str:
        return make.task(
            name, [x], size * size * c * width, weights=c * c * k * k * width,
            macs=places * places * c * c * k * k,
        )  # fmt: skip

    for i, k in enumerate(kernel.kernels):
        size = size - k + 1
        x = conv(f"encode{i}", x, size, k, size)
    x = make.task("sample", [x], size * size * width)
    for i, k in enumerate(kernel.kernels):
        x = conv(f"decode{i}", x, size + k - 1, k, size)
        size = size + k - 1
    yield make.graph(x), frozenset()


def _cnn(kernel: Cnn, width: int) -> Iterator[Variant]:
    make, size, k = Maker("cnn"), kernel.size, kernel.kernel
    x = make.given("x", size * size * width)
    for i in range(4):
        after = 2 * size if i < 2 else size // 2
        x = make.task(
            f"conv{i}", [x], after * after * width, weights=k * k * width,
            macs=size * size * k * k,
        )  # fmt: skip
        size = after
    yield make.graph(x), frozenset()


# --- patterns -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Kernel:
    """One kernel under each pattern; `exposed`: sequential with memory as slow as on the board."""

    name: str
    choice: Choice
    dataflow: Fixed
    sequential: Fixed
    exposed: float

    @property
    def over_dataflow(self) -> float:
        """Speed-up of the choice over dataflow."""
        return self.dataflow.cycles / self.choice.cycles

    @property
    def over_sequential(self) -> float:
        """Speed-up of the choice over sequential, transfers not hidden."""
        return self.sequential.cycles / self.choice.cycles


def kernel(name: str, data: InTar) -> Kernel:
    """The best choice per edge and both fixed patterns, each in its best orientation."""
    found: list[tuple[Choice, Fixed, Fixed]] = []
    for graph, late in variants(name, data):
        fabric = data.fabric(getattr(data.kernels, name).macs_per_cycle, late)
        found.append((choose(graph, fabric), dataflow(graph, fabric), sequential(graph, fabric)))
    choices, flows, steps = zip(*found, strict=True)
    alone = min(steps, key=lambda fixed: fixed.cycles)
    slow = alone.compute + alone.memory * data.exposed_latency.factor
    return Kernel(
        name,
        min(choices, key=lambda choice: choice.cycles),
        min(flows, key=lambda fixed: fixed.cycles),
        alone,
        slow,
    )
