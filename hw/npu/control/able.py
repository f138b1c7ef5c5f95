"""Fault 2: operations that the machine or the operation itself cannot do.

Ref: docs/npu.md section 9; `bankside.isa.npu_commands.Command.check`, with the same conditions.
"""

from collections.abc import Iterable, Iterator
from functools import reduce
from operator import or_

from amaranth.hdl import Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.npu.control.layouts import SPEC
from bankside.hw.npu.control.registers import limited_layout
from bankside.hw.npu.operation import MAC_OPERATIONS, opcode, operation_layout
from bankside.isa.npu_commands import BYPASS, LUT, NORM_CHANNELS, OPERATIONS, Command
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.npu_weights import PACKED, W4
from bankside.isa.numerics_npu import SHIFT_MAX, SHIFT_MIN

__all__ = ["Able", "Kind"]

_ADDRESSES = ("src", "dst", *(f"{side}_s{i}" for side in ("src", "dst") for i in range(3)))


class Kind:
    """Bits that tell what an operation is; each is combinational.

    An attribute per opcode (lower case), and: mac; lut: ELEMENTWISE with a table; second: it has a
    second input; records: it reads scale records; table: it reads a table of bytes.
    """

    def __init__(self, operation) -> None:
        self.bits = {name: operation.opcode == opcode(name) for name in OPERATIONS}
        self.mac = any_of(self.bits[name] for name in MAC_OPERATIONS)
        self.lut = self.bits["ELEMENTWISE"] & (operation.mode == LUT)
        self.second = self.bits["MATMUL"] | (self.bits["ELEMENTWISE"] & ~self.lut)
        self.records = self.mac & ~self.bits["POOL"] & (operation.scale_mode != BYPASS)
        self.table = self.lut | (self.mac & operation.lut_enable)

    def __getattr__(self, name: str) -> Value:
        try:
            return self.__dict__["bits"][name.upper()]
        except KeyError:
            raise AttributeError(name) from None


def any_of(conditions: Iterable[Value]) -> Value:
    """1 if any of them is."""
    return reduce(or_, conditions, Const(0))


class Able(wiring.Component):
    """Combinational.

    Members
    -------
    operation : In(operation_layout)
    beyond : In(limited_layout)
        Registers with values outside their limits.
    refused : Out(1)
    """

    def __init__(self, machine: NpuMachine) -> None:
        self._machine = machine
        super().__init__(
            {
                "operation": In(operation_layout(machine)),
                "beyond": In(limited_layout(machine)),
                "refused": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        kind, limits, combination = Kind(self.operation), Signal(), Signal()
        m.d.comb += [
            limits.eq(any_of(self._limits(kind))),
            combination.eq(any_of((*self._unable(kind), *self._zero_points(kind)))),
            self.refused.eq(limits | combination),
        ]
        return m

    def _limits(self, kind: Kind) -> Iterator[Value]:
        """Registers that the operation uses, by the table of the checks."""
        for name in OPERATIONS:
            modes = range(4) if name == "ELEMENTWISE" else (0,)
            for mode in modes:
                chosen = kind.bits[name]
                if len(modes) > 1:
                    chosen = chosen & (self.operation.mode == mode)
                plain = set(self._used(name, mode, BYPASS, 0))
                scaled = set(self._used(name, mode, 0, 0)) - plain
                looked_up = set(self._used(name, mode, BYPASS, 1)) - plain
                yield chosen & self._any_beyond(plain)
                yield chosen & kind.records & self._any_beyond(scaled)
                yield chosen & kind.table & self._any_beyond(looked_up)

    def _used(self, name: str, mode: int, scale_mode: int, lut_enable: int) -> tuple[str, ...]:
        registers = dict.fromkeys(SPEC.enums["register"], 0)
        registers |= {"scale_mode": scale_mode, "lut_enable": lut_enable}
        return Command(self._machine, 0, name, {"op": mode}, registers).used()

    def _any_beyond(self, names: set[str]) -> Value:
        limited = self.beyond.shape().members
        return any_of(self.beyond[name] for name in sorted(names) if name in limited)

    def _unable(self, kind: Kind) -> Iterator[Value]:
        op = self.operation
        narrow = kind.mac | kind.softmax | kind.lut
        weighted = kind.conv | kind.depthwise
        yield kind.mac & op.lut_enable & op.ofm_bits
        if self._machine.wide:
            yield weighted & (op.weight_format == PACKED)
            yield kind.depthwise & (op.weight_format == W4)
        else:
            yield kind.matmul | (kind.mac & op.weight_mode)
            yield weighted & (op.weight_format != PACKED)
        yield (kind.depthwise | kind.pool) & (op.ifm_c != op.ofm_c)
        yield narrow & op.ifm_bits
        yield (kind.pool | kind.softmax | kind.lut) & op.ofm_bits
        yield kind.matmul & op.ifm2_bits
        shift = (op.o_shift < SHIFT_MIN) | (op.o_shift > SHIFT_MAX)
        yield kind.elementwise & ~kind.lut & shift
        yield kind.norm & (op.ofm_c > NORM_CHANNELS)
        low = (WORD_BYTES - 1).bit_length()
        yield kind.copy & op.wide & any_of(op[name][:low].any() for name in _ADDRESSES)

    def _zero_points(self, kind: Kind) -> Iterator[Value]:
        """Beyond int8; those of int16 are within the limits of the register."""
        for name, used in (("ifm", ~kind.copy), ("ifm2", kind.second)):
            zero = self.operation[f"{name}_zero"]
            beyond = zero[7:].any() & ~zero[7:].all()
            yield used & ~self.operation[f"{name}_bits"] & beyond
