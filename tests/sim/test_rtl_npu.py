"""The compiled `npu` machine: bits of the golden model, cycles of the timing model, faults."""

import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ProgramError
from bankside.isa.machines import load_machine
from bankside.isa.npu_commands import NpuFault
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.program import Builder, Program
from bankside.sim.agree_npu import MEMORIES
from bankside.sim.golden.npu import NpuGolden
from bankside.sim.random_programs_npu import random_programs
from bankside.sim.rtl.npu import NpuRtl
from bankside.sim.timing.npu import NpuTiming

MACHINE = load_machine("npu_u55_32")
BUS, N = MACHINE.bus_bytes, MACHINE.burst_elements
BANK_WORDS = MACHINE.shared_words // MACHINE.config.npu.banks


def _layers():
    """The file beside this one; tests are not a package."""
    name = "npu_layers"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


layers = _layers()


def with_memory(**memory: int) -> NpuMachine:
    config = MACHINE.config
    return NpuMachine.of(
        config.model_copy(update={"memory": config.memory.model_copy(update=memory)})
    )


@pytest.fixture(scope="module")
def rtl() -> NpuRtl:
    return NpuRtl(MACHINE)


def dma(b: Builder, direction: str, **reg: int) -> None:
    layers.set_registers(b, reg)
    b.DMA(direction=direction)


def image(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).integers(0, 1 << 16, (rows, N)).astype(np.uint16)


def built(b: Builder, rows: int, *regions: tuple[int, int]) -> Program:
    return Program("npu", tuple(b.words), image(rows), {}, regions or ((0, rows * BUS),))


def through_the_buffer(rows: int, target: int, *regions: tuple[int, int]) -> Program:
    """Copy the first half of memory to row `target` of it, by way of the shared buffer."""
    b = Builder("npu", N)
    dma(b, "to_shared", rows=1, row_bytes=rows // 2 * BUS)
    b.DMA_WAIT(outstanding=0)
    dma(b, "to_memory", offset=target * BUS)
    b.STOP()
    return built(b, rows, *regions)


# --- agreement ----------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", MEMORIES)
def test_agrees_with_golden_and_timing(memory):
    """Every bit of memory, every cycle, every counter, every event of the traces."""
    machine = with_memory(**MEMORIES[memory])
    rtl, golden, timing = NpuRtl(machine), NpuGolden(machine), NpuTiming(machine)
    rng, transfers, operations = np.random.default_rng(len(memory)), 0, 0
    for _, program in itertools.islice(random_programs(rng, machine), 9):
        result, bits = rtl.run(program, trace=True), golden.run(program)
        cycles = timing.run(program, trace=True)
        assert np.array_equal(result.outputs, bits.outputs)
        assert (result.cycles, result.counters) == (cycles.cycles, cycles.counters)
        assert np.array_equal(result.macros, cycles.macros)
        assert not len(result.commands) and result.clock_domain == "npu"
        transfers += int((result.macros["engine"] == 0).sum())
        operations += int((result.macros["engine"] == 1).sum())
    assert transfers > 30 and operations > 15
    assert rtl.rtl_cycles > 1000


def test_memories_share_what_is_compiled(rtl):
    slow = with_memory(read_latency_cycles=99, beat_cycles=4, jitter_cycles=3, bytes=1 << 20)
    other = NpuRtl(slow)
    assert other._library._name == rtl._library._name
    program = through_the_buffer(16, 8)
    assert other.run(program).cycles == NpuTiming(slow).run(program).cycles
    assert rtl.run(program).cycles == NpuTiming(MACHINE).run(program).cycles < 400


def test_bursts_end_at_pages(rtl):
    """Rows across multiples of 2 KiB (256 beats), in both directions."""
    b = Builder("npu", N)
    reg = {"rows": 3, "row_bytes": 2400, "row_step": 2816, "offset": 1936, "buf_step": 4096}
    dma(b, "to_shared", **reg)
    b.DMA_WAIT(outstanding=0)
    dma(b, "to_memory", offset=16384 - 24)
    b.STOP()
    program = built(b, 4096)
    result, want = rtl.run(program, trace=True), NpuGolden(MACHINE).run(program)
    assert np.array_equal(result.outputs, want.outputs)
    assert not np.array_equal(result.outputs, program.host_in)
    assert np.array_equal(result.macros, NpuTiming(MACHINE).run(program, trace=True).macros)


def test_the_image_stays_and_the_memory_beyond_it_is_zero(rtl):
    program = through_the_buffer(8, 6, (0, 1024))
    before = program.host_in.copy()
    result = rtl.run(program)
    assert np.array_equal(result.outputs[6:8], before[:2])  # the rest lies beyond the image
    assert np.array_equal(result.outputs[:6], before[:6])
    assert np.array_equal(program.host_in, before)
    b = Builder("npu", N)
    dma(b, "to_shared", rows=1, row_bytes=2 * BUS, offset=8 * BUS)
    b.DMA_WAIT(outstanding=0)
    dma(b, "to_memory", offset=0)
    b.STOP()
    result = rtl.run(built(b, 8, (0, 1024)))
    assert not result.outputs[:2].any() and np.array_equal(result.outputs[2:], before[2:])


def test_buffers_live_on_until_reset(rtl):
    rtl.run(through_the_buffer(16, 8))
    b = Builder("npu", N)
    dma(b, "to_memory", rows=1, row_bytes=8 * BUS)
    b.STOP()
    program = built(b, 8)
    assert np.array_equal(rtl.run(program).outputs, image(16)[:8])
    rtl.reset()
    assert not rtl.run(program).outputs.any()


# --- faults -------------------------------------------------------------------------------------


def faulty(emit, rows: int = 16, *regions: tuple[int, int]) -> tuple[Program, int]:
    """A transfer; what `emit` adds, whose last command is faulty; a transfer to memory."""
    b = Builder("npu", N)
    dma(b, "to_shared", rows=1, row_bytes=2 * BUS)
    b.DMA_WAIT(outstanding=0)
    emit(b)
    position = len(b.words) - 1
    layers.set_registers(b, {"offset": 0, "rows": 1, "row_bytes": BUS, "region": 0})
    b.DMA(direction="to_memory")
    b.STOP()
    return built(b, rows, *regions), position


def fault_of(execution, program: Program) -> tuple[int, int]:
    with pytest.raises(NpuFault) as error:
        execution.run(program)
    return error.value.code, error.value.position


def check_fault(rtl: NpuRtl, program: Program, code: int, position: int) -> None:
    """As the golden model; the next program runs as if nothing had been, on the same buffers."""
    golden, after = NpuGolden(MACHINE), Builder("npu", N)
    rtl.reset()
    assert fault_of(rtl, program) == fault_of(golden, program) == (code, position)
    dma(after, "to_memory", rows=1, row_bytes=64 * BUS)
    after.STOP()
    program = built(after, 64)
    result, want = rtl.run(program, trace=True), NpuTiming(MACHINE).run(program, trace=True)
    assert np.array_equal(result.outputs, golden.run(program).outputs)
    assert (result.cycles, result.counters) == (want.cycles, want.counters)


TRANSFERS = [
    ({"rows": 0}, 2), ({"rows": 2, "row_step": 16 * BUS}, 3), ({"region": 3}, 3),
    ({"region": 1 << 30}, 3), ({"rows": 1 << 31, "row_step": 8}, 3), ({"offset": 4}, 4),
    ({"buf_step": 4}, 4), ({"offset": 4, "row_bytes": 1 << 20}, 3),
    ({"buf": MACHINE.shared_words * 32}, 7),
]  # fmt: skip


@pytest.mark.parametrize(("registers", "code"), TRANSFERS)
@pytest.mark.parametrize("direction", ["to_shared", "to_memory"])
def test_faults_of_transfers(rtl, registers, code, direction):
    program, position = faulty(lambda b: dma(b, direction, **registers))
    check_fault(rtl, program, code, position)


@pytest.mark.parametrize("direction", ["to_shared", "to_weights", "to_memory"])
def test_bus_errors(rtl, direction):
    """The memory ends before the region does; the control has long gone on, the fault names the
    transfer.
    """
    end = MACHINE.config.memory.bytes
    emit = lambda b: dma(b, direction, region=1, rows=1, row_bytes=8 * BUS)  # noqa: E731
    program, position = faulty(emit, 16, (0, 16 * BUS), (end, 16 * BUS))
    check_fault(rtl, program, 5, position)


@pytest.mark.parametrize("word", [0, 0xFF << 56, 0x10 << 56 | 3, 0x03 << 56 | 127 << 32])
def test_illegal_words(rtl, word):
    program, position = faulty(lambda b: b.words.append(word))
    check_fault(rtl, program, 1, position)


OPERATIONS = [
    ("CONV", {"ofm_h": 0}, 2), ("CONV", {"weight_mode": 1}, 2), ("COPY", {"n1": 0}, 2),
    ("SOFTMAX", {"ofm_bits": 1}, 2), ("POOL", {"ofm": 8191, "ofm_sy": 9, "ofm_h": 9}, 7),
    ("COPY", {"src": 0, "src_s0": -1, "n0": 2, "wide": 0}, 7),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "code"), OPERATIONS)
def test_faults_of_operations(rtl, name, change, code):
    layer = layers.Layers(MACHINE, 1).layer(name)
    layer.reg |= change
    program, position = faulty(layer.emit)
    check_fault(rtl, program, code, position)


@pytest.mark.parametrize("name", ["CONV", "POOL", "SOFTMAX", "NORM", "ELEMENTWISE", "COPY"])
def test_outputs_onto_inputs(rtl, name):
    layer = layers.Layers(MACHINE, 4).layer(name)
    layer.mode = 0
    layer.reg |= {"lut_enable": 0, "ofm_bits": 0, "scale_mode": 0, "scale": 1100}
    layer.reg |= {"src": 48000, "dst": 48000} if name == "COPY" else {"ifm": 1500, "ofm": 1500}
    program, position = faulty(layer.emit)
    check_fault(rtl, program, 6, position)


def test_packed_weights_without_header(rtl):
    """The weight buffer holds an illegal width."""
    layer = layers.Layers(MACHINE, 1).layer("CONV")
    b = Builder("npu", N)
    dma(b, "to_weights", rows=1, row_bytes=BUS, buf=layer.reg["weights"] * 8)
    b.DMA_WAIT(outstanding=0)
    layer.emit(b)
    position = len(b.words) - 1
    b.STOP()
    program = Program("npu", tuple(b.words), np.full((4, N), 0x0909, np.uint16), {}, ((0, 64),))
    check_fault(rtl, program, 7, position)


def clash(bank: int) -> tuple[Program, int]:
    """A long transfer into bank 0 beside a COPY that writes `bank`."""
    b = Builder("npu", N)
    dma(b, "to_shared", rows=1, row_bytes=400 * BUS)
    position = len(b.words) - 1
    copy = {"n0": 1, "n1": 1, "n2": 200, "src": 9 * BANK_WORDS * 32, "src_s2": 1, "dst_s2": 1}
    layers.set_registers(b, copy | {"dst": bank * BANK_WORDS * 32 + 4000})
    b.COPY()
    b.STOP()
    return built(b, 400), position


def test_a_transfer_meets_an_operation_in_a_bank(rtl):
    program, position = clash(0)
    assert fault_of(rtl, program) == (6, position)
    program, _ = clash(1)
    assert rtl.run(program).cycles == NpuTiming(MACHINE).run(program).cycles


def test_programs_without_end(rtl):
    good = through_the_buffer(16, 8)
    want = rtl.run(good)
    with pytest.raises(ProgramError, match=f"command {len(good.words) - 1}: .* end it with STOP"):
        rtl.run(Program("npu", good.words[:-1], good.host_in, {}, good.regions))
    with pytest.raises(ProgramError, match="not finished after 20 cycles, at command 0; raise"):
        rtl.run(good, limit=20)
    again = rtl.run(good)
    assert np.array_equal(again.outputs, want.outputs)
    assert (again.cycles, again.counters) == (want.cycles, want.counters)


@pytest.mark.parametrize("shape", [(1, N + 1), ((1 << 24) // BUS + 1, N)])
def test_images_and_regions_that_do_not_fit(rtl, shape):
    with pytest.raises(ProgramError, match=f"expected at most {(1 << 24) // BUS} rows of {N}"):
        rtl.run(Program("npu", (0,), np.zeros(shape, np.uint16)))
    with pytest.raises(ProgramError, match="9 regions; the machine has 8"):
        rtl.run(Program("npu", (0,), np.zeros((1, N), np.uint16), {}, ((0, 8),) * 9))
    with pytest.raises(ProgramError, match="region 0: its base is 0x100000000; the register takes"):
        rtl.run(Program("npu", (0,), np.zeros((1, N), np.uint16), {}, ((1 << 32, 8),)))


@pytest.mark.slow
def test_waves(tmp_path):
    """The recording covers the cycles asked for and holds the ports of the top."""
    rtl, path = NpuRtl(MACHINE, waves=True), tmp_path / "waves.vcd"
    rtl.record_waves(path, 10, 30)
    program = through_the_buffer(16, 8)
    assert np.array_equal(rtl.run(program).outputs, NpuGolden(MACHINE).run(program).outputs)
    text = path.read_text()
    assert "m0_axi_araddr" in text and "m1_axi_araddr" in text
    times = [int(line[1:]) for line in text.splitlines() if line.startswith("#")]
    assert times[-1] - times[0] == 10 * 20 + 5
