"""The kernel queue and which engine takes its head. Ref: docs/npu.md section 5."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.lib.queue import Queue
from bankside.hw.npu.control.able import any_of
from bankside.hw.npu.control.layouts import POSITION_BITS
from bankside.hw.npu.operation import (
    MAC_OPERATIONS,
    VECTOR_OPERATIONS,
    opcode,
    operation_layout,
)
from bankside.isa.npu_machine import NpuMachine

__all__ = ["KernelQueue", "queued_layout"]


def queued_layout(machine: NpuMachine) -> data.StructLayout:
    """An operation and the position of its command."""
    return data.StructLayout({"operation": operation_layout(machine), "position": POSITION_BITS})


class KernelQueue(wiring.Component):
    """Holds operations and shows the oldest one to the engine that executes it.

    Members
    -------
    i : In(stream of queued_layout)
    halted : In(1)
        Nothing may start.
    mac, vector : Out(stream of operation_layout)
        Valid only while the other engine is idle: then at most the own one is at work on the
        operation before.
    mac_idle, vector_idle : In(1)
    mac_started : Out(1)
    kind : Out(4)
        The operation that the vector unit starts in this cycle.
    mac_position : Out(32)
        Of the last MAC operation that has started, from the cycle after its start on.
    """

    i: stream.Interface
    mac: stream.Interface
    vector: stream.Interface

    def __init__(self, machine: NpuMachine) -> None:
        self._machine = machine
        operation = Out(stream.Signature(operation_layout(machine)))
        super().__init__(
            {
                "i": In(stream.Signature(queued_layout(machine))),
                "halted": In(1),
                "mac": operation,
                "vector": operation,
                "mac_idle": In(1),
                "vector_idle": In(1),
                "mac_started": Out(1),
                "kind": Out(len(VECTOR_OPERATIONS)),
                "mac_position": Out(POSITION_BITS),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        depth = self._machine.config.npu.queue_depth
        m.submodules.queue = queue = Queue(queued_layout(self._machine), depth)
        wiring.connect(m, wiring.flipped(self.i), queue.i)
        head, is_mac, shown = queue.o.payload.operation, Signal(), Signal()
        m.d.comb += [
            is_mac.eq(any_of(head.opcode == opcode(name) for name in MAC_OPERATIONS)),
            shown.eq(queue.o.valid & ~self.halted),
            self.mac.valid.eq(shown & is_mac & self.vector_idle),
            self.vector.valid.eq(shown & ~is_mac & self.mac_idle),
            self.mac.payload.eq(head),
            self.vector.payload.eq(head),
            queue.o.ready.eq(
                Mux(
                    is_mac,
                    self.mac.valid & self.mac.ready,
                    self.vector.valid & self.vector.ready,
                )
            ),
            self.mac_started.eq(self.mac.valid & self.mac.ready),
        ]
        started = self.vector.valid & self.vector.ready
        for i, name in enumerate(VECTOR_OPERATIONS):
            m.d.comb += self.kind[i].eq(started & (head.opcode == opcode(name)))
        with m.If(self.mac_started):
            m.d.sync += self.mac_position.eq(queue.o.payload.position)
        return m
