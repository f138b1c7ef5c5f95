"""Graphs to schedule: chains, convolutional networks, random wiring, transformer layers.

Sizes follow from shapes; elements are one byte unless a maker says otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from bankside.errors import ConfigError
from bankside.mapping.scheduling.graph import Graph, Task

Map = tuple[int, int, int]
"""Rows, columns, channels of a feature map."""


@dataclass
class Maker:
    """Builds a graph task by task; makers of networks below use it, users may."""

    name: str
    sizes: dict[str, int] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)
    shapes: dict[str, Map] = field(default_factory=dict)

    def given(self, name: str, size: int) -> str:
        """A tensor that lies in memory."""
        self.sizes[name] = size
        return name

    def task(
        self,
        name: str,
        inputs: Sequence[str],
        size: int,
        *,
        weights: int = 0,
        whole: Sequence[str] = (),
        macs: int = 0,
        kind: str = "operator",
    ) -> str:
        """A task with an output of `size` bytes, and weights of its own where it has some."""
        names = list(inputs)
        if weights:
            names.append(self.given(f"{name}.w", weights))
            whole = [*whole, names[-1]]
        self.sizes[f"{name}.y"] = size
        self.tasks.append(Task(name, tuple(names), f"{name}.y", tuple(whole), macs=macs, kind=kind))
        return f"{name}.y"

    def graph(self, *outputs: str) -> Graph:
        """The graph; raises ConfigError when it contradicts itself."""
        return Graph(self.name, self.sizes, tuple(self.tasks), outputs)

    # --- feature maps -----------------------------------------------------------------------------
    def image(self, name: str, shape: Map) -> str:
        """A feature map that lies in memory."""
        self.shapes[name] = shape
        return self.given(name, shape[0] * shape[1] * shape[2])

    def conv(
        self,
        name: str,
        inputs: Sequence[str],
        channels: int,
        kernel: int = 3,
        stride: int = 1,
        depthwise: bool = False,
    ) -> str:
        """Convolution of inputs joined along their channels, padded to keep the size."""
        rows, columns, _ = self.shapes[inputs[0]]
        depth = sum(self.shapes[t][2] for t in inputs)
        rows, columns = -(-rows // stride), -(-columns // stride)
        if depthwise:
            channels = depth
        per_output = kernel * kernel * (1 if depthwise else depth)
        y = self.task(
            name, inputs, rows * columns * channels, weights=per_output * channels,
            macs=rows * columns * channels * per_output, kind="conv",
        )  # fmt: skip
        self.shapes[y] = (rows, columns, channels)
        return y

    def add(self, name: str, *inputs: str) -> str:
        """Sum of feature maps of one shape."""
        y = self.task(name, inputs, self.sizes[inputs[0]], kind="add")
        self.shapes[y] = self.shapes[inputs[0]]
        return y

    def pool(self, name: str, x: str, stride: int = 2) -> str:
        """Pool over windows of `stride`, or of 3 x 3 with stride 1."""
        rows, columns, channels = self.shapes[x]
        shape = (-(-rows // stride), -(-columns // stride), channels)
        y = self.task(name, [x], shape[0] * shape[1] * shape[2], kind="pool")
        self.shapes[y] = shape
        return y

    def dense(self, name: str, x: str, outputs: int) -> str:
        """Fully connected layer of a feature map, flattened."""
        y = self.task(
            name, [x], outputs, weights=self.sizes[x] * outputs, macs=self.sizes[x] * outputs,
            whole=[x], kind="dense",
        )  # fmt: skip
        self.shapes[y] = (1, 1, outputs)
        return y


# --- convolutional networks -----------------------------------------------------------------------
def chain(sizes: Sequence[int], weights: Sequence[int] | None = None) -> Graph:
    """Tasks one after another: tensors of these bytes, and weights of each task."""
    make = Maker("chain")
    x = make.given("x", sizes[0])
    for i, size in enumerate(sizes[1:]):
        x = make.task(f"t{i}", [x], size, weights=weights[i] if weights else 0)
    return make.graph(x)


def resnet(blocks: int = 8, size: int = 32, channels: int = 16) -> Graph:
    """Residual network (He et al., CIFAR form): blocks of two convolutions and a sum; half the
    size and twice the channels after each third of them.
    """
    make = Maker(f"resnet{2 * blocks + 2}")
    x = make.conv("stem", [make.image("x", (size, size, 3))], channels)
    third = max(1, blocks // 3)
    for b in range(blocks):
        stride = 2 if b in (third, 2 * third) else 1
        width = channels << min(b // third, 2)
        y = make.conv(f"b{b}.a", [x], width, stride=stride)
        y = make.conv(f"b{b}.b", [y], width)
        if stride > 1:
            x = make.conv(f"b{b}.skip", [x], width, 1, stride)
        x = make.add(f"b{b}.add", x, y)
    return make.graph(make.dense("classes", make.pool("pool", x, make.shapes[x][0]), 10))


def densenet(layers: int = 12, size: int = 32, growth: int = 12) -> Graph:
    """Dense block (Huang et al.): each layer reads all maps before it."""
    make = Maker(f"densenet{layers}")
    maps = [make.conv("stem", [make.image("x", (size, size, 3))], 2 * growth)]
    for i in range(layers):
        maps.append(make.conv(f"l{i}", maps, growth))
    return make.graph(make.conv("transition", maps, 4 * growth, 1))


def inception(blocks: int = 3, size: int = 28, channels: int = 64) -> Graph:
    """GoogLeNet blocks (Szegedy et al.): four branches joined by the next layers."""
    make = Maker(f"inception{blocks}")
    maps = [make.image("x", (size, size, channels))]
    for b in range(blocks):
        one = make.conv(f"b{b}.1x1", maps, channels // 2, 1)
        three = make.conv(f"b{b}.3x3", [make.conv(f"b{b}.3r", maps, channels // 4, 1)], channels)
        five = make.conv(f"b{b}.5r", maps, channels // 8, 1)
        five = make.conv(f"b{b}.5x5", [five], channels // 4, 5)
        joined = make.conv(f"b{b}.proj", maps, channels // 4, 1)
        maps = [one, three, five, make.pool(f"b{b}.pool", joined, 1)]
    return make.graph(make.conv("out", maps, channels, 1))


def mobilenet(blocks: int = 8, size: int = 56, channels: int = 24, expand: int = 4) -> Graph:
    """Inverted residuals (MobileNetV2): wide depthwise maps between narrow ones."""
    make = Maker(f"mobilenet{blocks}")
    x = make.conv("stem", [make.image("x", (2 * size, 2 * size, 3))], channels, stride=2)
    for b in range(blocks):
        stride, width = (2, channels << (b // 3)) if b and b % 3 == 0 else (1, channels << (b // 3))
        y = make.conv(f"b{b}.up", [x], expand * make.shapes[x][2], 1)
        y = make.conv(f"b{b}.dw", [y], 0, stride=stride, depthwise=True)
        y = make.conv(f"b{b}.down", [y], width, 1)
        x = make.add(f"b{b}.add", x, y) if stride == 1 and make.shapes[x] == make.shapes[y] else y
    return make.graph(x)


def unet(levels: int = 4, size: int = 64, channels: int = 8) -> Graph:
    """Encoder and decoder (Ronneberger et al.): maps of each level wait for the way back."""
    make = Maker(f"unet{levels}")
    x, kept = make.image("x", (size, size, 3)), []
    for level in range(levels):
        x = make.conv(f"down{level}.a", [x], channels << level)
        x = make.conv(f"down{level}.b", [x], channels << level)
        kept.append(x)
        x = make.pool(f"down{level}.pool", x)
    x = make.conv("middle", [x], channels << levels)
    for level in reversed(range(levels)):
        rows, columns, _ = make.shapes[kept[level]]
        wide = make.task(f"up{level}.wide", [x], rows * columns * (channels << level), kind="up")
        make.shapes[wide] = (rows, columns, channels << level)
        x = make.conv(f"up{level}.a", [kept[level], wide], channels << level)
        x = make.conv(f"up{level}.b", [x], channels << level)
    return make.graph(make.conv("out", [x], 2, 1))


def random_wired(tasks: int = 30, seed: int = 1, size: int = 16, channels: int = 32) -> Graph:
    """Randomly wired network (Xie et al. 2019, Watts-Strogatz with k = 4, p = 0.75), as neural
    architecture search makes them.
    """
    rng = random.Random(seed)
    edges: set[tuple[int, int]] = set()
    for i in range(tasks):
        for d in (1, 2):
            j = rng.randrange(tasks) if rng.random() < 0.75 else (i + d) % tasks
            if i != j:
                edges.add((min(i, j), max(i, j)))
    make = Maker(f"random{tasks}_{seed}")
    stem = make.conv("stem", [make.image("x", (2 * size, 2 * size, 3))], channels, stride=2)
    maps: list[str] = []
    for i in range(tasks):
        sources = [maps[a] for a, b in sorted(edges) if b == i] or [stem]
        x = sources[0] if len(sources) == 1 else make.add(f"n{i}.sum", *sources)
        maps.append(make.conv(f"n{i}", [x], channels))
    ends = [m for m in maps if not any(m in task.inputs for task in make.tasks)]
    return make.graph(make.add("mean", *ends) if len(ends) > 1 else ends[0])


def nas_cells(cells: int = 3, seed: int = 1, size: int = 16, channels: int = 32) -> Graph:
    """Cells as NASNet's: five sums of two operations each over what came before, joined."""
    rng = random.Random(seed)
    make = Maker(f"nas{cells}_{seed}")
    first = make.conv("stem", [make.image("x", (2 * size, 2 * size, 3))], channels, stride=2)
    before, last = first, first
    for c in range(cells):
        a = make.conv(f"c{c}.fit0", [before], channels, 1)
        b = make.conv(f"c{c}.fit1", [last], channels, 1)
        nodes, used = [a, b], set()
        for n in range(5):
            pair = []
            for k in range(2):
                x = rng.choice(nodes)
                used.add(x)
                kind = rng.choice(("sep3", "sep5", "pool", "same"))
                name = f"c{c}.n{n}.{k}"
                if kind == "pool":
                    x = make.pool(name, x, 1)
                elif kind != "same":
                    x = make.conv(name, [x], channels, int(kind[3]), depthwise=True)
                pair.append(x)
            node = f"c{c}.n{n}"
            twice = pair[0] == pair[1]
            nodes.append(make.pool(node, pair[0], 1) if twice else make.add(node, *pair))
        loose = [x for x in nodes[2:] if x not in used]
        before, last = last, make.conv(f"c{c}.join", loose, channels, 1)
    return make.graph(last)


# --- transformers ---------------------------------------------------------------------------------
def transformer(
    tokens: int = 64,
    hidden: int = 128,
    heads: int = 4,
    kv_heads: int | None = None,
    ffn: int | None = None,
    layers: int = 1,
    gated: bool = False,
    element_bytes: int = 1,
) -> Graph:
    """Decoder layers on `tokens` rows, attention head by head.

    Args:
        kv_heads: heads of keys and values, shared by equal groups of query heads.
        ffn: inner width, by default 4 times the hidden one.
        gated: a gate beside the inner layer.

    Raises:
        ConfigError: the heads do not divide.
    """
    kv_heads, ffn = kv_heads or heads, ffn or 4 * hidden
    if hidden % heads or heads % kv_heads:
        raise ConfigError(
            f"transformer of width {hidden} with {heads} heads and {kv_heads} key heads; expected "
            f"divisors"
        )
    make = Maker(f"transformer{layers}x{heads}")
    rows = tokens * element_bytes
    x = make.given("x", rows * hidden)
    for layer in range(layers):
        x = _attention(make, f"l{layer}.", x, tokens, hidden, heads, kv_heads, element_bytes)
        x = _ffn(make, f"l{layer}.", x, tokens, hidden, ffn, gated, element_bytes)
    return make.graph(x)


def _linear(make: Maker, name: str, x: str, tokens: int, n: int, k: int, width: int) -> str:
    return make.task(
        name, [x], tokens * n * width, weights=n * k * width, macs=tokens * n * k, kind="gemm"
    )


def _attention(
    make: Maker, at: str, x: str, tokens: int, hidden: int, heads: int, kv_heads: int, width: int
) -> str:
    dim = hidden // heads
    normed = make.task(f"{at}norm1", [x], make.sizes[x], kind="norm")
    keys = [_linear(make, f"{at}k{h}", normed, tokens, dim, hidden, width) for h in range(kv_heads)]
    values = [
        _linear(make, f"{at}v{h}", normed, tokens, dim, hidden, width) for h in range(kv_heads)
    ]
    contexts = []
    for h in range(heads):
        group = h * kv_heads // heads
        q = _linear(make, f"{at}q{h}", normed, tokens, dim, hidden, width)
        scores = make.task(
            f"{at}qk{h}", [q, keys[group]], tokens * tokens * width, whole=[keys[group]],
            macs=tokens * tokens * dim, kind="scores",
        )  # fmt: skip
        soft = make.task(f"{at}softmax{h}", [scores], tokens * tokens * width, kind="softmax")
        contexts.append(
            make.task(
                f"{at}pv{h}",
                [soft, values[group]],
                tokens * dim * width,
                whole=[values[group]],
                macs=tokens * tokens * dim,
                kind="context",
            )  # fmt: skip
        )
    out = make.task(
        f"{at}out", contexts, tokens * hidden * width, weights=hidden * hidden * width,
        macs=tokens * hidden * hidden, kind="gemm",
    )  # fmt: skip
    return make.task(f"{at}add1", [x, out], tokens * hidden * width, kind="add")


def _ffn(
    make: Maker, at: str, x: str, tokens: int, hidden: int, ffn: int, gated: bool, width: int
) -> str:
    normed = make.task(f"{at}norm2", [x], make.sizes[x], kind="norm")
    inner = _linear(make, f"{at}up", normed, tokens, ffn, hidden, width)
    if gated:
        gate = _linear(make, f"{at}gate", normed, tokens, ffn, hidden, width)
        inner = make.task(f"{at}mul", [inner, gate], tokens * ffn * width, kind="act")
    else:
        inner = make.task(f"{at}act", [inner], tokens * ffn * width, kind="act")
    down = _linear(make, f"{at}down", inner, tokens, hidden, ffn, width)
    return make.task(f"{at}add2", [x, down], tokens * hidden * width, kind="add")
