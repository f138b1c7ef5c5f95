"""The `array` machine: host registers, control, load and store engines, datapath.

Ref: docs/array.md.
"""

from amaranth.hdl import Module, ResetInserter, ResetSignal, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.array.control.control import Control
from bankside.hw.array.control.sequencer import trace_layout as passes_layout
from bankside.hw.array.datapath import Datapath
from bankside.hw.array.host import HostRegisters
from bankside.hw.array.load import LoadEngine
from bankside.hw.array.store import StoreEngine
from bankside.hw.axi.signatures import connect_prefixed, prefixed
from bankside.hw.lib.unit import Unit
from bankside.isa.array_machine import ArrayMachine

_PROGRAM = ("program_en", "program_address", "program_data", "start")
_STATE = ("running", "error", "pc", "cycle", "counts")
_ENGINE = data.StructLayout(dict.fromkeys(("begin", "last", "complete"), 1))


def trace_layout() -> data.StructLayout:
    """What happens in this cycle: a program runs; passes and RUNs (see the sequencer); first
    address, last address (LOAD) or beat (STORE) and completion of a command.
    """
    return data.StructLayout(
        {"running": 1, "compute": passes_layout(), "load": _ENGINE, "store": _ENGINE}
    )


class ArrayCore(wiring.Component):
    """All but the host registers.

    Members
    -------
    program_en, program_address, program_data, start, running, error, pc, cycle, counts :
        As in `Control`.
    ended : Out
        Pulses in the last cycle of a program without error.
    stop : In
        No further burst begins.
    quiet : Out
        No burst is under way and no address is offered.
    bus_error : Out
        The memory answered with an error (sticky); the program stops with an error.
    read, write : Out
        Main memory.
    trace : Out
        See `trace_layout`.
    """

    def __init__(self, machine: ArrayMachine) -> None:
        self._control, self._datapath = Control(machine), Datapath(machine)
        self._load, self._store = LoadEngine(machine), StoreEngine(machine)
        control = self._control.signature.members
        super().__init__(
            {
                **{name: control[name] for name in (*_PROGRAM, *_STATE)},
                "ended": Out(1),
                "stop": In(1),
                "quiet": Out(1),
                "bus_error": Out(1),
                "read": self._load.signature.members["axi"],
                "write": self._store.signature.members["axi"],
                "trace": Out(trace_layout()),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.control = control = self._control
        m.submodules.datapath = self._datapath
        m.submodules.load = load = self._load
        m.submodules.store = store = self._store
        wiring.connect(m, control.load, load.commands)
        wiring.connect(m, control.store, store.commands)
        wiring.connect(m, load.tokens, control.load_tokens)
        wiring.connect(m, store.tokens, control.store_tokens)
        wiring.connect(m, load.axi, wiring.flipped(self.read))
        wiring.connect(m, store.axi, wiring.flipped(self.write))
        m.d.comb += [
            *(getattr(control, name).eq(getattr(self, name)) for name in _PROGRAM),
            *(getattr(self, name).eq(getattr(control, name)) for name in _STATE),
            self.ended.eq(control.done),
            control.fault.eq(self.bus_error),
            control.load_idle.eq(~load.busy),
            control.store_idle.eq(~store.busy),
        ]
        self._stop(m, control, load, store)
        self._banks(m, load, store)
        self._trace(m, control, load, store)
        return m

    def _stop(self, m: Module, control: Control, load: LoadEngine, store: StoreEngine) -> None:
        stop = self.stop | control.error | self.bus_error
        moving = load.busy | load.axi.arvalid | store.busy | store.axi.awvalid
        m.d.comb += [load.stop.eq(stop), store.stop.eq(stop), self.quiet.eq(~moving)]
        with m.If(load.bus_error | store.bus_error):
            m.d.sync += self.bus_error.eq(1)

    def _banks(self, m: Module, load: LoadEngine, store: StoreEngine) -> None:
        datapath = self._datapath
        m.d.comb += [
            datapath.word.eq(self._control.word),
            datapath.mode.eq(self._control.mode),
        ]
        for port, en in (
            (datapath.row_write, load.row_en),
            (datapath.column_write, load.column_en),
        ):
            m.d.comb += [
                port.en.eq(en),
                port.bank.eq(load.bank),
                port.address.eq(load.address),
                port.data.eq(load.data),
            ]
        m.d.comb += [
            datapath.column_read.en.eq(store.en),
            datapath.column_read.bank.eq(store.bank),
            datapath.column_read.address.eq(store.address),
            store.data.eq(datapath.column_data),
        ]

    def _trace(self, m: Module, control: Control, load: LoadEngine, store: StoreEngine) -> None:
        m.d.comb += [
            self.trace.running.eq(control.running),
            self.trace.compute.eq(control.trace),
        ]
        for engine, part in (("load", load), ("store", store)):
            for name, _ in _ENGINE:
                m.d.comb += self.trace[engine][name].eq(getattr(part, name))


class ArrayTop(wiring.Component):
    """The machine with the ports of an IP block: AXI4-Lite slave `s_axil_*` (register map: section
    6), AXI4 manager `m_axi_*` (main memory), `events` (see `trace_layout`).

    The core's reset is a register: with it a simulator evaluates the logic in front of the core's
    registers once per cycle, and CLEAR resets the core once the memory is quiet.
    """

    def __init__(self, machine: ArrayMachine) -> None:
        self._core, self._host = ArrayCore(machine), HostRegisters(machine)
        core = self._core.signature.members
        super().__init__(
            {
                **prefixed("s_axil_", self._host.signature.members["axi"].signature),
                **prefixed("m_axi_", core["read"].signature),
                **prefixed("m_axi_", core["write"].signature),
                # Verilator's models have a function `trace`.
                "events": core["trace"],
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        reset = Signal(reset_less=True, init=1)
        m.submodules.host = host = self._host
        core = Unit(self._core, "bankside_array_core", reset=reset)
        # The reset of a unit acts in exports only, an inserted one in Amaranth's simulator only.
        m.submodules.core = ResetInserter(reset)(core)
        connect_prefixed(m, self, "m_axi_", core.read)
        connect_prefixed(m, self, "m_axi_", core.write)
        connect_prefixed(m, self, "s_axil_", host.axi)
        m.d.sync += reset.eq(ResetSignal("sync") | (host.clear & core.quiet & ~reset))
        m.d.comb += [
            *(getattr(core, name).eq(getattr(host, name)) for name in _PROGRAM),
            *(getattr(host, name).eq(getattr(core, name)) for name in (*_STATE, "ended")),
            host.bus_error.eq(core.bus_error),
            host.cleared.eq(host.clear & reset),
            core.stop.eq(host.clear),
            self.events.eq(core.trace),
        ]
        return m
