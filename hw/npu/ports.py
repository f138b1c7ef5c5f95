"""Ports of the buffers and of the two kernel engines, seen from the engine.

Ref: docs/npu.md sections 1 and 5.
"""

from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from bankside.hw.npu.operation import operation_layout
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine

__all__ = ["engine_members", "shared_read", "shared_write", "weight_read"]


def shared_read(machine: NpuMachine) -> wiring.Signature:
    """Read port of the shared buffer: with `en` in cycle t, `data` shows the word of `address` in
    cycle t + 1 and holds it until the cycle after the next `en`. A write of cycle t is seen by
    reads from cycle t + 1 on.
    """
    return _read(bits_for(machine.shared_words - 1), 8 * WORD_BYTES)


def shared_write(machine: NpuMachine) -> wiring.Signature:
    """Write port of the shared buffer; bit i of `mask` writes byte i of the word."""
    return wiring.Signature(
        {
            "en": Out(1),
            "address": Out(bits_for(machine.shared_words - 1)),
            "data": Out(8 * WORD_BYTES),
            "mask": Out(WORD_BYTES),
        }
    )


def weight_read(machine: NpuMachine) -> wiring.Signature:
    """Read port of the weight buffer (words of the weight port); timing as `shared_read`."""
    return _read(bits_for(machine.weight_words - 1), 8 * machine.weight_port_bytes)


def _read(address_bits: int, data_bits: int) -> wiring.Signature:
    return wiring.Signature({"en": Out(1), "address": Out(address_bits), "data": In(data_bits)})


def engine_members(machine: NpuMachine) -> dict[str, wiring.Member]:
    """Members that MacEngine and VectorEngine have in common.

    operation : In(stream of operation_layout)
        The head of the kernel queue, shown only to the engine that executes it and, unless both
        the operation before and this one are MAC operations, only while the other engine is `idle`.
        `ready` (which may depend on `valid` and the payload) in the cycle s of the start.
    idle : Out(1)
        Nothing is between start and completion (state at the start of the cycle; in a cycle s it
        still shows the state before the start).
    started : Out(1)
        Cycle s of an operation.
    steps_done : Out(1)
        Last cycle of the last step (vector unit: of the last cycle of work).
    complete : Out(1)
        Cycle before the one in which the operation is complete: a register that counts outstanding
        operations down at the end of this cycle is right.
    read0, read1, read2 : shared_read
        First input; second input (MATMUL's rows); scale records and tables.
    write0 : shared_write
    """
    return {
        "operation": In(stream.Signature(operation_layout(machine))),
        "idle": Out(1),
        "started": Out(1),
        "steps_done": Out(1),
        "complete": Out(1),
        **dict.fromkeys(("read0", "read1", "read2"), Out(shared_read(machine))),
        "write0": Out(shared_write(machine)),
    }
