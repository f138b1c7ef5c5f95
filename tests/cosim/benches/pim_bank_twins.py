"""Known-bad twins of the bank: one component whose input `fault` chooses what is wrong with it."""

from collections.abc import Callable

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from bankside.hw.lib.unit import flat_ports
from bankside.hw.pim.bank import Bank
from bankside.isa.machine import Machine

#: name -> (port, the wrong value from the bank with right ports and the right value)
BANK_FAULTS: dict[str, tuple[str, Callable[[dict[str, Value], Value], Value]]] = {
    "never_starts": ("step", lambda p, v: v & ~2),
    "always_tree": ("step", lambda p, v: v & ~1),
    "small_scale_only": ("k", lambda p, v: v & 0x7F7F),
    "no_scale": ("k", lambda p, v: Mux(v[:8] == 255, v, 0)),
    "multiplies_always": ("multiply", lambda p, v: ~p["add"]),
    "adds_twice": ("add", lambda p, v: v | p["multiply"]),
    "operand_of_the_other_mode": ("acc_operand", lambda p, v: ~v),
    "probability_sign": ("probability", lambda p, v: v & 0x7FFF7FFF),
    "one_row": ("row", lambda p, v: v & 0),
    "write_through_read": ("write_column", lambda p, v: v ^ (v == 9)),
    "reads_always": ("read", lambda p, v: v | (p["column"] == 0)),
    "one_half": ("source", lambda p, v: v & ~(1 << len(v) - 1)),
    "bit": ("rdata", lambda p, v: v ^ (v[13:16] == 5)),
}


class BankTwin(wiring.Component):
    """A bank with the fault number `fault` (0: a faithful copy)."""

    def __init__(self, machine: Machine) -> None:
        self.bank = Bank(machine)
        members = dict(self.bank.signature.members)
        super().__init__({**members, "fault": In(range(len(BANK_FAULTS) + 1))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.bank = self.bank
        mine = {name: value for name, (value, _) in flat_ports(self).items()}
        right = {}
        for name, (inner, direction) in flat_ports(self.bank).items():
            source, target = (mine[name], inner) if direction == "i" else (inner, mine[name])
            right[name] = source
            m.d.comb += target.eq(source)
            for number, (port, wrong) in enumerate(BANK_FAULTS.values(), 1):
                if port == name:
                    value = Signal(len(source), name=f"wrong{number}")
                    m.d.comb += value.eq(wrong({**mine, **right}, source))
                    with m.If(self.fault == number):
                        m.d.comb += target.eq(value)
        return m
