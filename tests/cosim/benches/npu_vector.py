"""Bench of the npu's vector unit between a shared buffer and a queue: bytes and every event."""

from random import Random

import cocotb
import npu_vector_reference as reference
from axi_checkers import start
from cocotb.triggers import FallingEdge, ReadOnly

from bankside.hw.npu.operation import VECTOR_OPERATIONS, opcode, operation_layout
from bankside.hw.npu.vector.engine import VectorEngine
from bankside.sim.rtl.cocotb_runner import Bench

MACHINE = reference.make_machine(128)
LAYOUT = operation_layout(MACHINE)
UNITS = {"npu_vector": Bench(lambda: VectorEngine(MACHINE))}
EVENTS = ("started", "steps_done", "complete")


class SharedBuffer:
    """The buffer behind the ports; notes events."""

    def __init__(self, dut, content: bytes) -> None:
        self.dut, self.content, self.cycle = dut, bytearray(content), 0
        self.events: list[tuple[int, str]] = []
        for name in ("read0", "read1", "read2"):
            dut[f"{name}__data"].value = 0

    async def step(self, status: tuple[int, ...] | None = None) -> None:
        """From a falling edge to the next one; `status`: wanted (idle, kind, ready)."""
        dut = self.dut
        await ReadOnly()
        found = (int(dut.idle.value), int(dut.kind.value), int(dut.operation__ready.value))
        assert status in (None, found), f"cycle {self.cycle}: {found}, expected {status}"
        for name in EVENTS:
            if dut[name].value:
                self.events.append((self.cycle, name))
        words = {}
        for name in ("read0", "read1", "read2"):
            if dut[f"{name}__en"].value:
                at = 32 * dut[f"{name}__address"].value.to_unsigned()
                words[name] = int.from_bytes(self.content[at : at + 32], "little")
        if dut.write0__en.value:
            self._write()
        await FallingEdge(dut.clk)
        self.cycle += 1
        for name, word in words.items():
            dut[f"{name}__data"].value = word

    def _write(self) -> None:
        mask = self.dut.write0__mask.value.to_unsigned()
        at = 32 * self.dut.write0__address.value.to_unsigned()
        data = self.dut.write0__data.value.to_unsigned().to_bytes(32, "little")
        for k in range(32):
            if mask >> k & 1:
                self.content[at + k] = data[k]


async def execute(dut, buffer: SharedBuffer, op: dict[str, int], random: Random) -> None:
    """One operation; checks its status lines in every cycle and when its events come."""
    kind = 1 << [opcode(name) for name in VECTOR_OPERATIONS].index(op["opcode"])
    begin, total = buffer.cycle, reference.duration(MACHINE, op)
    buffer.events.clear()
    dut.operation__payload.value = LAYOUT.const(op).as_bits()
    dut.operation__valid.value = 1
    for cycle in range(total):
        await buffer.step((0, kind, 0) if cycle else (1, 0, 1))
        dut.operation__payload.value = random.getrandbits(len(dut.operation__payload))
        dut.operation__valid.value = int(cycle < total - 1 and random.getrandbits(1))
    end = begin + total
    wanted = [(begin, "started"), (end - 9, "steps_done"), (end - 1, "complete")]
    assert buffer.events == wanted, f"{buffer.events}, expected {wanted}"


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(kind=list(reference.KINDS))
async def operations(dut, kind: str) -> None:
    """Random operations, some back to back: the whole buffer afterwards."""
    random = Random(cocotb.RANDOM_SEED)
    dut.operation__valid.value = dut.operation__payload.value = 0
    buffer = SharedBuffer(dut, bytes(32 * reference.WORDS))
    await start(dut)
    for number in range(8):
        op = reference.random_operation(random, kind)
        before = reference.fill(random, op)
        buffer.content[:] = before
        for _ in range(random.choice((0, 0, 2))):
            await buffer.step()
        await execute(dut, buffer, op, random)
        wanted = reference.apply(op, before)
        wrong = [at for at, (a, b) in enumerate(zip(buffer.content, wanted, strict=True)) if a != b]
        assert not wrong, f"seed {cocotb.RANDOM_SEED}, {number}: bytes {wrong[:5]} differ, {op}"
