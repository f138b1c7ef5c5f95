"""Bench of `AxiLiteSlave`: an independent bus manager with random pauses against a register file
in Python behind the slave.
"""

from random import Random

import cocotb
from axi_checkers import ChannelChecker, pause_all, start
from cocotb.triggers import FallingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp

from bankside.hw.axi.lite import AxiLiteSlave
from bankside.sim.rtl.cocotb_runner import Bench

ADDRESS_BITS, REGISTERS = 9, 40
UNITS = {"axi_lite": Bench(lambda: AxiLiteSlave(address_bits=ADDRESS_BITS))}


class RegisterFile:
    """What stands behind the slave: registers 0 to REGISTERS - 1."""

    def __init__(self, dut) -> None:
        self.dut, self.values, self.writes = dut, [0] * REGISTERS, 0
        dut.read_data.value = dut.read_error.value = dut.write_error.value = 0
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        dut = self.dut
        while True:
            await FallingEdge(dut.clk)
            place = dut.read_address.value.to_unsigned()
            known = place < REGISTERS
            dut.read_error.value = int(not known)
            dut.read_data.value = self.values[place] if known else 0
            place = dut.write_address.value.to_unsigned()
            dut.write_error.value = int(place >= REGISTERS)
            if dut.write_en.value and place < REGISTERS:
                self.values[place] = dut.write_data.value.to_unsigned()
                self.writes += 1


async def bench(dut, share: float):
    """(random numbers, manager, register file, checkers), after reset."""
    random = Random(cocotb.RANDOM_SEED)
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "axi_"), dut.clk, dut.rst)
    write, read = master.write_if, master.read_if
    channels = [write.aw_channel, write.w_channel, write.b_channel]
    pause_all([*channels, read.ar_channel, read.r_channel], random, share)
    checkers = [ChannelChecker(dut, "axi__", channel).start() for channel in ("b", "r")]
    file = RegisterFile(dut)
    await start(dut)
    return random, master, file, checkers


@cocotb.test(timeout_time=400, timeout_unit="us")
@cocotb.parametrize(share=[0.0, 0.5])
async def registers(dut, share: float) -> None:
    """Whole registers are written and read back; parts and unknown registers are refused."""
    random, master, file, checkers = await bench(dut, share)
    expected = [0] * REGISTERS
    for _ in range(60):
        place, word = random.randrange(REGISTERS + 8), random.getrandbits(64)
        length = random.choice((8, 8, 8, 4, 1))
        done = await master.write(8 * place, word.to_bytes(8, "little")[:length])
        good = place < REGISTERS and length == 8
        assert (done.resp == AxiResp.OKAY) == good, f"register {place}, {length} bytes: {done.resp}"
        if good:
            expected[place] = word
        place = random.randrange(REGISTERS + 8)
        found = await master.read(8 * place, 8)
        assert (found.resp == AxiResp.OKAY) == (place < REGISTERS), f"register {place}"
        if place < REGISTERS:
            assert int.from_bytes(found.data, "little") == expected[place], f"register {place}"
    assert file.values == expected and all(checker.moved >= 60 for checker in checkers)


@cocotb.test(timeout_time=400, timeout_unit="us")
@cocotb.parametrize(share=[0.0, 0.6])
async def many_at_once(dut, share: float) -> None:
    """Writes that do not wait for their answers, then reads likewise: all arrive, in order."""
    random, master, file, _ = await bench(dut, share)
    places = [random.randrange(REGISTERS) for _ in range(100)]
    words = [random.getrandbits(64) for _ in places]
    expected = dict(zip(places, words, strict=True))
    done = [
        master.init_write(8 * place, word.to_bytes(8, "little"))
        for place, word in zip(places, words, strict=True)
    ]
    for event in done:
        await event.wait()
        assert event.data.resp == AxiResp.OKAY
    assert file.writes == len(places)
    reads = {place: master.init_read(8 * place, 8) for place in expected}
    for place, event in reads.items():
        await event.wait()
        assert int.from_bytes(event.data.data, "little") == expected[place], f"register {place}"
