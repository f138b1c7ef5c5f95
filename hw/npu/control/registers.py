"""State registers. Ref: isa/npu.yaml; docs/npu.md sections 4 and 9."""

from amaranth.hdl import Module, Shape, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.npu.control.layouts import SPEC
from bankside.hw.npu.operation import register_shapes
from bankside.isa.npu_commands import register_limits
from bankside.isa.npu_machine import NpuMachine

__all__ = ["StateRegisters", "limited_layout", "state_layout"]

NUMBERS = SPEC.enums["register"]
_SET = SPEC.commands["SET"].field_map


def state_layout(machine: NpuMachine) -> data.StructLayout:
    """Every state register by its name: as wide as in an operation; those of transfers 32 bits."""
    shapes = register_shapes(machine)
    whole = unsigned(_SET["value"].width)
    return data.StructLayout({name: shapes.get(name, whole) for name in NUMBERS})


def limited_layout(machine: NpuMachine) -> data.StructLayout:
    """One bit for every register whose value some operation could refuse."""
    limits = register_limits(machine)
    return data.StructLayout({name: 1 for name in NUMBERS if name in limits})


class StateRegisters(wiring.Component):
    """Sticky registers, and which of them hold a value that operations which use them refuse.

    Members
    -------
    clear : In(1)
        All registers become 0.
    en, index, value : In
        SET of register number `index`.
    state : Out(state_layout)
        Low bits of the registers.
    beyond : Out(limited_layout)
        The whole value is outside the limits (fault 2). Found when a register is set, so that a
        dispatch need not compare.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self._limits = register_limits(machine)
        super().__init__(
            {
                "clear": In(1),
                "en": In(1),
                "index": In(_SET["reg"].width),
                "value": In(_SET["value"].width),
                "state": Out(state_layout(machine)),
                "beyond": Out(limited_layout(machine)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        for name, number in NUMBERS.items():
            with m.If(self.en & (self.index == number)):
                m.d.sync += self.state[name].eq(self.value)
            with m.If(self.clear):
                m.d.sync += self.state[name].eq(0)
        for name in self.beyond.shape().members:
            held = Signal(init=_beyond(self._limits[name], 0), name=f"beyond_{name}")
            shape = Shape.cast(self.state.shape()[name].shape)
            value = self.value.as_signed() if shape.signed else self.value
            m.d.comb += self.beyond[name].eq(held)
            with m.If(self.en & (self.index == NUMBERS[name])):
                m.d.sync += held.eq(_beyond(self._limits[name], value))
            with m.If(self.clear):
                m.d.sync += held.eq(held.init)
        return m


def _beyond(limits: tuple[int, int], value: Value | int) -> Value | bool:
    return (value < limits[0]) | (value > limits[1])
