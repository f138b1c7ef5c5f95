"""Control of the `npu` engine: executes the commands of a stream, one per cycle.

Ref: docs/npu.md sections 4, 5, 8 and 9.
"""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import connect, flipped

from bankside.hw.lib.queue import Queue
from bankside.hw.npu.control.able import Able, any_of
from bankside.hw.npu.control.fetch import Fetch
from bankside.hw.npu.control.layouts import SPEC, control_members, dma_layout
from bankside.hw.npu.control.queues import KernelQueue
from bankside.hw.npu.control.ranges import Ranges
from bankside.hw.npu.control.registers import StateRegisters
from bankside.hw.npu.control.stalls import StallCounters
from bankside.hw.npu.control.transfers import Transfers
from bankside.hw.npu.operation import register_shapes
from bankside.isa import npu_commands
from bankside.isa.layout import legal, view
from bankside.isa.npu_machine import NpuMachine

__all__ = ["Control"]

_WITHIN = 8
"""More operations than wait can be outstanding: those between start and completion."""


class Control(wiring.Component):
    """Everything between port m1, the host registers, the DMA engine and the kernel engines.

    Members: see `layouts.control_members`.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        super().__init__(control_members(machine))

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.fetch = fetch = Fetch()
        m.submodules.registers = registers = StateRegisters(self.machine)
        m.submodules.kernel = kernel = KernelQueue(self.machine)
        m.submodules.dma_queue = dma_queue = Queue(
            dma_layout(self.machine), self.machine.config.npu.queue_depth
        )
        self._fetch(m, fetch)
        chosen = self._chosen(m, fetch)
        transfers, operations = self._outstanding(m, dma_queue, kernel)
        ready = self._ready(fetch, transfers, operations, dma_queue, kernel)
        refused = self._checks(m, fetch, registers, dma_queue, kernel)
        goes = {
            name: self.running & chosen[name] & ready[name] & ~refused.get(name, Const(0)).any()
            for name in chosen
        }
        self._execute(m, fetch, registers, goes)
        m.d.comb += [
            dma_queue.i.valid.eq(goes["DMA"]),
            kernel.i.valid.eq(any_of(goes[name] for name in npu_commands.OPERATIONS)),
        ]
        self._faults(m, fetch, chosen, ready, refused, kernel)
        self._engines(m, dma_queue, kernel)
        self._count(m, fetch, chosen, ready, transfers, kernel, goes["PMU"])
        return m

    def _fetch(self, m: Module, fetch: Fetch) -> None:
        connect(m, fetch.axi, flipped(self.axi))
        m.d.comb += [
            fetch.start.eq(self.start),
            fetch.running.eq(self.running),
            fetch.base.eq(self.qbase),
            fetch.words.eq(self.qsize),
            self.quiet.eq(fetch.quiet),
        ]

    def _chosen(self, m: Module, fetch: Fetch) -> dict[str, Signal]:
        """One bit per command: the word is that command, and legal."""
        chosen = {}
        for name, command in SPEC.commands.items():
            chosen[name] = Signal(name=f"is_{name.lower()}")
            is_it = view(SPEC, name, fetch.word).opcode == command.opcode
            m.d.comb += chosen[name].eq(
                fetch.valid & ~fetch.error & is_it & legal(SPEC, command, fetch.word)
            )
        return chosen

    def _outstanding(
        self, m: Module, dma_queue: Queue, kernel: KernelQueue
    ) -> tuple[Signal, Signal]:
        """Transfers and operations that are dispatched and not complete."""
        most = self.machine.config.npu.queue_depth + _WITHIN
        transfers, operations = Signal(range(most + 1)), Signal(range(most + 1))
        completed = self.mac_complete + self.vector_complete
        m.d.sync += [
            transfers.eq(transfers + dma_queue.i.valid - self.dma_complete),
            operations.eq(operations + kernel.i.valid - completed),
        ]
        return transfers, operations

    def _ready(
        self,
        fetch: Fetch,
        transfers: Signal,
        operations: Signal,
        dma_queue: Queue,
        kernel: KernelQueue,
    ) -> dict[str, Value]:
        """What each command waits for."""
        most = view(SPEC, "DMA_WAIT", fetch.word).outstanding
        most_operations = view(SPEC, "KERNEL_WAIT", fetch.word).outstanding
        return {
            "STOP": (transfers == 0) & (operations == 0),
            "DMA_WAIT": transfers <= most,
            "KERNEL_WAIT": operations <= most_operations,
            **dict.fromkeys(("IRQ", "SET", "PMU"), Const(1)),
            "DMA": dma_queue.i.ready,
            **dict.fromkeys(npu_commands.OPERATIONS, kernel.i.ready),
        }

    # --- checks ---------------------------------------------------------------------------------

    def _checks(
        self,
        m: Module,
        fetch: Fetch,
        registers: StateRegisters,
        dma_queue: Queue,
        kernel: KernelQueue,
    ) -> dict[str, Signal]:
        """Faults of DMA and of operations, a bit per code; and what would be dispatched."""
        m.submodules.able = able = Able(self.machine)
        m.submodules.ranges = ranges = Ranges(self.machine)
        m.submodules.transfers = transfers = Transfers(self.machine)
        queued = kernel.i.payload
        operation, transfer = queued.operation, dma_queue.i.payload
        m.d.comb += [
            operation.opcode.eq(view(SPEC, "CONV", fetch.word).opcode),
            operation.mode.eq(view(SPEC, "ELEMENTWISE", fetch.word).op),
            *(operation[name].eq(registers.state[name]) for name in register_shapes(self.machine)),
            queued.position.eq(self.position),
            able.operation.eq(operation),
            able.beyond.eq(registers.beyond),
            ranges.operation.eq(operation),
            transfers.direction.eq(view(SPEC, "DMA", fetch.word).direction),
            transfers.state.eq(registers.state),
            transfers.regions.eq(self.regions),
            transfer.eq(transfers.transfer),
            transfer.position.eq(self.position),
        ]
        found = {
            "DMA": {
                npu_commands.UNABLE: transfers.unable,
                npu_commands.REGION: transfers.beyond_region,
                npu_commands.MISALIGNED: transfers.misaligned,
                npu_commands.OUTSIDE: transfers.outside,
            },
            "operation": {
                npu_commands.UNABLE: able.refused,
                npu_commands.OVERLAP: ranges.overlap,
                npu_commands.OUTSIDE: ranges.outside,
            },
        }
        refused = {name: Signal(8, name=f"refused_{name.lower()}") for name in found}
        for name, faults in found.items():
            m.d.comb += [refused[name][code].eq(fault) for code, fault in faults.items()]
        operations = dict.fromkeys(npu_commands.OPERATIONS, refused["operation"])
        return {"DMA": refused["DMA"], **operations}

    def _faults(
        self,
        m: Module,
        fetch: Fetch,
        chosen: dict[str, Signal],
        ready: dict[str, Value],
        refused: dict[str, Signal],
        kernel: KernelQueue,
    ) -> None:
        """The fault of the lowest code, and the position of its command."""
        over = ~fetch.valid & (self.position == self.qsize)
        unknown = fetch.valid & ~fetch.error & ~any_of(chosen.values())
        dispatched = any_of(
            Mux(chosen[name] & ready[name], faults, 0) for name, faults in refused.items()
        )
        here = Signal(8)
        m.d.comb += [
            here.eq(dispatched),
            here[npu_commands.ILLEGAL].eq(dispatched[npu_commands.ILLEGAL] | over | unknown),
            here[npu_commands.BUS].eq(dispatched[npu_commands.BUS] | (fetch.valid & fetch.error)),
        ]
        elsewhere = {
            npu_commands.BUS: (self.bus_error, self.transfer_position),
            npu_commands.OVERLAP: (self.clash, self.transfer_position),
            npu_commands.OUTSIDE: (self.illegal_weights, kernel.mac_position),
        }
        with m.If(self.running):
            for code in range(npu_commands.OUTSIDE, 0, -1):
                if code in elsewhere:
                    happens, position = elsewhere[code]
                    with m.If(happens):
                        self._halt(m, code, position)
                with m.If(here[code]):
                    self._halt(m, code, self.position)

    def _halt(self, m: Module, code: int, position: Value) -> None:
        m.d.sync += [
            self.running.eq(0),
            self.halted.eq(1),
            self.fault.eq(code),
            self.position.eq(position),
        ]

    # --- what commands do -----------------------------------------------------------------------

    def _execute(
        self, m: Module, fetch: Fetch, registers: StateRegisters, goes: dict[str, Value]
    ) -> None:
        taken = any_of(goes.values())
        operands = view(SPEC, "SET", fetch.word)
        m.d.comb += [
            fetch.take.eq(taken),
            registers.clear.eq(self.start),
            registers.en.eq(goes["SET"]),
            registers.index.eq(operands.reg),
            registers.value.eq(operands.value),
            self.interrupt.eq(goes["IRQ"]),
            self.interrupt_code.eq(view(SPEC, "IRQ", fetch.word).code),
            self.done.eq(goes["STOP"]),
        ]
        with m.If(taken & ~self.done):
            m.d.sync += self.position.eq(self.position + 1)
        with m.If(self.running):
            m.d.sync += self.cycle.eq(self.cycle + 1)
        with m.If(self.done):
            m.d.sync += self.running.eq(0)
        with m.If(self.start):
            m.d.sync += [self.running.eq(1), self.cycle.eq(0), self.position.eq(0)]

    def _engines(self, m: Module, dma_queue: Queue, kernel: KernelQueue) -> None:
        connect(m, kernel.mac, flipped(self.mac))
        connect(m, kernel.vector, flipped(self.vector))
        m.d.comb += [
            self.dma.valid.eq(dma_queue.o.valid & ~self.halted),
            self.dma.payload.eq(dma_queue.o.payload),
            dma_queue.o.ready.eq(self.dma.ready & ~self.halted),
            kernel.halted.eq(self.halted),
            kernel.mac_idle.eq(self.mac_idle),
            kernel.vector_idle.eq(self.vector_idle),
        ]

    def _count(
        self,
        m: Module,
        fetch: Fetch,
        chosen: dict[str, Signal],
        ready: dict[str, Value],
        transfers: Signal,
        kernel: KernelQueue,
        measure: Value,
    ) -> None:
        m.submodules.stalls = stalls = StallCounters()
        enabled = Signal()
        dispatched = ("DMA", *npu_commands.OPERATIONS)
        full = any_of(chosen[name] & ~ready[name] for name in dispatched)
        m.d.comb += [
            stalls.clear.eq(self.start),
            stalls.enable.eq(self.running & enabled),
            stalls.in_step.eq(self.in_step),
            stalls.lacks_weights.eq(self.lacks_weights),
            stalls.lacks_output.eq(self.lacks_output),
            stalls.kind.eq(self.kind | kernel.kind),
            stalls.mac_busy.eq(~self.mac_idle | kernel.mac_started),
            stalls.waits_for_dma.eq(chosen["DMA_WAIT"] | chosen["STOP"] | full),
            stalls.transfers.eq(transfers != 0),
            stalls.fetched.eq(fetch.valid),
            self.counts.eq(stalls.counts),
        ]
        with m.If(measure):
            m.d.sync += enabled.eq(view(SPEC, "PMU", fetch.word).enable)
        with m.If(self.start):
            m.d.sync += enabled.eq(1)
