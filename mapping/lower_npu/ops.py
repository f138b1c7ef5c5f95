"""Operations of each kind of layer: state registers without addresses.

`Lowering.ops` gives the operations for some rows of a layer's output. Ref: docs/npu.md sections 2
and 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.numerics_npu import Record
from bankside.isa.spec import load_spec
from bankside.mapping.lower_npu import cost
from bankside.mapping.lower_npu.storage import Buffer, Constant, Op, Place
from bankside.mapping.lower_npu.weights import Piece, WeightPlan, WeightPlanner
from bankside.mapping.npu_graph import Layer, Tensor
from bankside.mapping.npu_layers import (
    Conv2d,
    Copy,
    Depthwise,
    Elementwise,
    Lut,
    MatMul,
    Normalisation,
    Pool,
    Scaled,
    Softmax,
    Windowed,
)

_ENUMS = load_spec("npu").enums
_SCALE, _MODE = _ENUMS["scale_mode"], _ENUMS["weight_mode"]
Registers = dict[str, int | Place]


@dataclass(frozen=True)
class Map:
    """Where rows of a tensor lie: the place of the first of them, strides in words.

    rows: [first, stop) of the tensor that are there.
    """

    tensor: Tensor
    place: Place
    sy: int
    sx: int
    rows: tuple[int, int]

    def row(self, index: int) -> Place:
        """Place of a row of the tensor."""
        return self.place.moved((index - self.rows[0]) * self.sy)

    @property
    def buffers(self) -> list[Buffer]:
        return [self.place.target] if isinstance(self.place.target, Buffer) else []


Maps = dict[int, Map]
"""id of a tensor -> where it lies."""


class Lowering:
    """Operations of the layers of one machine. `table` constants are shared by equal content."""

    def __init__(self, machine: NpuMachine, planner: WeightPlanner) -> None:
        self.machine, self.planner = machine, planner
        self._constants: dict[bytes, Constant] = {}
        self._plans: dict[int, WeightPlan] = {}
        self._records: dict[tuple[int, int, int], Constant] = {}
        self.choices: dict[str, cost.Choice] = {}

    def ops(self, layer: Layer, maps: Maps, rows: tuple[int, int], reverse: bool) -> list[Op]:
        """Operations for rows [first, stop) of the output; reverse: pieces of weights backward."""
        found = _BY_KIND[layer.kind](self, layer, maps, rows)
        if reverse and isinstance(layer, Conv2d | Depthwise) and not self.plan(layer).scattered:
            found.reverse()
        return found

    def constant(self, data: bytes) -> Constant:
        """One for equal bytes."""
        return self._constants.setdefault(data, Constant(data))

    def plan(self, layer: Conv2d | Depthwise) -> WeightPlan:
        if id(layer) not in self._plans:
            self._plans[id(layer)] = self.planner.plan(layer)
            self.choices[layer.name] = self._plans[id(layer)].choice
        return self._plans[id(layer)]

    # --- parts of registers ---------------------------------------------------------------------
    def _op(
        self, layer: Layer, command: str, registers: Registers, maps: list[Map], out: Map,
        fields: dict[str, str], cycles: float,
    ) -> Op:  # fmt: skip
        reads = [b for m in maps for b in m.buffers]
        target = out.place.target
        assert isinstance(target, Buffer)
        return Op(layer.name, command, fields, registers, reads, target, cycles=cycles)

    def _mac(self, layer: Layer, choice: cost.Choice) -> Registers:
        return {"block": choice.block, "weight_mode": int(choice.row), "lut_enable": 0}

    def _scaled(self, layer: Scaled) -> Registers:
        """Rounding and the table."""
        registers: Registers = {"rounding": layer.rounding, "lut_enable": 0}
        if layer.table is not None:
            table = self.constant(layer.table.tobytes())
            registers |= {"lut_enable": 1, "lut": Place(table)}
        return registers

    # --- CONV, DEPTHWISE ------------------------------------------------------------------------
    def _weighted(self, layer: Conv2d | Depthwise, maps: Maps, rows: tuple[int, int]) -> list[Op]:
        plan = self.plan(layer)
        out = maps[id(layer.output)]
        if plan.scattered is None:
            return [
                self._piece(layer, maps, rows, plan, piece, out, piece.first)
                for piece in plan.pieces
            ]
        height, width, _ = rows[1] - rows[0], *layer.output.shape[1:]
        area = height * width
        scratch = Buffer(f"{layer.name} pieces", area * len(plan.pieces))
        found = []
        for index, piece in enumerate(plan.pieces):
            place = Place(scratch).moved(index * area)
            part = Map(layer.output, place, width, 1, rows)
            found.append(self._piece(layer, maps, rows, plan, piece, part, 0))
        return found + self._joins(layer, plan, scratch, out, rows)

    def _piece(
        self, layer: Conv2d | Depthwise, maps: Maps, rows: tuple[int, int], plan: WeightPlan,
        piece: Piece, out: Map, channel: int,
    ) -> Op:  # fmt: skip
        """Channels of a piece, written from `channel` of `out` on."""
        source, count = maps[id(layer.source)], piece.stop - piece.first
        offset = channel * layer.output.element_bytes // WORD_BYTES
        registers = _window(layer, source, rows) | _output(layer.output, out, rows, layer.clamp)
        registers["ofm"] = out.row(rows[0]).moved(offset)
        registers |= {"ofm_c": count, "weight_format": plan.format}
        registers |= self._mac(layer, plan.choice) | self._scaled(layer)
        registers |= {
            "scale": Place(self._scale_records(layer, piece.first, piece.stop)),
            "scale_mode": _SCALE["channel"],
        }
        if isinstance(layer, Depthwise):
            registers["ifm_c"] = count
            words = piece.first // layer.source.word_channels
            registers["ifm"] = source_place(registers).moved(words)
        share = count / layer.output.shape[2] * (rows[1] - rows[0]) / layer.output.shape[0]
        command = "DEPTHWISE" if isinstance(layer, Depthwise) else "CONV"
        op = self._op(layer, command, registers, [source], out, {}, plan.choice.cycles * share)
        op.weights = piece.chunk
        return op

    def _joins(
        self, layer: Layer, plan: WeightPlan, scratch: Buffer, out: Map, rows: tuple[int, int]
    ) -> list[Op]:
        """COPYs of the pieces, each less than a word, next to each other."""
        width, channels = layer.output.shape[1:]
        assert plan.scattered is not None
        size = plan.scattered * layer.output.element_bytes
        whole, rest = divmod(channels, plan.scattered)
        parts = [(0, whole, size)] if whole else []
        parts += [(whole, 1, rest * layer.output.element_bytes)] if rest else []
        area = (rows[1] - rows[0]) * width
        found = []
        for row in range(*rows):
            for first, count, size_of in parts:
                begin = (first * area + (row - rows[0]) * width) * WORD_BYTES
                src = Place(scratch, begin, in_bytes=True)
                start = out.row(row)
                dst = Place(start.target, start.byte + first * size, in_bytes=True)
                strides = ((area * WORD_BYTES, size), (WORD_BYTES, out.sx * WORD_BYTES), (1, 1))
                found.append(
                    self._copy(layer, (count, width, size_of), src, dst, strides, [scratch], out)
                )
        return found

    def _scale_records(self, layer: Conv2d | Depthwise, first: int, stop: int) -> Constant:
        key = (id(layer), first, stop)
        if key not in self._records:
            channels = layer.output.shape[2]
            mult, shift = (np.broadcast_to(v, channels) for v in (layer.mult, layer.shift))
            packed = (
                Record(int(layer.bias[c]), int(mult[c]), int(shift[c])).pack()
                for c in range(first, stop)
            )
            self._records[key] = self.constant(b"".join(packed))
        return self._records[key]

    # --- MATMUL, POOL ---------------------------------------------------------------------------
    def _matmul(self, layer: MatMul, maps: Maps, rows: tuple[int, int]) -> list[Op]:
        if not self.machine.wide:
            raise layer.refuse("profile u55 has no product of two inputs; use profile llm")
        a, b, out = maps[id(layer.a)], maps[id(layer.b)], maps[id(layer.output)]
        group = (self.machine.group(False), self.machine.group(True))
        shape = cost.MacShape(
            (rows[1] - rows[0]) * layer.output.shape[1], layer.output.shape[2], 1,
            layer.a.shape[2], group, per_channel=False, table=layer.table is not None,
        )  # fmt: skip
        choice = self.choices[layer.name] = cost.choose(self.machine, shape)
        record = Record(0, int(layer.mult[0]), int(layer.shift[0])).pack()
        registers = _input("ifm", a, rows[0]) | {"ifm_c": layer.a.shape[2]}
        registers |= _input("ifm2", b, 0) | _output(layer.output, out, rows, layer.clamp)
        registers |= self._mac(layer, choice) | self._scaled(layer)
        registers |= {"scale": Place(self.constant(record)), "scale_mode": _SCALE["global"]}
        return [self._op(layer, "MATMUL", registers, [a, b], out, {}, choice.cycles)]

    def _pool(self, layer: Pool, maps: Maps, rows: tuple[int, int]) -> list[Op]:
        source, out = maps[id(layer.source)], maps[id(layer.output)]
        height, width, channels = rows[1] - rows[0], *layer.output.shape[1:]
        shape = cost.MacShape(
            height * width, channels, int(np.prod(layer.kernel)), 0, (0, 0), scaled=False
        )
        choice = self.choices[layer.name] = cost.choose(self.machine, shape)
        registers = _window(layer, source, rows) | _output(layer.output, out, rows, layer.clamp)
        registers |= self._mac(layer, choice)
        fields = {"mode": layer.mode}
        return [self._op(layer, "POOL", registers, [source], out, fields, choice.cycles)]

    # --- vector unit ----------------------------------------------------------------------------
    def _elementwise(self, layer: Elementwise, maps: Maps, rows: tuple[int, int]) -> list[Op]:
        a, b, out = maps[id(layer.a)], maps[id(layer.b)], maps[id(layer.output)]
        registers = _input("ifm", a, rows[0]) | _output(layer.output, out, rows, layer.clamp)
        registers |= _input("ifm2", b, 0 if layer.b.shape[0] == 1 else rows[0])
        registers |= {
            "ifm2_broadcast": layer.broadcast, "rounding": layer.rounding,
            "o_mult": layer.o_scale[0], "o_shift": layer.o_scale[1],
        }  # fmt: skip
        if layer.op != "mul":
            registers |= {
                "a_mult": layer.a_scale[0], "a_shift": layer.a_scale[1],
                "b_mult": layer.b_scale[0], "b_shift": layer.b_scale[1],
                "left_shift": layer.left_shift,
            }  # fmt: skip
        cycles = self._each(layer, rows, False)
        return [self._op(layer, "ELEMENTWISE", registers, [a, b], out, {"op": layer.op}, cycles)]

    def _each(self, layer: Layer, rows: tuple[int, int], table: bool) -> int:
        _, width, channels = layer.output.shape
        positions = (rows[1] - rows[0]) * width
        return cost.elementwise_cycles(self.machine, positions, channels, table)

    def _lut(self, layer: Lut, maps: Maps, rows: tuple[int, int]) -> list[Op]:
        source, out = maps[id(layer.source)], maps[id(layer.output)]
        registers = _input("ifm", source, rows[0]) | _output(layer.output, out, rows, None)
        # The table gives results as they are; nothing is subtracted, added or cut.
        registers |= {
            "ifm_zero": 0,
            "ofm_zero": 0,
            "lut": Place(self.constant(layer.table.tobytes())),
        }
        fields, cycles = {"op": "lut"}, self._each(layer, rows, True)
        return [self._op(layer, "ELEMENTWISE", registers, [source], out, fields, cycles)]

    def _softmax(self, layer: Softmax, maps: Maps, rows: tuple[int, int]) -> list[Op]:
        source, out = maps[id(layer.source)], maps[id(layer.output)]
        table = self.constant(np.asarray(layer.table, "<i4").tobytes())
        registers = _input("ifm", source, rows[0]) | _output(layer.output, out, rows, None)
        registers["lut"] = Place(table)
        positions = (rows[1] - rows[0]) * layer.output.shape[1]
        cycles = cost.softmax_cycles(self.machine, positions, layer.output.shape[2])
        return [self._op(layer, "SOFTMAX", registers, [source], out, {}, cycles)]

    def _norm(self, layer: Normalisation, maps: Maps, rows: tuple[int, int]) -> list[Op]:
        source, out = maps[id(layer.source)], maps[id(layer.output)]
        gain = self.constant(np.asarray(layer.gain, "<i2").tobytes())
        registers = _input("ifm", source, rows[0]) | _output(layer.output, out, rows, None)
        registers |= {
            "scale": Place(gain), "epsilon": layer.epsilon, "epsilon_shift": layer.epsilon_shift,
            "o_shift": layer.o_shift,
        }  # fmt: skip
        positions = (rows[1] - rows[0]) * layer.output.shape[1]
        cycles = cost.norm_cycles(positions, layer.output.shape[2], layer.mode == "layer")
        fields = {"mode": layer.mode}
        return [self._op(layer, "NORM", registers, [source], out, fields, cycles)]

    # --- COPY -----------------------------------------------------------------------------------
    def _moves(self, layer: Copy, maps: Maps, rows: tuple[int, int]) -> list[Op]:
        source, out = maps[id(layer.source)], maps[id(layer.output)]
        shape, src, dst = _copy_axes(layer, source, out)
        size = layer.output.element_bytes
        strides = list(zip(src, dst, strict=True))
        if strides[2] == (size, size):
            # Channels follow each other on both sides: their bytes are one axis.
            counts = [(*shape[:2], shape[2] * size)]
            strides[2] = (1, 1)
            offsets = [(0, 0)]
        elif size == 1:
            counts, offsets = [shape], [(0, 0)]
        else:
            # Two bytes make a fourth axis; one COPY for each index of the shortest.
            axis = int(np.argmin(shape))
            rest = [i for i in range(3) if i != axis]
            counts = [(shape[rest[0]], shape[rest[1]], size)] * shape[axis]
            offsets = [(i * src[axis], i * dst[axis]) for i in range(shape[axis])]
            strides = [strides[rest[0]], strides[rest[1]], (1, 1)]
        starts = [Place(m.place.target, m.place.byte, in_bytes=True) for m in (source, out)]
        return [
            self._copy(
                layer, count, *(Place(p.target, p.byte + o, True) for p, o in
                                zip(starts, offset, strict=True)),
                tuple(strides), source.buffers, out,
            )
            for count, offset in zip(counts, offsets, strict=True)
        ]  # fmt: skip

    def _copy(
        self, layer: Layer, count: tuple[int, int, int], src: Place, dst: Place,
        strides: tuple[tuple[int, int], ...], reads: list[Buffer], out: Map,
    ) -> Op:  # fmt: skip
        wide = strides[2] == (1, 1) and all(n % WORD_BYTES == 0 for n in (
            count[2], *strides[0], *strides[1], src.byte, dst.byte
        ))  # fmt: skip
        if wide:
            count = (*count[:2], count[2] // WORD_BYTES)
            strides = (*strides[:2], (WORD_BYTES, WORD_BYTES))
        registers: Registers = {"src": src, "dst": dst, "wide": int(wide)}
        for i, (n, (s, d)) in enumerate(zip(count, strides, strict=True)):
            # The stride of an axis of one element is never used.
            registers |= {f"n{i}": n} | ({f"src_s{i}": s, f"dst_s{i}": d} if n > 1 or wide else {})
        target = out.place.target
        assert isinstance(target, Buffer)
        cycles = cost.copy_cycles(int(np.prod(count)))
        return Op(layer.name, "COPY", {}, registers, reads, target, cycles=cycles)


_BY_KIND: dict[str, Callable[[Lowering, Layer, Maps, tuple[int, int]], list[Op]]] = {
    "conv2d": Lowering._weighted,
    "depthwise": Lowering._weighted,
    "matmul": Lowering._matmul,
    "pool": Lowering._pool,
    "elementwise": Lowering._elementwise,
    "lut": Lowering._lut,
    "softmax": Lowering._softmax,
    "norm": Lowering._norm,
    "copy": Lowering._moves,
}


def source_place(registers: Registers) -> Place:
    place = registers["ifm"]
    assert isinstance(place, Place)
    return place


def _input(name: str, source: Map, row: int) -> Registers:
    form = source.tensor.form
    return {
        name: source.row(row), f"{name}_sy": source.sy, f"{name}_sx": source.sx,
        f"{name}_zero": form.zero, f"{name}_bits": int(form.bits == 16),
    }  # fmt: skip


def _output(
    tensor: Tensor, out: Map, rows: tuple[int, int], clamp: tuple[int, int] | None
) -> Registers:
    low, high = clamp or (tensor.form.low, tensor.form.high)
    return {
        "ofm": out.row(rows[0]), "ofm_sy": out.sy, "ofm_sx": out.sx, "ofm_h": rows[1] - rows[0],
        "ofm_w": tensor.shape[1], "ofm_c": tensor.shape[2], "ofm_zero": tensor.form.zero,
        "ofm_bits": int(tensor.form.bits == 16), "ofm_min": low, "ofm_max": high,
    }  # fmt: skip


def input_rows(layer: Windowed, rows: tuple[int, int]) -> tuple[int, int]:
    """Rows [first, stop) of the input that rows of the output meet (at least one)."""
    height = layer.source.shape[0]
    first = rows[0] * layer.stride[0] - layer.pad[0]
    last = (rows[1] - 1) * layer.stride[0] - layer.pad[0]
    last += (layer.kernel[0] - 1) * layer.dilation[0]
    low = min(max(first, 0), height - 1)
    return low, max(min(last + 1, height), low + 1)


def _window(layer: Windowed, source: Map, rows: tuple[int, int]) -> Registers:
    """Input and window. Rows above those that are there count as padding only where they are."""
    first, stop = input_rows(layer, rows)
    _, width, channels = layer.source.shape
    above = first - (rows[0] * layer.stride[0] - layer.pad[0])
    return _input("ifm", source, first) | {
        "ifm_h": stop - first, "ifm_w": width, "ifm_c": channels,
        "kernel_h": layer.kernel[0], "kernel_w": layer.kernel[1],
        "stride_y": layer.stride[0], "stride_x": layer.stride[1],
        "pad_top": above, "pad_left": layer.pad[1],
        "dilation_y": layer.dilation[0], "dilation_x": layer.dilation[1],
    }  # fmt: skip


def _copy_axes(
    layer: Copy, source: Map, out: Map
) -> tuple[tuple[int, int, int], list[int], list[int]]:
    """Elements, source strides and target strides (bytes) of three axes."""
    size = layer.output.element_bytes
    src = [source.sy * WORD_BYTES, source.sx * WORD_BYTES, size]
    dst = [out.sy * WORD_BYTES, out.sx * WORD_BYTES, size]
    if not layer.reshapes:
        return layer.output.shape, [src[i] for i in layer.order], dst
    wide, narrow = layer.source.shape, layer.output.shape
    for m in (source, out):
        if m.tensor.shape[0] > 1 and m.sy != m.sx * m.tensor.shape[1]:
            raise layer.refuse(
                f"rows of {m.tensor.name!r} are padded for transfers; use one row, or a width that "
                f"takes whole beats"
            )
    if narrow[2] > wide[2]:
        ratio = narrow[2] // wide[2]
        counts = (out.tensor.positions, ratio, wide[2])
        return counts, [ratio * src[1], src[1], size], [dst[1], wide[2] * size, size]
    ratio = wide[2] // narrow[2]
    counts = (source.tensor.positions, ratio, narrow[2])
    return counts, [src[1], narrow[2] * size, size], [ratio * dst[1], dst[1], size]
