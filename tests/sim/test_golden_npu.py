"""Golden model of the npu against single elements; transfers; faults; what lives on."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ProgramError
from bankside.isa.machines import load_machine
from bankside.isa.npu_commands import NpuFault
from bankside.isa.program import Builder, Program
from bankside.sim.executions import make_engine
from bankside.sim.golden.npu import NpuGolden


def _sibling(name: str):
    """A module beside this file; test folders are no packages."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


layers, reference = _sibling("npu_layers"), _sibling("reference_npu_golden")
PRESETS = [f"npu_{profile}_{macs}" for profile in ("u55", "llm") for macs in (32, 64, 128, 256)]
U55, LLM = load_machine("npu_u55_32"), load_machine("npu_llm_32")


def run_layer(machine, layer) -> np.ndarray:
    """Bytes of the shared buffer after one layer."""
    golden = NpuGolden(machine)
    golden.shared[:] = layer.shared.reshape(-1, 32)
    golden.weights[:] = layer.weights
    b = Builder("npu", machine.burst_elements)
    layer.emit(b)
    golden.run(layers.finish(b, machine))
    return golden.shared.reshape(-1)


def expected(layer) -> np.ndarray:
    shared = layer.shared.copy()
    extra = () if layer.numbers is None else (layer.numbers,)
    if layer.name in ("POOL", "ELEMENTWISE", "NORM"):
        extra = (layer.mode,)
    getattr(reference, layer.name.lower())(shared, layer.reg, *extra)
    return shared


@pytest.mark.parametrize(
    ("preset", "name"),
    [(p, k) for p in PRESETS for k in layers.KINDS if k != "MATMUL" or "llm" in p],
)
def test_random_layers_against_single_elements(preset, name):
    """The whole shared buffer, so that bytes no element has stay as they were."""
    machine = load_machine(preset)
    values = set()
    for seed in range(10):
        layer = layers.Layers(machine, seed).layer(name)
        after = run_layer(machine, layer)
        np.testing.assert_array_equal(after, expected(layer), err_msg=f"seed {seed}")
        values.update(after[after != layer.shared].tolist())
    assert len(values) > 10  # results are more than limits


def test_a_changed_element_is_found():
    """The comparison above notices one byte."""
    layer = layers.Layers(U55, 3).layer("CONV")
    after = run_layer(U55, layer)
    layer.shared[reference.address(layer.reg, "ifm", 0, 0, 0)[0]] ^= 64
    layer.numbers[:, 0, 0, 0] = 1
    assert not np.array_equal(after, expected(layer))


# --- transfers ----------------------------------------------------------------------------------


def dma(b, direction, **registers):
    layers.set_registers(b, registers)
    b.DMA(direction=direction)


def image(machine, rows: int) -> np.ndarray:
    rng = np.random.default_rng(rows)
    return rng.integers(0, 1 << 16, (rows, machine.burst_elements)).astype(np.uint16)


def program(b, data, *regions) -> Program:
    b.STOP()
    return Program("npu", tuple(b.words), data, {}, regions or ((0, data.nbytes),))


@pytest.mark.parametrize("machine", [U55, LLM], ids=["u55", "llm"])
def test_rows_between_memory_and_both_buffers(machine):
    bus = machine.bus_bytes
    data = image(machine, 40)
    b = Builder("npu", machine.burst_elements)
    dma(b, "to_shared", region=1, offset=bus, rows=3, row_bytes=2 * bus, row_step=5 * bus,
        buf=4 * bus, buf_step=3 * bus)  # fmt: skip
    dma(b, "to_weights", buf=bus, buf_step=2 * bus)
    dma(b, "to_memory", region=0, offset=0, row_step=2 * bus, buf=4 * bus, buf_step=3 * bus)
    golden = NpuGolden(machine)
    result = golden.run(program(b, data, (0, 6 * bus), (20 * bus, 20 * bus)))
    rows = [data[21 + 5 * i : 23 + 5 * i] for i in range(3)]
    shared = golden.shared.reshape(-1, bus).view("<u2")
    weights = golden.weights.reshape(-1, bus).view("<u2")
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(shared[4 + 3 * i : 6 + 3 * i], row)
        np.testing.assert_array_equal(weights[1 + 2 * i : 3 + 2 * i], row)
    assert not shared[6].any() and not weights[0].any() and not weights[7:].any()
    np.testing.assert_array_equal(result.outputs, np.concatenate([*rows, data[6:]]))
    assert result.cycles is None and result.clock_domain == "npu"


def test_buffers_live_on_until_reset():
    data = image(U55, 4)
    first, second = (Builder("npu", 4) for _ in range(2))
    dma(first, "to_shared", rows=1, row_bytes=32)
    dma(second, "to_memory", rows=1, row_bytes=32)
    golden = make_engine("golden", U55)
    golden.run(program(first, data))
    blank = np.zeros_like(data)
    np.testing.assert_array_equal(golden.run(program(second, blank)).outputs, data)
    golden.reset()
    np.testing.assert_array_equal(golden.run(program(second, data)).outputs, blank)


def test_registers_are_zero_at_the_start_of_a_program_and_stay_between_commands():
    """The second transfer of a program has the rows of the first; the next program has none."""
    b, other = Builder("npu", 4), Builder("npu", 4)
    dma(b, "to_shared", rows=2, row_bytes=8, row_step=8, buf_step=32)
    dma(b, "to_shared", buf=64)
    golden = NpuGolden(U55)
    data = image(U55, 2)
    golden.run(program(b, data))
    row = golden.shared[:, :8].copy().view("<u2")
    np.testing.assert_array_equal(row[:4], np.concatenate([data, data]))
    other.DMA(direction="to_shared")
    with pytest.raises(NpuFault, match="register rows is 0"):
        golden.run(program(other, data))


def test_what_follows_stop_is_not_executed_and_stop_is_needed():
    b = Builder("npu", 4)
    b.IRQ(code=3)
    b.DMA_WAIT(outstanding=0)
    b.KERNEL_WAIT(outstanding=0)
    b.PMU(enable=1)
    b.STOP()
    b.DMA(direction="to_shared")
    NpuGolden(U55).run(program(b, image(U55, 1)))
    with pytest.raises(ProgramError, match="command 4: the program runs past its end; end it with"):
        NpuGolden(U55).run(Program("npu", tuple(b.words[:4]), image(U55, 1)))


# --- faults -------------------------------------------------------------------------------------


def fault_of(machine, emit, data=None, regions=()) -> tuple[int, int, str]:
    """(code, position, message), and nothing of the command has happened."""
    b = Builder("npu", machine.burst_elements)
    emit(b)
    position = len(b.words) - 1
    golden = NpuGolden(machine)
    golden.shared[:] = 7
    golden.weights[:] = 7
    data = image(machine, 4) if data is None else data
    with pytest.raises(NpuFault) as error:
        golden.run(program(b, data, *regions))
    assert (golden.shared == 7).all() and (golden.weights == 7).all()
    assert error.value.position == position
    return error.value.code, str(error.value)


DMA = {"rows": 1, "row_bytes": 8}
TRANSFERS = [
    ({"rows": 5, "row_step": 8}, 3, "bytes 0..39 of region 0, which has 32"),
    ({"region": 1}, 3, "region 1, which has 0"),
    ({"region": 9}, 3, "region 9, which has 0"),
    ({"offset": 4}, 4, "offset is 4; expected a multiple of 8"),
    ({"row_bytes": 12}, 4, "row_bytes is 12"),
    ({"rows": 2, "row_step": 4}, 4, "row_step is 4"),
    ({"buf": 4}, 4, "buf is 4"),
    ({"buf_step": 4}, 4, "buf_step is 4"),
    # Two reasons: the lower code.
    ({"offset": 28}, 3, "bytes 28..35 of region 0"),
    ({"buf": 1 << 20}, 7, "bytes 1048576..1048583 of a buffer of"),
    ({"rows": 0}, 2, "register rows is 0"),
]


@pytest.mark.parametrize(("registers", "code", "message"), TRANSFERS)
@pytest.mark.parametrize("direction", ["to_shared", "to_weights", "to_memory"])
def test_faults_of_transfers(registers, code, message, direction):
    got = fault_of(U55, lambda b: dma(b, direction, **(DMA | registers)))
    assert got[0] == code and message in got[1]


def test_bus_errors_beyond_main_memory():
    size = U55.config.memory.bytes
    got = fault_of(U55, lambda b: dma(b, "to_shared", **DMA), regions=((size, 64),))
    assert got[0] == 5 and f"reaches byte {size + 7} of main memory" in got[1]


def test_illegal_words():
    for word in (0xFF << 56, 0x10 << 56 | 3, 0x03 << 56 | 127 << 32, 0x01 << 56 | 1):
        assert fault_of(U55, lambda b, word=word: b.words.append(word))[0] == 1


OPERATIONS = [
    ("u55", "CONV", {"ofm_h": 0}, 2, "register ofm_h is 0; expected 1..65535"),
    ("u55", "CONV", {"block": 1000}, 2, "register block is 1000"),
    ("u55", "CONV", {"kernel_w": 256}, 2, "register kernel_w is 256; expected 1..255"),
    ("u55", "CONV", {"weight_mode": 1}, 2, "row mode"),
    ("u55", "CONV", {"weight_format": 1}, 2, "weight_format; expected packed"),
    ("u55", "CONV", {"ifm_bits": 1}, 2, "an int16 input"),
    ("u55", "CONV", {"ifm_zero": 128}, 2, "ifm_zero; expected -128..127"),
    ("u55", "CONV", {"ofm_bits": 1, "lut_enable": 1}, 2, "a table for int16 results"),
    ("llm", "CONV", {"weight_format": 0}, 2, "weight_format; expected packed (u55), raw8"),
    ("llm", "DEPTHWISE", {"weight_format": 2}, 2, "w4; use raw8"),
    ("llm", "DEPTHWISE", {"ofm_c": 80}, 2, "ofm_c is not ifm_c"),
    ("llm", "MATMUL", {"ifm2_bits": 1}, 2, "an int16 input"),
    ("llm", "ELEMENTWISE", {"o_shift": -32}, 2, "o_shift; expected -31..30"),
    ("llm", "SOFTMAX", {"ofm_bits": 1}, 2, "an int16 result"),
    ("llm", "NORM", {"ofm_c": 4097}, 2, "ofm_c is above 4096"),
    ("u55", "COPY", {"wide": 1, "src": 33}, 2, "addresses of words"),
    ("u55", "COPY", {"src_s0": -(1 << 20)}, 2, "register src_s0"),
    ("u55", "CONV", {"ofm": U55.shared_words - 1, "ofm_sy": 9, "ofm_h": 9}, 7, "ofm takes bytes"),
    ("u55", "COPY", {"src": 0, "src_s0": -1, "n0": 2, "wide": 0}, 7, "src takes bytes -1.."),
    ("llm", "CONV", {"weights": 511, "ofm_c": 64}, 7, "weights take words 511.."),
]


@pytest.mark.parametrize(("profile", "name", "change", "code", "message"), OPERATIONS)
def test_faults_of_operations(profile, name, change, code, message):
    machine = LLM if profile == "llm" else U55
    layer = layers.Layers(machine, 1).layer(name)
    layer.mode = 0 if name == "ELEMENTWISE" else layer.mode
    layer.reg |= change
    got = fault_of(machine, layer.emit)
    assert got[0] == code and message in got[1]


def test_matmul_needs_the_profile():
    layer = layers.Layers(LLM, 1).layer("MATMUL")
    layer.reg["weight_mode"] = 0
    got = fault_of(U55, layer.emit)
    assert got[0] == 2 and "profile u55" in got[1]


@pytest.mark.parametrize("name", layers.KINDS)
def test_overlaps_of_output_and_inputs(name):
    """Onto every range that the operation reads."""
    for what in ("ifm", "ifm2", "scale", "lut", "src"):
        layer = layers.Layers(LLM, 4).layer(name)
        layer.mode = 0
        layer.reg |= {"lut_enable": 1, "scale_mode": 1, "ofm_bits": 0}
        layer.reg |= {"lut": 1000, "scale": 1100}
        reads = {"ifm"} | {"MATMUL": {"ifm2", "scale", "lut"}, "POOL": {"lut"},
            "CONV": {"scale", "lut"}, "DEPTHWISE": {"scale", "lut"}, "SOFTMAX": {"lut"},
            "ELEMENTWISE": {"ifm2"}, "NORM": {"scale"}}.get(name, set())  # fmt: skip
        reads = {"src"} if name == "COPY" else reads
        if what in reads:
            place = 1500 * 32 if name == "COPY" else 1500
            layer.reg |= {what: place, "dst" if name == "COPY" else "ofm": place}
            code, message = fault_of(LLM, layer.emit)
            assert code == 6 and f"{what} " in message


def test_packed_weights_that_are_none_or_leave_the_buffer():
    layer = layers.Layers(U55, 1).layer("CONV")
    code, message = fault_of(U55, layer.emit)  # the buffer holds sevens
    assert code == 7 and "header 07 07 07" in message and "tile 0" in message
    layer.reg["weights"] = U55.weight_words - 1
    golden = NpuGolden(U55)
    golden.weights[-8] = 8
    b = Builder("npu", 4)
    layer.emit(b)
    with pytest.raises(NpuFault, match="ends at byte .* of 8"):
        golden.run(layers.finish(b, U55))


def test_data_without_meaning_are_refused():
    layer = layers.Layers(U55, 1).layer("CONV")
    layer.reg |= {"scale_mode": 1, "scale": 600}
    layer.shared[600 * 32 : 700 * 32] = 0x7F
    with pytest.raises(ProgramError, match="scale record of channel 0 has shift 127; expected -31"):
        run_layer(U55, layer)
    layer = layers.Layers(U55, 1).layer("NORM")
    layer.reg |= {"epsilon": 1, "epsilon_shift": 63}
    with pytest.raises(ProgramError, match="expected 1..2\\^62-1; lower epsilon"):
        run_layer(U55, layer)


def test_images_and_regions_that_do_not_fit():
    with pytest.raises(ProgramError, match="memory image of shape"):
        NpuGolden(U55).run(program(Builder("npu", 8), np.zeros((1, 8), np.uint16)))
    with pytest.raises(ProgramError, match="9 regions; the machine has 8"):
        NpuGolden(U55).run(program(Builder("npu", 4), image(U55, 1), *[(0, 8)] * 9))
    with pytest.raises(ProgramError, match="region 0: its base is 0x100000000; the register takes"):
        NpuGolden(U55).run(program(Builder("npu", 4), image(U55, 1), (1 << 32, 8)))
