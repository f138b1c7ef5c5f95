"""Random layers of the MAC path: memory images, results and cycles, without the engine.

Results come from isa.numerics_npu on accumulators that NumPy adds up; cycles from the formulas of
docs/npu.md section 5, one operation after the other.
"""

from dataclasses import dataclass, field
from random import Random

import numpy as np

from bankside.isa import numerics_npu as ref
from bankside.isa.npu_machine import MAC_LATENCY, OUTPUT_LATENCY, SETUP, NpuMachine
from bankside.isa.npu_weights import PACKED, RAW8, W4, WeightLayout
from bankside.isa.spec import load_spec

_SPEC = load_spec("npu")
_GLOBAL, _CHANNEL, _BYPASS = 0, 1, 2


def _int8(random: Random, shape: tuple[int, ...]) -> np.ndarray:
    values = [random.randint(-128, 127) for _ in range(int(np.prod(shape)))]
    return np.array(values, np.int64).reshape(shape)


@dataclass
class Layer:
    """One operation with its data. `reg`: state registers; `tile_words`: of one block's tiles."""

    name: str
    mode: int
    reg: dict[str, int]
    ifm: np.ndarray
    weights: np.ndarray | None = None
    ifm2: np.ndarray | None = None
    records: list[ref.Record] = field(default_factory=list)
    table: np.ndarray | None = None
    tile_words: list[int] = field(default_factory=list)

    @property
    def row(self) -> int:
        return self.reg["weight_mode"]

    def inputs(self, y: int, x: int) -> list[tuple[int, int, np.ndarray | None]]:
        """(ky, kx, channels of the input or None) of every tap of an output position."""
        reg, taps = self.reg, []
        for ky in range(reg["kernel_h"]):
            for kx in range(reg["kernel_w"]):
                iy = y * reg["stride_y"] + ky * reg["dilation_y"] - reg["pad_top"]
                ix = x * reg["stride_x"] + kx * reg["dilation_x"] - reg["pad_left"]
                inside = 0 <= iy < reg["ifm_h"] and 0 <= ix < reg["ifm_w"]
                taps.append((ky, kx, self.ifm[iy, ix] if inside else None))
        return taps

    def accumulators(self, y: int, x: int) -> np.ndarray:
        """int64 of every output channel. POOL average: rounded; it has no records."""
        reg = self.reg
        if self.name == "MATMUL":
            return (self.ifm2 - reg["ifm2_zero"]) @ (self.ifm[y, x] - reg["ifm_zero"])
        taps = self.inputs(y, x)
        if self.name == "POOL":
            values = [v for _, _, v in taps if v is not None]
            if self.mode == 0:
                return np.max(values, axis=0) if values else np.full(reg["ofm_c"], -128)
            sums = np.sum(values, axis=0) if values else np.zeros(reg["ofm_c"], np.int64)
            return np.array([ref.average(int(s), len(values)) for s in sums])
        total = np.zeros(reg["ofm_c"], np.int64)
        for ky, kx, v in taps:
            if v is None:
                continue
            w = self.weights[:, ky, kx].astype(np.int64)
            x_ = v - reg["ifm_zero"]
            total += w @ x_ if self.name == "CONV" else w * x_
        return total

    def result(self, y: int, x: int) -> list[int]:
        """Values of all output channels, int16 or int8."""
        reg, values = self.reg, []
        output = ref.Output(reg["ofm_zero"], reg["ofm_min"], reg["ofm_max"])
        bypass = self.name == "POOL" or reg["scale_mode"] == _BYPASS
        for c, acc in enumerate(self.accumulators(y, x)):
            acc = ref.wrap32(int(acc))
            if bypass:
                value = ref.clamp(acc, output.low, output.high)
            else:
                record = self.records[c if reg["scale_mode"] == _CHANNEL else 0]
                value = ref.requantise(acc, record, output, reg["rounding"])
            if reg["lut_enable"]:
                value = int(self.table[value + 128])
            values.append(value)
        return values


@dataclass
class Image:
    """Contents of the buffers and the places that are taken."""

    machine: NpuMachine
    random: Random

    def __post_init__(self) -> None:
        words = self.machine.shared_words
        self.shared = bytearray(self.random.randbytes(32 * words))
        self.weights = bytearray(self.random.randbytes(self.machine.config.npu.weight_bytes))
        self.free, self.weight_free = 0, 0

    def place(self, words: int) -> int:
        """First word of a new region of the shared buffer."""
        start = self.free + self.random.randrange(3)
        self.free = start + words
        assert self.free <= self.machine.shared_words
        return start

    def put(self, word: int, data: bytes) -> None:
        self.shared[32 * word : 32 * word + len(data)] = data

    def put_map(self, values: np.ndarray, reg: dict[str, int], names: str) -> None:
        """int8 feature map [h, w, c] at the strides of `reg`."""
        for (y, x), _ in np.ndenumerate(values[:, :, 0]):
            word = reg[names] + y * reg[f"{names}_sy"] + x * reg[f"{names}_sx"]
            self.put(word, values[y, x].astype(np.int8).tobytes())

    def put_weights(self, data: bytes) -> int:
        """First word of the weight port."""
        port = self.machine.weight_port_bytes
        start = self.weight_free + self.random.randrange(2)
        self.weights[start * port : start * port + len(data)] = data
        self.weight_free = start + len(data) // port
        return start


# --- random layers ------------------------------------------------------------------------------


def _map_strides(random: Random, w: int, words: int) -> tuple[int, int]:
    sx = words + random.choice((0, 0, 1))
    return w * sx + random.choice((0, 0, 1, 3)), sx


def random_layer(image: Image, name: str, *, small: bool = False, **fixed: int) -> Layer:
    """A layer of kind `name` with its data in `image`; `fixed` registers are kept."""
    random, machine = image.random, image.machine
    wide, matmul = machine.wide, name == "MATMUL"
    reg = dict.fromkeys(_SPEC.enums["register"], 0)
    channels = (1, 3, 8, 9, 17, 32) if small else (1, 2, 5, 8, 9, 16, 24, 31, 32, 33, 40, 65)
    reg.update(
        ifm_h=random.randint(1, 6),
        ifm_w=random.randint(1, 6),
        ifm_c=random.choice(channels),
        ofm_h=random.randint(1, 4),
        ofm_w=random.randint(1, 4),
        ofm_c=random.choice(channels),
        kernel_h=random.randint(1, 3),
        kernel_w=random.randint(1, 3),
        stride_y=random.randint(1, 2),
        stride_x=random.randint(1, 2),
        dilation_y=random.randint(1, 2),
        dilation_x=random.randint(1, 2),
        pad_top=random.randint(0, 2),
        pad_left=random.randint(0, 2),
        ifm_zero=random.choice((-128, 0, 127, random.randint(-128, 127))),
        ifm2_zero=random.choice((-128, 0, 127, random.randint(-128, 127))),
        block=random.choice((1, 2, 3, 4, 5, 7, 8, machine.config.npu.accumulators)),
        weight_mode=random.randrange(2) if wide else 0,
        weight_format=random.choice((RAW8, W4)) if wide else PACKED,
        scale_mode=random.choice((_GLOBAL, _CHANNEL, _CHANNEL, _BYPASS)),
        rounding=random.randrange(4),
        lut_enable=random.random() < 0.3,
        ofm_bits=random.random() < 0.3,
    )
    if name == "DEPTHWISE" and wide:
        reg["weight_format"] = RAW8
    reg.update(fixed)
    mode = random.randrange(2) if name == "POOL" else 0
    if name in ("DEPTHWISE", "POOL"):
        reg["ifm_c"] = reg["ofm_c"]
    if name == "POOL" or reg["lut_enable"]:
        reg["ofm_bits"] = 0
    if matmul:
        reg["ifm_h"], reg["ifm_w"] = reg["ofm_h"], reg["ofm_w"]
    half = 32768 if reg["ofm_bits"] else 128
    low, high = sorted(random.randint(-half, half - 1) for _ in range(2))
    if random.random() < 0.6:
        low, high = -half, half - 1
    reg.update(ofm_min=low, ofm_max=high, ofm_zero=random.randint(-128, 127))
    layer = Layer(name, mode, reg, _int8(random, (reg["ifm_h"], reg["ifm_w"], reg["ifm_c"])))
    _place_maps(image, layer)
    _place_weights(image, layer)
    _place_scale(image, layer)
    return layer


def _place_maps(image: Image, layer: Layer) -> None:
    reg, random = layer.reg, image.random
    words = -(-reg["ifm_c"] // 32)
    reg["ifm_sy"], reg["ifm_sx"] = _map_strides(random, reg["ifm_w"], words)
    reg["ifm"] = image.place(reg["ifm_h"] * reg["ifm_sy"] + words)
    image.put_map(layer.ifm, reg, "ifm")
    words = -(-reg["ofm_c"] // (16 if reg["ofm_bits"] else 32))
    reg["ofm_sy"], reg["ofm_sx"] = _map_strides(random, reg["ofm_w"], words)
    reg["ofm"] = image.place(reg["ofm_h"] * reg["ofm_sy"] + words)
    if layer.name == "MATMUL":
        layer.ifm2 = _int8(random, (reg["ofm_c"], reg["ifm_c"]))
        reg["ifm2_sx"] = -(-reg["ifm_c"] // 32) + random.randrange(2)
        reg["ifm2"] = image.place((reg["ofm_c"] + 1) * reg["ifm2_sx"])
        image.put_map(layer.ifm2[None], reg, "ifm2")


def _place_weights(image: Image, layer: Layer) -> None:
    """Weights as the lanes see them (W4: q * s) and the words of each tile."""
    reg, random, machine = layer.reg, image.random, image.machine
    group = machine.group(bool(layer.row))
    if layer.name == "MATMUL":
        tiles = -(-reg["ofm_c"] // group) * -(-reg["ifm_c"] // 32)
        layer.tile_words = [group] * tiles
    if layer.name not in ("CONV", "DEPTHWISE"):
        return
    inputs = reg["ifm_c"] if layer.name == "CONV" else None
    kernel = (reg["kernel_h"], reg["kernel_w"])
    layout = WeightLayout(
        reg["weight_format"], group, machine.weight_port_bytes, reg["ofm_c"], kernel, inputs
    )
    shape = (reg["ofm_c"], *kernel, *(() if inputs is None else (inputs,)))
    scales = None
    if reg["weight_format"] == W4:
        stored = np.clip(_int8(random, shape), -8, 7)
        blocks = (reg["ofm_c"], *kernel, -(-inputs // 32))
        scales = np.abs(_int8(random, blocks)) % 63 + 1
    else:
        spread = random.choice((1, 2, 5, 30, 128))
        stored = np.clip(_int8(random, shape) * spread // 128, -128, 127)
        # Sparse and constant weights: masks, and codes of no bits.
        if random.random() < 0.5:
            stored = np.where(np.abs(_int8(random, shape)) < random.choice((32, 120)), 0, stored)
        if random.random() < 0.1:
            stored = np.full(shape, random.choice((0, -3, 127)))
    data = layout.encode(stored.astype(np.int8), scales)
    reg["weights"] = image.put_weights(data)
    raw = np.frombuffer(data, np.uint8)
    layer.weights = layout.decode(raw)
    layer.tile_words = layout.tile_words(raw)


def _place_scale(image: Image, layer: Layer) -> None:
    reg, random = layer.reg, image.random
    count = reg["ofm_c"] if reg["scale_mode"] == _CHANNEL else 1
    for _ in range(count):
        bias = random.randint(-(1 << 31), (1 << 31) - 1) >> random.randrange(8, 32)
        mult = random.randint(1 << 30, (1 << 31) - 1) * random.choice((1, 1, -1))
        layer.records.append(ref.Record(bias, mult, random.choice((-12, -9, -7, -14, 1, -31))))
    packed = b"".join(record.pack() for record in layer.records)
    reg["scale"] = image.place(-(-len(packed) // 32))
    image.put(reg["scale"], packed)
    if reg["lut_enable"]:
        layer.table = _int8(random, (256,))
        reg["lut"] = image.place(8)
        image.put(reg["lut"], layer.table.astype(np.int8).tobytes())


def expected_shared(image: Image, layers: list[Layer], start: bytes) -> bytes:
    """The shared buffer after the layers, one after the other."""
    shared = bytearray(start)
    for layer in layers:
        reg = layer.reg
        size = 2 if reg["ofm_bits"] else 1
        for y in range(reg["ofm_h"]):
            for x in range(reg["ofm_w"]):
                at = 32 * (reg["ofm"] + y * reg["ofm_sy"] + x * reg["ofm_sx"])
                data = b"".join(v.to_bytes(size, "little", signed=True) for v in layer.result(y, x))
                shared[at : at + len(data)] = data
    return bytes(shared)


# --- cycles -------------------------------------------------------------------------------------


@dataclass
class Cycles:
    """Cycles of what can be seen from outside, over all operations."""

    starts: list[int] = field(default_factory=list)
    steps_done: list[int] = field(default_factory=list)
    complete: list[int] = field(default_factory=list)
    in_step: list[int] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    scale_reads: list[int] = field(default_factory=list)
    weight_reads: list[int] = field(default_factory=list)
    waits_weights: list[int] = field(default_factory=list)
    waits_output: list[int] = field(default_factory=list)


class Clock:
    """The formulas of docs/npu.md section 5, one operation after the other."""

    def __init__(self, machine: NpuMachine) -> None:
        self.machine, self.seen = machine, Cycles()
        self.m_end, self.a_end = 0, []  # A_end of every unit so far
        self.complete = 0

    def add(self, layer: Layer, head: int) -> None:
        """`head`: first cycle in which the operation is at the head of the queue."""
        reg, machine = layer.reg, self.machine
        ready = self.m_end if reg["depend"] and self.a_end else self.complete
        s = max(head, ready)
        self.seen.starts.append(s)
        blocks = self._blocks(reg)
        single = layer.name in ("DEPTHWISE", "POOL")
        group = machine.group(bool(layer.row))
        width = 1 if layer.row else machine.positions
        taps = 1 if layer.name == "MATMUL" else reg["kernel_h"] * reg["kernel_w"]
        inner = [0] if single else list(range(0, reg["ifm_c"], 32))
        steps = [i for _ in range(taps) for i in inner]
        groups = range(0, reg["ofm_c"], group)
        tiles = _Tiles(self, layer, s + SETUP, len(blocks))
        m_end, a_free, first = s + SETUP, (self.a_end[-1] if self.a_end else 0), True
        waits = []
        for positions in blocks:
            for o in groups:
                for number, i in enumerate(steps):
                    rounds = -(-positions // width)
                    parts = width if single else max(width, -(-min(32, reg["ifm_c"] - i) // 8))
                    tile = tiles.ready()
                    free = self.a_end[-2] + 1 if number == 0 and len(self.a_end) > 1 else 0
                    start = max(m_end, tile, free)
                    waits.append((m_end, tile, start))
                    m_end = start + rounds * parts
                    self.seen.in_step += range(start, m_end)
                    tiles.used(m_end)
                present = min(group, reg["ofm_c"] - o)
                start = max(a_free, m_end + MAC_LATENCY)
                a_free = self._output(layer, start, positions, present, first)
                first = False
                self.a_end.append(a_free)
        self.m_end, self.complete = m_end, a_free + OUTPUT_LATENCY
        self.seen.steps_done.append(m_end - 1)
        self.seen.complete.append(self.complete - 1)
        for before, tile, start in waits:
            self.seen.waits_weights += range(before, min(max(tile, before), start))

    def finish(self) -> None:
        """What is left of the time between start and completion, without the set-up."""
        seen = self.seen
        ends = [cycle + 1 for cycle in seen.complete]
        under_way = {c for s, e in zip(seen.starts, ends, strict=True) for c in range(s, e)}
        setup = {c for s in seen.starts for c in range(s, s + SETUP)}
        under_way -= setup | set(seen.in_step) | set(seen.waits_weights)
        seen.waits_output += sorted(under_way)

    @staticmethod
    def _blocks(reg: dict[str, int]) -> list[int]:
        total = reg["ofm_h"] * reg["ofm_w"]
        return [min(reg["block"], total - p) for p in range(0, total, reg["block"])]

    def _output(self, layer: Layer, start: int, positions: int, present: int, first: bool) -> int:
        reg, at = layer.reg, start
        if layer.name != "POOL" and reg["scale_mode"] != _BYPASS:
            at += -(-present // 2) if reg["scale_mode"] == _CHANNEL else 1
        if first and reg["lut_enable"]:
            at += 8
        self.seen.scale_reads += range(start, at)
        end = at + positions * -(-present // self.machine.output_rate)
        self.seen.writes += range(at + OUTPUT_LATENCY, end + OUTPUT_LATENCY)
        return end


class _Tiles:
    """F, or R and D, of the tiles of one operation; asked in the order of the steps."""

    def __init__(self, clock: Clock, layer: Layer, t0: int, blocks: int) -> None:
        self.clock, self.layer, self.t0 = clock, layer, t0
        self.words = iter(layer.tile_words * blocks)
        self.packed = not clock.machine.wide
        self.r_end, self.d_end, self.m_end = [t0], [t0], []

    def ready(self) -> int:
        """First cycle in which the step that comes next may start, as far as its tile goes."""
        if self.layer.name == "POOL":
            return self.t0
        words, clock = next(self.words), self.clock
        room = self.m_end[-2] + 1 if len(self.m_end) > 1 else 0
        if not self.packed:
            start = max(self.d_end[-1], room)
            end = start + words
            if self.layer.name != "MATMUL":
                clock.seen.weight_reads += range(start, end)
        else:
            staging = self.d_end[-2] + 1 if len(self.d_end) > 2 else 0
            start = max(self.r_end[-1], staging)
            self.r_end.append(start + words)
            clock.seen.weight_reads += range(start, self.r_end[-1])
            weights = self.clock.machine.channels * (1 if self.layer.name == "DEPTHWISE" else 32)
            start = max(self.d_end[-1], self.r_end[-1] + 1, room)
            end = start + max(1, weights // 8)
        self.d_end.append(end)
        return end + 1

    def used(self, m_end: int) -> None:
        self.m_end.append(m_end)


__all__ = ["Clock", "Cycles", "Image", "Layer", "expected_shared", "random_layer"]
