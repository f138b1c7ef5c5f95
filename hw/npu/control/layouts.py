"""What the control of the `npu` engine sends to the DMA engine, and the ports of `Control`.

Ref: docs/npu.md sections 4, 6, 8 and 9.
"""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from bankside.hw.axi.signatures import AxiReadSignature
from bankside.hw.npu.operation import VECTOR_OPERATIONS, operation_layout
from bankside.isa.npu_commands import REGIONS
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.spec import load_spec

__all__ = [
    "ADDRESS_BITS",
    "COUNTER_BITS",
    "POSITION_BITS",
    "SPEC",
    "WORD",
    "buffer_bits",
    "control_members",
    "counters_layout",
    "dma_layout",
    "region_layout",
]

SPEC = load_spec("npu")
WORD = SPEC.word_bits
ADDRESS_BITS = 32
"""Bits of a byte address behind either port; memories that differ share one machine."""
POSITION_BITS = 32
"""Bits of the position of a command."""
COUNTER_BITS = 48


def buffer_bits(machine: NpuMachine) -> int:
    """Bits of a byte address of the larger buffer."""
    return bits_for(max(machine.shared_words * WORD_BYTES, machine.config.npu.weight_bytes) - 1)


def region_layout() -> data.StructLayout:
    """Base (byte address) and size (bytes) of a region of main memory."""
    return data.StructLayout({"base": ADDRESS_BITS, "size": ADDRESS_BITS + 1})


def dma_layout(machine: NpuMachine) -> data.StructLayout:
    """A transfer that has passed the checks of section 9.

    direction: of isa/npu.yaml. address: byte address of the first row (base of the region plus
    offset). rows: at least 1. row_bytes: at least one beat. row_step: bytes from row to row in main
    memory. buf, buf_step: byte address in the buffer, bytes from row to row there (`buf_step` is
    truncated, which only matters where there is one row). position: of the command, for faults.
    All bytes are multiples of the data port's width.
    """
    buf = buffer_bits(machine)
    return data.StructLayout(
        {
            "direction": SPEC.commands["DMA"].field_map["direction"].width,
            "address": ADDRESS_BITS,
            "rows": 32,
            "row_bytes": buf + 1,
            "row_step": ADDRESS_BITS,
            "buf": buf,
            "buf_step": buf,
            "position": POSITION_BITS,
        }
    )


def counters_layout() -> data.ArrayLayout:
    """Cycles by reason, in the order of the specification."""
    return data.ArrayLayout(COUNTER_BITS, len(SPEC.stalls))


def control_members(machine: NpuMachine) -> dict[str, wiring.Member]:
    """Ports of `Control(machine)`.

    Host
    ----
    start : In(1)
        Pulse while not `running`, `quiet` and not `halted`; the next cycle is cycle 0.
    qbase, qsize : In
        Byte address of the stream, a multiple of 128; its words. Like `regions` held while running.
    regions : In(8 of region_layout)
        Those that are not used have size 0.
    running : Out(1)
        A stream is executed.
    done : Out(1)
        Pulse in the cycle of STOP.
    halted : Out(1)
        From the cycle after a fault on, until reset: no burst may begin, nothing may be written.
    fault : Out(8), position : Out(32)
        Code of the fault and position of its command; without a fault 0 and the position of the
        command that is executed next (after the end: of STOP).
    interrupt : Out(1), interrupt_code : Out(16)
        Pulse of IRQ.
    cycle : Out(48)
        Number of this cycle; after the end the cycles of the stream.
    counts : Out(counters_layout)
    quiet : Out(1)
        No burst of port m1 is under way or offered.

    Memory
    ------
    axi : Out(AxiReadSignature)
        Port m1.

    DMA engine
    ----------
    dma : Out(stream of dma_layout)
        Head of the queue; `ready` in the cycle of the last address (read) or last beat (write).
        Not valid while `halted`: what the engine is doing then it must know itself.
    dma_complete : In(1)
        Cycle of the last beat or response of a transfer, the one before it is complete.
    bus_error : In(1), clash : In(1)
        Pulses. An error response came; transfer and operation used one bank in one cycle.
    transfer_position : In(32)
        Of the transfer that these are about.

    Kernel engines (as in `hw.npu.ports.engine_members`, MacEngine and VectorEngine)
    --------------
    mac, vector : Out(stream of operation_layout)
    mac_idle, mac_complete, vector_idle, vector_complete : In(1)
    illegal_weights, in_step, lacks_weights, lacks_output : In(1)
        Of MacEngine.
    kind : In(4)
        Of VectorEngine.
    """
    operation = stream.Signature(operation_layout(machine))
    engines = ("mac_idle", "mac_complete", "vector_idle", "vector_complete")
    flags = ("illegal_weights", "in_step", "lacks_weights", "lacks_output")
    return {
        "start": In(1),
        "qbase": In(ADDRESS_BITS),
        "qsize": In(POSITION_BITS),
        "regions": In(data.ArrayLayout(region_layout(), REGIONS)),
        **dict.fromkeys(("running", "done", "halted", "interrupt", "quiet"), Out(1)),
        "fault": Out(8),
        "position": Out(POSITION_BITS),
        "interrupt_code": Out(SPEC.commands["IRQ"].field_map["code"].width),
        "cycle": Out(COUNTER_BITS),
        "counts": Out(counters_layout()),
        "axi": Out(AxiReadSignature(data_bits=WORD, address_bits=ADDRESS_BITS)),
        "dma": Out(stream.Signature(dma_layout(machine))),
        **dict.fromkeys(("dma_complete", "bus_error", "clash"), In(1)),
        "transfer_position": In(POSITION_BITS),
        "mac": Out(operation),
        "vector": Out(operation),
        **dict.fromkeys((*engines, *flags), In(1)),
        "kind": In(len(VECTOR_OPERATIONS)),
    }
