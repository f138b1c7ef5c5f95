"""Faults 6 and 7 of operations: ranges in the buffers.

Ref: docs/npu.md section 9; `bankside.isa.npu_commands.Command`, with the same conditions.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from bankside.hw.npu.control.able import Kind, any_of
from bankside.hw.npu.operation import operation_layout
from bankside.isa.npu_commands import CHANNEL
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.npu_weights import RAW8, STEP_CHANNELS, W4, WeightLayout
from bankside.isa.numerics_npu import EXP_ENTRIES, LUT_BYTES, RECORD_BYTES

__all__ = ["Ranges"]

_WORD_SHIFT = exact_log2(WORD_BYTES)
_RECORDS = WORD_BYTES // RECORD_BYTES
_SIDES = ("ifm", "ifm2", "ofm")


def _up(value: Value, unit: int) -> Value:
    """`value` divided by `unit`, a power of two, rounded up."""
    return (value + (unit - 1))[exact_log2(unit) :]


class Ranges(wiring.Component):
    """Combinational, for an operation that nothing else refuses.

    Bytes of the shared buffer, [first, stop), as signed numbers wide enough for whatever the
    registers hold. The six products of a COPY come from the multipliers of the feature maps.

    Members
    -------
    operation : In(operation_layout)
    overlap : Out(1)
        What it writes meets something that it reads.
    outside : Out(1)
        Something is not inside its buffer.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self._machine = machine
        byte_bits = bits_for(machine.shared_words - 1) + _WORD_SHIFT
        # The sum of three products of a count (16 bits) and a signed stride (one bit more than an
        # address), an address, a size; of words: 2^33 of them.
        width = max(16 + byte_bits + 1, 33 + _WORD_SHIFT) + 3
        self._range = data.StructLayout({"used": 1, "first": signed(width), "stop": signed(width)})
        super().__init__(
            {
                "operation": In(operation_layout(machine)),
                "overlap": Out(1),
                "outside": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        kind = Kind(self.operation)
        ranges = self._maps(m, kind, self._products(m, kind))
        ranges |= self._tables(m, kind)
        written = ranges.pop("ofm")
        size = self._machine.shared_words * WORD_BYTES
        beyond = [r.used & ((r.first < 0) | (r.stop > size)) for r in (written, *ranges.values())]
        if self._machine.wide:
            beyond.append(self._weights(m, kind))
        m.d.comb += [
            self.overlap.eq(
                any_of(
                    r.used & (written.first < r.stop) & (r.first < written.stop)
                    for r in ranges.values()
                )
            ),
            self.outside.eq(any_of(beyond)),
        ]
        return m

    def _shape(self, kind: Kind) -> dict[str, tuple[Value, Value, Value]]:
        """Rows, columns and channels of the feature maps."""
        op = self.operation
        windowed = kind.conv | kind.depthwise | kind.pool
        own = Mux(windowed | kind.matmul, op.ifm_c, op.ofm_c)
        full = (op.ofm_h, op.ofm_w, op.ofm_c)
        once = [Mux(op.ifm2_broadcast[i], 1, size) for i, size in enumerate(full)]
        matrix = (1, op.ofm_c, op.ifm_c)
        return {
            "ifm": (Mux(windowed, op.ifm_h, op.ofm_h), Mux(windowed, op.ifm_w, op.ofm_w), own),
            "ifm2": tuple(
                Mux(kind.matmul, a, b) for a, b in zip(matrix, once, strict=True)
            ),
            "ofm": full,
        }  # fmt: skip

    def _products(self, m: Module, kind: Kind) -> dict[str, list[Signal]]:
        """(rows - 1) * row step and (columns - 1) * column step of each map; together the three of
        `src`, then the three of `dst`, for COPY.
        """
        op, shapes, found = self.operation, self._shape(kind), {}
        copied = [(i, f"{side}_s{i}") for side in ("src", "dst") for i in range(3)]
        for index, (side, axis) in enumerate((s, a) for s in _SIDES for a in (0, 1)):
            i, stride = copied[index]
            count, step = shapes[side][axis], op[f"{side}_s{'yx'[axis]}"]
            times, by = Signal(16), Signal(signed(len(op[stride]) + 1))
            m.d.comb += [
                times.eq(Mux(kind.copy, op[f"n{i}"], count) - 1),
                by.eq(Mux(kind.copy, op[stride], step)),
            ]
            product = Signal(signed(16 + len(by)), name=f"product{index}")
            m.d.comb += product.eq(times * by)
            found.setdefault(side, []).append(product)
        return found

    def _maps(
        self, m: Module, kind: Kind, products: dict[str, list[Signal]]
    ) -> dict[str, data.View]:
        """Ranges of the feature maps; src is `ifm`, dst is `ofm`."""
        op, shapes, ranges = self.operation, self._shape(kind), {}
        used = {"ifm": Const(1), "ifm2": kind.second, "ofm": Const(1)}
        for side in _SIDES:
            bits = op[f"{side}_bits"]
            channels = shapes[side][2]
            words = Mux(bits, _up(channels, WORD_BYTES // 2), _up(channels, WORD_BYTES))
            last = op[side] + products[side][0] + products[side][1]
            ranges[side] = self._range_of(m, side, used[side], op[side], last + words)
        flat = [product for side in _SIDES for product in products[side]]
        size = Mux(op.wide, WORD_BYTES, 1)
        for side, name, own in (("ifm", "src", flat[:3]), ("ofm", "dst", flat[3:])):
            low = sum(Mux(product < 0, product, 0) for product in own)
            high = sum(Mux(product < 0, 0, product) for product in own)
            with m.If(kind.copy):
                m.d.comb += [
                    ranges[side].first.eq(op[name] + low),
                    ranges[side].stop.eq(op[name] + high + size),
                ]
        return ranges

    def _tables(self, m: Module, kind: Kind) -> dict[str, data.View]:
        op = self.operation
        count = Mux(op.scale_mode == CHANNEL, op.ofm_c, 1)
        gains = _up(op.ofm_c, WORD_BYTES // 2)
        scale = op.scale + Mux(kind.norm, gains, _up(count, _RECORDS))
        entries = Mux(kind.softmax, 4 * EXP_ENTRIES // WORD_BYTES, LUT_BYTES // WORD_BYTES)
        return {
            "scale": self._range_of(m, "scale", kind.records | kind.norm, op.scale, scale),
            "lut": self._range_of(m, "lut", kind.table | kind.softmax, op.lut, op.lut + entries),
        }

    def _range_of(
        self, m: Module, name: str, used: Value, first: Value, stop: Value
    ) -> data.View:
        """A range given in words."""
        found, words = Signal(self._range, name=f"range_{name}"), Signal(33, name=f"stop_{name}")
        m.d.comb += [
            words.eq(stop),
            found.used.eq(used),
            found.first.eq(Cat(Const(0, _WORD_SHIFT), first)),
            found.stop.eq(Cat(Const(0, _WORD_SHIFT), words)),
        ]
        return found

    def _weights(self, m: Module, kind: Kind) -> Value:
        """Tiles of one size (raw8, w4) that leave the weight buffer."""
        machine, op = self._machine, self.operation
        taps, steps = Signal(16), Signal(16 + 12)
        groups = Mux(op.weight_mode, _up(op.ofm_c, machine.lanes), _up(op.ofm_c, machine.channels))
        blocks = Mux(kind.depthwise, 1, _up(op.ifm_c, STEP_CHANNELS))
        size, sizes = Signal(range(self._tile_words(RAW8, machine.lanes, False) + 1)), []
        for row in (0, 1):
            group = machine.group(bool(row))
            plain, narrow, alone = (
                self._tile_words(*tile)
                for tile in ((RAW8, group, False), (W4, group, False), (RAW8, group, True))
            )
            fixed = Mux(op.weight_format == W4, narrow, plain)
            sizes.append(Mux(kind.depthwise, alone, fixed))
        tiles = Signal(unsigned(16 + len(steps)))
        m.d.comb += [
            taps.eq(op.kernel_h * op.kernel_w),
            steps.eq(taps * blocks),
            tiles.eq(groups * steps),
            size.eq(Mux(op.weight_mode, sizes[1], sizes[0])),
        ]
        stop = Signal(64)
        m.d.comb += stop.eq(op.weights + tiles * size)
        return (kind.conv | kind.depthwise) & (stop > machine.weight_words)

    def _tile_words(self, weight_format: int, group: int, depthwise: bool) -> int:
        inputs = None if depthwise else STEP_CHANNELS
        port = self._machine.weight_port_bytes
        return WeightLayout(weight_format, group, port, group, (1, 1), inputs).fixed_words
