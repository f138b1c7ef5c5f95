"""The `npu` machine: host registers, control, DMA engine, buffers, kernel engines.

Ref: docs/npu.md.
"""

from amaranth.hdl import Module, Mux, ResetInserter, ResetSignal, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from bankside.hw.axi.signatures import connect_prefixed, prefixed
from bankside.hw.lib.unit import Unit
from bankside.hw.npu.buffers import READS, Clash, SharedBuffer, WeightBuffer
from bankside.hw.npu.control.control import Control
from bankside.hw.npu.control.layouts import control_members
from bankside.hw.npu.dma.engine import DmaEngine
from bankside.hw.npu.mac.engine import MacEngine
from bankside.hw.npu.registers import HostRegisters
from bankside.hw.npu.vector.engine import VectorEngine
from bankside.isa.npu_machine import NpuMachine

__all__ = ["NpuCore", "NpuTop", "trace_layout"]

_HOST = ("start", "qbase", "qsize", "regions")
_STATE = (
    *("running", "done", "halted", "fault", "position", "interrupt", "interrupt_code"),
    *("cycle", "counts"),
)
_DMA = ("begin", "last", "complete")
_KERNEL = ("started", "steps_done", "complete")


def trace_layout() -> data.StructLayout:
    """What happens in this cycle: a stream is executed; first address, last address (read) or beat
    (write), last beat or response of a transfer; start, last cycle of work, last cycle before the
    completion of an operation; opcode of the one that starts.
    """
    return data.StructLayout(
        {
            "running": 1,
            "dma": data.StructLayout(dict.fromkeys(_DMA, 1)),
            "kernel": data.StructLayout({**dict.fromkeys(_KERNEL, 1), "opcode": 8}),
        }
    )


class NpuCore(wiring.Component):
    """All but the host registers.

    Members
    -------
    start, qbase, qsize, regions, running, done, halted, fault, position, interrupt, interrupt_code,
    cycle, counts :
        As in `layouts.control_members`.
    quiet : Out(1)
        No burst of either port is under way or offered.
    read, write : Out
        Port m0.
    fetch : Out
        Port m1.
    trace : Out
        See `trace_layout`.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        self._control, self._dma = Control(machine), DmaEngine(machine)
        self._mac, self._vector = MacEngine(machine), VectorEngine(machine)
        control, dma = control_members(machine), self._dma.signature.members
        super().__init__(
            {
                **{name: control[name] for name in (*_HOST, *_STATE)},
                "quiet": Out(1),
                "read": dma["read"],
                "write": dma["write"],
                "fetch": control["axi"],
                "trace": Out(trace_layout()),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.control = control = self._control
        m.submodules.dma = dma = self._dma
        m.submodules.mac = self._mac
        m.submodules.vector = self._vector
        m.submodules.shared = shared = SharedBuffer(self.machine)
        m.submodules.weights = weights = WeightBuffer(self.machine)
        wiring.connect(m, control.dma, dma.transfers)
        wiring.connect(m, dma.read, wiring.flipped(self.read))
        wiring.connect(m, dma.write, wiring.flipped(self.write))
        wiring.connect(m, control.axi, wiring.flipped(self.fetch))
        wiring.connect(m, self._mac.weights, weights.read)
        m.d.comb += [
            *(getattr(control, name).eq(getattr(self, name)) for name in _HOST),
            *(getattr(self, name).eq(getattr(control, name)) for name in _STATE),
            self.quiet.eq(control.quiet & dma.quiet),
            dma.halted.eq(control.halted),
            control.dma_complete.eq(dma.complete),
            control.bus_error.eq(dma.bus_error),
            control.transfer_position.eq(dma.position),
        ]
        self._buffers(m, shared, weights)
        self._kernel(m)
        self._clash(m, shared)
        self._trace(m)
        return m

    def _buffers(self, m: Module, shared: SharedBuffer, weights: WeightBuffer) -> None:
        """What is not executing does not read or write: its ports may be joined."""
        dma, mac, vector = self._dma, self._mac, self._vector
        m.d.comb += [
            *(buffer.beat.eq(dma.beat) for buffer in (shared, weights)),
            *(buffer.data.eq(dma.data) for buffer in (shared, weights)),
            shared.write.eq(dma.to_shared),
            weights.write.eq(dma.to_weights),
            shared.fetch.eq(dma.fetch),
            dma.fetched.eq(shared.fetched),
        ]
        for name in READS:
            port, first, second = (getattr(part, name) for part in (shared, mac, vector))
            m.d.comb += [
                port.en.eq(first.en | second.en),
                port.address.eq(Mux(second.en, second.address, first.address)),
                first.data.eq(port.data),
                second.data.eq(port.data),
            ]
        port, first, second = (part.write0 for part in (shared, mac, vector))
        m.d.comb += port.en.eq((first.en | second.en) & ~self._control.halted)
        for field in ("address", "data", "mask"):
            m.d.comb += getattr(port, field).eq(
                Mux(second.en, getattr(second, field), getattr(first, field))
            )

    def _kernel(self, m: Module) -> None:
        control, mac, vector = self._control, self._mac, self._vector
        wiring.connect(m, control.mac, mac.operation)
        wiring.connect(m, control.vector, vector.operation)
        m.d.comb += [
            control.mac_idle.eq(mac.idle),
            control.mac_complete.eq(mac.complete),
            control.vector_idle.eq(vector.idle),
            control.vector_complete.eq(vector.complete),
            control.kind.eq(vector.kind),
        ]
        for name in ("illegal_weights", "in_step", "lacks_weights", "lacks_output"):
            m.d.comb += getattr(control, name).eq(getattr(mac, name))

    def _clash(self, m: Module, shared: SharedBuffer) -> None:
        m.submodules.clash = clash = Clash(self.machine)
        ports = [*(getattr(shared, name) for name in READS), shared.write0]
        for i, port in enumerate(ports):
            m.d.comb += [clash.en[i].eq(port.en), clash.address[i].eq(port.address)]
        m.d.comb += [
            clash.dma.eq(self._dma.to_shared | self._dma.fetch),
            clash.beat.eq(self._dma.beat),
            self._control.clash.eq(clash.clash),
        ]

    def _trace(self, m: Module) -> None:
        mac, vector, trace = self._mac, self._vector, self.trace
        m.d.comb += [
            trace.running.eq(self._control.running),
            *(trace.dma[name].eq(getattr(self._dma, name)) for name in _DMA),
            *(
                trace.kernel[name].eq(getattr(mac, name) | getattr(vector, name))
                for name in _KERNEL
            ),
            trace.kernel.opcode.eq(
                Mux(
                    mac.started,
                    mac.operation.payload.opcode,
                    vector.operation.payload.opcode,
                )
            ),
        ]


class NpuTop(wiring.Component):
    """The machine with the ports of an IP block: AXI4-Lite slave `s_axil_*` (register map: section
    9), AXI4 managers `m0_axi_*` (main memory) and `m1_axi_*` (commands, read only), `irq`
    (interrupt line), `events` (see `trace_layout`).

    The core's reset is a register: with it a simulator evaluates the logic in front of the core's
    registers once per cycle, and CLEAR resets the core once both ports are quiet.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self._core, self._host = NpuCore(machine), HostRegisters()
        core = self._core.signature.members
        super().__init__(
            {
                **prefixed("s_axil_", self._host.signature.members["axi"].signature),
                **prefixed("m0_axi_", core["read"].signature),
                **prefixed("m0_axi_", core["write"].signature),
                **prefixed("m1_axi_", core["fetch"].signature),
                "irq": Out(1),
                # Verilator's models have a function `trace`.
                "events": core["trace"],
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        reset = Signal(reset_less=True, init=1)
        m.submodules.host = host = self._host
        core = Unit(self._core, "bankside_npu_core", reset=reset)
        # The reset of a unit acts in exports only, an inserted one in Amaranth's simulator only.
        m.submodules.core = ResetInserter(reset)(core)
        connect_prefixed(m, self, "m0_axi_", core.read)
        connect_prefixed(m, self, "m0_axi_", core.write)
        connect_prefixed(m, self, "m1_axi_", core.fetch)
        connect_prefixed(m, self, "s_axil_", host.axi)
        m.d.sync += reset.eq(ResetSignal("sync") | (host.clear & core.quiet & ~reset))
        m.d.comb += [
            *(getattr(core, name).eq(getattr(host, name)) for name in _HOST),
            *(getattr(host, name).eq(getattr(core, name)) for name in _STATE),
            host.quiet.eq(core.quiet),
            host.cleared.eq(host.clear & reset),
            self.irq.eq(host.line),
            self.events.eq(core.trace),
        ]
        return m
