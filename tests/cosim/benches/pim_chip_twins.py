"""Known-bad twins of the chip: one component whose input `fault` chooses what is wrong with it."""

from collections.abc import Callable

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from bankside.hw.pim.chip import Chip
from bankside.hw.pim.layouts import command_codes
from bankside.isa.machine import Machine

Fault = Callable[[Module, Chip, "Twin"], None]


def _field(name: str, change: Callable[[Value], Value], only: str | None = None) -> Fault:
    """One operand of the command is changed (of the command `only`)."""

    def apply(m: Module, chip: Chip, twin: "Twin") -> None:
        code = command_codes(twin.machine)[only] if only else None
        with m.If(twin.command.code == code if only else 1):
            m.d.comb += chip.command[name].eq(change(twin.command[name]))

    return apply


def _late(port: str) -> Fault:
    """A port is one cycle late."""

    def apply(m: Module, chip: Chip, twin: "Twin") -> None:
        driver, target = (chip, twin) if port.startswith("r") else (twin, chip)
        held = Signal.like(Value.cast(getattr(driver, port)), name=f"late_{port}")
        m.d.sync += held.eq(getattr(driver, port))
        m.d.comb += Value.cast(getattr(target, port)).eq(held)

    return apply


def _flip(m: Module, chip: Chip, twin: "Twin") -> None:
    """One bit of the data, where three other bits have one of their eight values."""
    m.d.comb += twin.rdata[0].eq(chip.rdata[0] ^ (chip.rdata[13:16] == 5))


def _lost(name: str) -> Fault:
    """One command is not seen."""

    def apply(m: Module, chip: Chip, twin: "Twin") -> None:
        with m.If(twin.command.code == command_codes(twin.machine)[name]):
            m.d.comb += chip.valid.eq(0)

    return apply


def _ghost(m: Module, chip: Chip, twin: "Twin") -> None:
    """A precharge counts as a MAC."""
    codes = command_codes(twin.machine)
    with m.If(twin.command.code == codes["PREA"]):
        m.d.comb += chip.command.code.eq(codes["MAC"])


#: name -> fault; number i of `fault` (from 1) applies the i-th
FAULTS: dict[str, Fault] = {
    "bit_of_result": _flip,
    "late_burst": _late("rdata"),
    "late_valid": _late("rvalid"),
    "late_write": _late("wdata"),
    "lane": _field("lane", lambda v: v ^ 1, "RDRB"),
    "half": _field("half", lambda v: 0, "RDRB"),
    "never_rescaled": _field("rescale", lambda v: 0),
    "other_scale": _field("kbuf", lambda v: ~v, "WRSB"),
    "always_tree": _field("mode", lambda v: 0),
    "columns_per_token": _field("cpt", lambda v: v + 1),
    "row": _field("row", lambda v: 0),
    "load_column": _field("col", lambda v: v ^ 1, "LDSB"),
    "header_is_data": _field("header", lambda v: 0),
    "shared_word": _field("sb", lambda v: v ^ 1, "WRSB"),
    "result_word": _field("rb", lambda v: v | 1, "WRR"),
    "lost_load": _lost("LDSB"),
    "lost_group_activate": _lost("ACT4"),
    "lost_read": _lost("RDA"),
    "ghost_mac": _ghost,
}


class Twin(wiring.Component):
    """A chip with the fault number `fault` (0: a faithful copy)."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.chip = Chip(machine)
        members = dict(self.chip.signature.members)
        super().__init__({**members, "fault": In(range(len(FAULTS) + 1))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.chip = chip = self.chip
        m.d.comb += [
            chip.valid.eq(self.valid),
            chip.command.eq(self.command),
            chip.wdata.eq(self.wdata),
            self.rvalid.eq(chip.rvalid),
            self.rdata.eq(chip.rdata),
        ]
        with m.Switch(self.fault):
            for number, fault in enumerate(FAULTS.values(), 1):
                with m.Case(number):
                    fault(m, chip, self)
        return m
