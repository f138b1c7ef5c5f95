"""The compiled `array` machine: bits of the golden model, cycles of the timing model, errors."""

import sys
from pathlib import Path

import numpy as np
import pytest

from bankside.config import HardwareConfig
from bankside.errors import ConfigError, ProgramError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.machines import load_machine
from bankside.isa.program import Builder, Program
from bankside.sim.executions import EXECUTIONS, make_engine
from bankside.sim.golden.array import ArrayGolden
from bankside.sim.rtl.array import ArrayRtl
from bankside.sim.timing.array import ArrayTiming

sys.path.insert(0, str(Path(__file__).parents[1] / "cosim" / "benches"))

from array_top_program import attention_program, random_operands  # noqa: E402

MACHINE = load_machine("array_4x4")
N = MACHINE.bus_elements


@pytest.fixture(scope="module")
def rtl() -> ArrayRtl:
    return ArrayRtl(MACHINE)


def attention(seed: int, keys: int, *, causal: bool = False) -> Program:
    operands = random_operands(np.random.default_rng(seed), MACHINE.columns, keys)
    return attention_program(MACHINE, *operands, causal=causal)


def copy_program(rows: int, target: int, image_rows: int) -> Program:
    """Copy `rows` bus words of column 0 from address 0 to bus word `target`."""
    b = Builder("array", N)
    for name, value in {"outer": 1, "inner": 1, "beats": rows, "ring": 1, "mem": 0}.items():
        b.SET(reg=name, value=value)
    b.LOAD(side="column", signal="store")
    b.SET(reg="mem", value=target * 2 * N)
    b.STORE(wait="load")
    b.HALT()
    image = np.arange(image_rows * N, dtype=np.uint16).reshape(image_rows, N)
    return Program("array", tuple(b.words), image)


@pytest.mark.parametrize("keys,causal", [(4, False), (13, True), (30, False), (64, True)])
def test_agrees_with_golden_and_timing(rtl, keys, causal):
    """Every bit of memory, every cycle, every counter, every event of the traces."""
    program = attention(keys, keys, causal=causal)
    result = rtl.run(program, trace=True)
    golden, timing = (
        ArrayGolden(MACHINE).run(program),
        ArrayTiming(MACHINE).run(program, trace=True),
    )
    assert np.array_equal(result.outputs, golden.outputs)
    assert (result.cycles, result.counters) == (timing.cycles, timing.counters)
    assert np.array_equal(result.commands, timing.commands) and len(result.commands)
    assert np.array_equal(result.macros, timing.macros)
    assert len(result.macros) == len([w for w in program.instructions() if w.name in DISPATCHED])
    assert sum(result.counters.values()) == result.cycles and result.clock_domain == "array"


DISPATCHED = ("LOAD", "STORE", "RUN")


def test_the_image_stays_and_the_memory_beyond_it_is_zero(rtl):
    program = copy_program(4, 6, 8)
    before = program.host_in.copy()
    result = rtl.run(program)
    want = before.copy()
    want[6:8] = before[:2]  # words 8 and 9 lie beyond the image
    assert np.array_equal(result.outputs, want)
    assert np.array_equal(program.host_in, before)
    beyond = copy_program(2, 2, 4)
    words = list(beyond.words)
    words[4] = beyond.spec.encode("SET", reg="mem", value=8 * 2 * N)
    result = rtl.run(Program("array", tuple(words), before[:4]))
    assert not result.outputs[2:].any() and np.array_equal(result.outputs[:2], before[:2])


def test_errors_name_the_place_and_leave_a_machine_that_works(rtl):
    good = attention(1, 13)
    want = rtl.run(good)
    words = list(good.words)
    bad = Program("array", (*words[:20], 0, *words[20:]), good.host_in)
    with pytest.raises(ProgramError, match="command 20: the front end refuses word 0x0000"):
        rtl.run(bad)
    with pytest.raises(ProgramError, match="runs past its end; end it with HALT"):
        rtl.run(Program("array", good.words[:-1], good.host_in))
    with pytest.raises(ProgramError, match="not finished after 100 cycles, front end at"):
        rtl.run(good, limit=100)
    again = rtl.run(good)
    assert np.array_equal(again.outputs, want.outputs)
    assert (again.cycles, again.counters) == (want.cycles, want.counters)


@pytest.mark.parametrize(
    "program,message",
    [
        (Program("array", (0,) * 5000, np.zeros((1, N), np.uint16)), "raise array.program_words"),
        (Program("array", (0,), np.zeros((1, N + 1), np.uint16)), "expected \\[rows, 4\\]"),
        (Program("array", (0,), np.zeros(((1 << 21) + 1, N), np.uint16)), "raise memory.bytes"),
    ],
)
def test_programs_that_do_not_fit(rtl, program, message):
    with pytest.raises(ProgramError, match=message):
        rtl.run(program)


def test_slow_memory_and_its_end():
    """Timing of another memory; an address beyond it is a bus error, which a clear forgets."""
    text = (
        "name: slow\nengine: array\narray: {rows: 2, columns: 3, bus_bytes: 8}\n"
        "memory: {bytes: 12288, read_latency_cycles: 7, write_latency_cycles: 3, beat_cycles: 3, "
        "outstanding: 2}\n"
    )
    machine = ArrayMachine.of(HardwareConfig.parse(text))
    rtl, program = ArrayRtl(machine), copy_program(20, 40, 64)
    result, timing = rtl.run(program, trace=True), ArrayTiming(machine).run(program, trace=True)
    assert np.array_equal(result.outputs[40:60], program.host_in[:20])
    assert (result.cycles, result.counters) == (timing.cycles, timing.counters)
    assert np.array_equal(result.macros, timing.macros) and len(result.macros) == 2
    with pytest.raises(ProgramError, match="memory answered with an error.*end at 12288"):
        rtl.run(copy_program(4, 12288 // 8 - 2, 64))
    assert rtl.run(program).cycles == result.cycles


def test_banks_live_on_until_reset(rtl):
    """A program that only stores finds what an earlier one left in the banks."""
    first = copy_program(4, 8, 16)
    rtl.run(first)
    words = [w for w, i in zip(first.words, first.instructions(), strict=True) if i.name != "LOAD"]
    store = first.spec.encode("STORE")
    only = [store if first.spec.decode(w).name == "STORE" else w for w in words]
    program = Program("array", tuple(only), np.zeros((16, N), np.uint16))
    assert np.array_equal(rtl.run(program).outputs[8:12], first.host_in[:4])
    rtl.reset()
    assert not rtl.run(program).outputs.any()


def test_executions_by_engine():
    assert set(EXECUTIONS) == {"pim", "array", "npu"}
    assert isinstance(make_engine("golden", MACHINE), ArrayGolden)
    assert isinstance(make_engine("timing", MACHINE), ArrayTiming)
    with pytest.raises(ConfigError, match="choose from: golden, timing, rtl"):
        make_engine("gold", MACHINE)


@pytest.mark.slow
def test_waves(tmp_path):
    """The recording covers the cycles asked for and holds the ports of the top."""
    rtl, path = ArrayRtl(MACHINE, waves=True), tmp_path / "waves.vcd"
    rtl.record_waves(path, 10, 30)
    program = attention(2, 8)
    assert np.array_equal(rtl.run(program).outputs, ArrayGolden(MACHINE).run(program).outputs)
    text = path.read_text()
    assert "m_axi_araddr" in text
    times = [int(line[1:]) for line in text.splitlines() if line.startswith("#")]
    assert times[-1] - times[0] == 10 * 20 + 5
