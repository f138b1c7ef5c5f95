"""Known-bad twins of the rank unit: each is wrong in one way that a scenario must notice."""

from collections.abc import Callable

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring

from bankside.hw.lib.unit import flat_ports
from bankside.hw.pim.rank_unit.unit import RankUnit
from bankside.isa.machine import Machine

Change = Callable[[Module, RankUnit, Value], Value]


def _delayed(m: Module, unit: RankUnit, value: Value) -> Value:
    late = Signal(len(value))
    m.d.sync += late.eq(value)
    return late


def _field(port: str, name: str, change: Callable[[Value], Value], scenario: str):
    """Twin that changes one field of a packed port."""

    def apply(m: Module, unit: RankUnit, value: Value) -> Value:
        layout = getattr(unit, port).shape()
        copy = Signal(layout)
        m.d.comb += [copy.eq(value), copy[name].eq(change(layout(value)[name]))]
        return copy.as_value()

    return port, apply, scenario


#: name -> (port, what happens to its value, the scenario that must notice)
TWINS: dict[str, tuple[str, Change, str]] = {
    "probability_bit": ("prob_data", lambda m, u, v: v ^ 1, "attention"),
    "scale_of_another_chip": ("prob_data", lambda m, u, v: v.rotate_left(len(v) // 2), "attention"),
    "sum_lost": ("read_valid", lambda m, u, v: v & ~u.read_info.context, "attention"),
    "score_lost": ("read_valid", lambda m, u, v: v & (u.read_info.bank != 2), "attention"),
    "lane_of_maximum": _field("read_info", "lane", lambda v: v ^ 1, "attention"),
    "maximum_never_cleared": _field("read_info", "first_of_lane", lambda v: 0, "attention"),
    "accumulator_never_cleared": _field("read_info", "first_bank", lambda v: 0, "attention"),
    "token_too_many": _field("read_info", "valid", lambda v: v + 1, "attention"),
    "token_too_few": _field("rank_command", "valid", lambda v: v - 1, "attention"),
    "never_first": _field("rank_command", "first", lambda v: 0, "attention"),
    "always_first": _field("rank_command", "first", lambda v: 1, "attention"),
    "late_done": ("rank_done", _delayed, "attention"),
    "long_busy": ("rank_busy", lambda m, u, v: v | _delayed(m, u, v), "attention"),
    "staging_rotated": ("stage_data", lambda m, u, v: v.rotate_left(16), "relayout"),
    "staging_late": ("stage_data", _delayed, "relayout"),
    "wrong_address": ("read_out_address", lambda m, u, v: v ^ 1, "relayout"),
    "wrong_nhc": _field("geometry", "nhc_log2", lambda v: v ^ 1, "relayout"),
    "eager_host_in": ("host_in__ready", lambda m, u, v: u.host_busy, "relayout"),
    "early_host_out": ("host_out__valid", lambda m, u, v: u.host_busy, "relayout"),
    "late_host_done": ("host_done", _delayed, "relayout"),
    "payload": ("host_out__payload", lambda m, u, v: Mux(v[5], v ^ 4, v), "relayout"),
}


class Twin(wiring.Component):
    """The rank unit with the fault `name` in one port (none: a faithful copy)."""

    def __init__(self, machine: Machine, name: str | None = None) -> None:
        self.unit = RankUnit(machine)
        self.fault = name
        super().__init__(self.unit.signature)

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.unit = self.unit
        port, change, _ = TWINS[self.fault] if self.fault else (None, None, None)
        for name, (mine, direction) in flat_ports(self).items():
            inner = flat_ports(self.unit)[name][0]
            source, target = (mine, inner) if direction == "i" else (inner, mine)
            m.d.comb += target.eq(change(m, self, source) if name == port else source)
        return m
