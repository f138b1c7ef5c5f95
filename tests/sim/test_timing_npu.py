"""The timing model of the npu engine against the machine written down cycle by cycle."""

import importlib.util
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bankside.config import HardwareConfig
from bankside.config_npu import NpuMemoryConfig
from bankside.errors import ProgramError
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.npu_weights import PACKED, WeightLayout
from bankside.isa.program import Program
from bankside.isa.spec import load_spec
from bankside.sim.timing.npu import NpuTiming, Spans
from bankside.sim.timing.npu_dma import ReadChannel, xorshift32


def _sibling(name: str):
    """A module of this folder (tests are not a package)."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


programs = _sibling("npu_timing_programs")
reference = _sibling("reference_npu_timing")
Reference, facts = reference.Reference, reference.facts
SPEC = load_spec("npu")
U55 = NpuMachine.of(HardwareConfig.load("npu_u55_32"))
LLM = NpuMachine.of(HardwareConfig.load("npu_llm_256"))


def modelled(machine: NpuMachine, program: Program) -> tuple:
    """Facts of the timing model, after a look at its slow way to the same result."""
    traced = NpuTiming(machine).run(program, trace=True)
    plain = NpuTiming(machine, skipping=False).run(program)
    assert (plain.cycles, plain.counters) == (traced.cycles, traced.counters)
    assert not len(plain.macros) and not len(traced.commands)
    return traced.cycles, traced.counters, traced.macros.tolist()


def drawn(seed: int, length: int = 8) -> tuple[NpuMachine, Program]:
    rng = np.random.default_rng(seed)
    machine = programs.random_machine(rng)
    return machine, programs.random_program(rng, machine, length)


@pytest.mark.parametrize("block", range(4))
def test_random_programs_agree_with_the_cycle_by_cycle_machine(block):
    for seed in range(40 * block, 40 * block + 40):
        machine, program = drawn(seed, 4 + seed % 14)
        assert modelled(machine, program) == facts(machine, program), f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_many_random_programs_agree(block):
    for seed in range(1000 + 300 * block, 1300 + 300 * block):
        machine, program = drawn(seed, 4 + seed % 17)
        assert modelled(machine, program) == facts(machine, program), f"seed {seed}"


def test_random_programs_meet_every_reason_and_command():
    counted, met = dict.fromkeys(SPEC.stalls, 0), set()
    for seed in range(80):
        machine, program = drawn(seed)
        met |= {ins.name for ins in program.instructions()}
        for reason, cycles in NpuTiming(machine).run(program).counters.items():
            counted[reason] += cycles
    assert [reason for reason, cycles in counted.items() if not cycles] == []
    assert met == set(SPEC.commands)


# --- known-bad twins ----------------------------------------------------------------------------


def twin(**constants: int) -> type:
    """The reference with another latency or size."""
    return type("+".join(constants), (Reference,), constants)


class OneBurstMore(Reference):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.outstanding += 1


class OneMoreQueued(Reference):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.depth += 1


class SameNumbers(Reference):
    """Both ports draw the same latencies."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.m1.x = self.m0.x


class EagerTransfers(Reference):
    """The next transfer begins in the cycle in which the one before is complete."""

    def transfer_begins(self):
        self.dma_free -= 1
        return super().transfer_begins()


class ForgottenPage(Reference):
    def bursts_of(self, command):
        return super().bursts_of({**command, "offset": 0, "row_step": 0})


class NoDependency(Reference):
    """Every operation waits until the one before is complete."""

    def may_start(self, operation):
        return not self.started


class OneAccumulatorBuffer(Reference):
    def accumulators_free(self, o):
        first = o["j"] == 0 or o["steps"][o["j"] - 1]["last"]
        old = o["steps"][o["j"]]["unit"] - 1
        return not first or old < 0 or (old in self.a_end and self.a_end[old] + 1 <= self.c)


class UnitsPerOperation(Reference):
    """Every operation finds free accumulators."""

    def prepare(self, o):
        self.a_end |= {self.units_before: 0, self.units_before + 1: 0}
        self.units_before += 2
        super().prepare(o)


class OneStagingBuffer(Reference):
    def before(self, ends, j):
        return super().before(ends, j + 1 if ends is self.started[-1]["m_end"] else j)


class FullGroups(Reference):
    """Channels that do not exist take time as well."""

    def unit_steps(self, o, u):
        return super().unit_steps({**o, "ifm_c": -(-o["ifm_c"] // 32) * 32}, u)


class MaskUncounted(Reference):
    def tile_bytes(self, at, weights):
        return super().tile_bytes(at, weights) - 8 * (self.weights[at + 2] & 1)


class ImmediatePmu(Reference):
    """PMU takes effect in its own cycle."""

    def count(self, reason):
        ins = self.code[self.pc] if self.available else None
        before = self.measuring
        if ins is not None and ins.name == "PMU":
            self.measuring = bool(ins.enable)
        super().count(reason)
        self.measuring = before


TWINS = (
    twin(setup=5), twin(mac_latency=7), twin(output_latency=7), twin(vector_latency=9),
    twin(first_record=0), twin(table=7), twin(fifo_words=65), twin(burst_words=15), OneBurstMore,
    OneMoreQueued, SameNumbers, EagerTransfers, ForgottenPage, NoDependency, OneAccumulatorBuffer,
    UnitsPerOperation, OneStagingBuffer, FullGroups, MaskUncounted, ImmediatePmu,
)  # fmt: skip


@pytest.mark.parametrize("wrong", TWINS, ids=lambda t: t.__name__)
def test_a_wrong_machine_would_be_noticed(wrong):
    """Each differs from the page in one place; some of the programs above show it."""
    for seed in range(160):
        machine, program = drawn(seed, 4 + seed % 14)
        if modelled(machine, program) != facts(machine, program, wrong):
            return
    pytest.fail("no program shows the difference")


# --- directed -----------------------------------------------------------------------------------


def build(*commands: tuple, image=None, regions=(), machine: NpuMachine = LLM) -> Program:
    """A program of (name, operands) or dictionaries of registers; STOP is added."""
    words = []
    for command in (*commands, ("STOP", {})):
        if isinstance(command, dict):
            words += [SPEC.encode("SET", reg=r, value=v) for r, v in command.items()]
        else:
            words.append(SPEC.encode(command[0], **command[1]))
    if image is None:
        image = np.zeros((4, machine.burst_elements), np.uint16)
    return Program("npu", tuple(words), image, regions=regions)


CONV = {"ifm_c": 32, "ofm_h": 1, "ofm_w": 4, "ofm_c": 8, "kernel_h": 1, "kernel_w": 1, "block": 4}


def test_a_program_of_stop_alone():
    """Its burst is asked for in cycle 0 and comes after the latency; STOP is executed then."""
    result = NpuTiming(LLM).run(build(), trace=True)
    latency = LLM.config.memory.read_latency_cycles
    assert result.cycles == latency + 2
    assert result.counters["fetch"] == latency + 1 and result.counters["control"] == 1
    assert result.clock_domain == "npu" and result.outputs is None
    assert not len(result.commands) and not len(result.macros)


def test_a_small_convolution_cycle_by_cycle():
    """One tile of 256 bytes (one word), 4 positions: a microblock of 4 cycles."""
    program = build(CONV | {"weight_format": 1, "scale_mode": 1}, ("CONV", {}))
    result = NpuTiming(LLM).run(program, trace=True)
    dispatch = LLM.config.memory.read_latency_cycles + 1 + 9
    start, t0 = dispatch + 1, dispatch + 5
    m_end = t0 + 1 + 1 + 4  # tile, one cycle, step
    a_end = m_end + 6 + 4 + 4 * 2  # latency, 4 records, 4 positions of 8 channels at 4 per cycle
    assert result.macros.tolist() == [(1, 0x20, start, m_end, a_end + 8)]
    assert result.cycles == a_end + 8 + 1
    counters = {k: v for k, v in result.counters.items() if v and k not in ("fetch", "control")}
    assert counters == {"setup": 4, "weights": 2, "mac": 4, "output": a_end + 8 - m_end}
    assert sum(result.counters.values()) == result.cycles


def test_a_transfer_takes_latency_and_beats():
    """Two bursts, since a row crosses a page; then the operation's completion is one cycle late."""
    rows = {"offset": 4096 - 128, "rows": 1, "row_bytes": 512}
    program = build(rows, ("DMA", {}), regions=((0, 8192),))
    result = NpuTiming(LLM).run(program, trace=True)
    latency = LLM.config.memory.read_latency_cycles
    first = latency + 1 + 3 + 1
    last_beat = first + latency + 1 + 2  # the second burst's address is one cycle later
    assert result.macros.tolist() == [(0, 0x10, first, first + 1, last_beat + 1)]
    assert result.cycles == last_beat + 2
    assert result.counters["dma"] == last_beat - first + 1


def test_weights_arrive_through_the_decoder():
    """M = 1 on the narrow profile: 8 weights per cycle on every machine."""
    rates = {}
    for macs in (32, 128, 256):
        machine = NpuMachine.of(HardwareConfig.load(f"npu_u55_{macs}"))
        layer = CONV | {"ifm_c": 768, "ofm_w": 1, "ofm_c": 384, "block": 1}
        result = NpuTiming(machine).run(build(layer, ("CONV", {}), machine=machine))
        rates[macs] = 768 * 384 / result.cycles
    assert max(rates.values()) < 8 and min(rates.values()) > 7.2


def test_tiles_are_found_through_the_transfers_that_bring_them():
    """Packed tiles in three rows, into a place in the buffer; a later program still finds them."""
    rng = np.random.default_rng(3)
    weights = rng.integers(-4, 5, (9, 3, 1, 40)) * rng.integers(0, 2, (9, 3, 1, 40))
    layout = WeightLayout(PACKED, U55.channels, 8, 9, (3, 1), 40)
    data = layout.encode(weights.astype(np.int8))
    size = -(-len(data) // 24) * 8
    image = np.zeros(3 * 2 * size, np.uint8)
    padded = np.frombuffer(data.ljust(3 * size, b"\0"), np.uint8).reshape(3, size)
    image.reshape(3, 2, size)[:, 0] = padded
    image = image.view("<u2").reshape(-1, 4).astype(np.uint16)
    load = {"rows": 3, "row_bytes": size, "row_step": 2 * size, "buf": 64, "buf_step": size}
    layer = CONV | {"ifm_c": 40, "ofm_c": 9, "kernel_h": 3, "ofm_w": 2, "weights": 8}
    both = build(
        load, ("DMA", {"direction": 1}), ("DMA_WAIT", {}), layer, ("CONV", {}),
        image=image, regions=((0, 6 * size),), machine=U55,
    )  # fmt: skip
    alone = build(layer, ("CONV", {}), machine=U55)
    timing = NpuTiming(U55)
    first, second = timing.run(both, trace=True), timing.run(alone, trace=True)
    spans = [int(m["complete"] - m["load"]) for m in (first.macros[1], second.macros[0])]
    held = bytearray(64) + bytearray(data.ljust(U55.config.npu.weight_bytes - 64, b"\0"))
    want = facts(U55, alone, weights=held)[2][0]
    assert spans == [want[4] - want[2]] * 2
    timing.reset()
    assert timing.run(alone, trace=True).macros["complete"][0] < second.macros["complete"][0]


def test_long_layers_are_quick_and_equal_to_every_step():
    """3x3 over 56 x 56 x 64 -> 64: 7,056 steps per 49 blocks of 64 positions."""
    layer = CONV | {"ifm_c": 64, "ofm_h": 56, "ofm_w": 56, "ofm_c": 64, "kernel_h": 3,
                    "kernel_w": 3, "block": 64, "weight_format": 1, "scale_mode": 1}  # fmt: skip
    program = build(layer, ("CONV", {}))
    begun = time.perf_counter()
    quick = NpuTiming(LLM).run(program)
    assert time.perf_counter() - begun < 0.5
    slow = NpuTiming(LLM, skipping=False).run(program)
    assert (quick.cycles, quick.counters) == (slow.cycles, slow.counters)
    macs = 56 * 56 * 64 * 64 * 9
    assert 0.99 < macs / 256 / quick.cycles < 1


def test_a_bracket_around_an_operation_counts_it_alone():
    layer = CONV | {"weight_format": 1}
    program = build(
        ("PMU", {"enable": 0}), layer, ("CONV", {}), ("KERNEL_WAIT", {}), ("PMU", {"enable": 1}),
        ("CONV", {}), ("KERNEL_WAIT", {}), ("PMU", {"enable": 0}), ("CONV", {}),
    )  # fmt: skip
    result = NpuTiming(LLM).run(program, trace=True)
    one = result.macros[1]
    busy = {r: result.counters[r] for r in ("setup", "weights", "mac", "output")}
    assert sum(busy.values()) == one["complete"] - one["load"] and busy["mac"] == 4
    assert result.counters["control"] == 4  # CONV, KERNEL_WAIT and its own PMU, and one beside it


def test_programs_without_an_end_and_impossible_operands_are_refused():
    endless = build()
    endless = Program("npu", (SPEC.encode("IRQ", code=1),), endless.host_in)
    with pytest.raises(ProgramError, match="command 1: the program runs past its end; end it with"):
        NpuTiming(LLM).run(endless)
    with pytest.raises(ProgramError, match="command 0 CONV: register ofm_h is 0; SET it"):
        NpuTiming(LLM).run(build(("CONV", {})))
    with pytest.raises(ProgramError, match="command 2 DMA: region 0, but the program has 0"):
        NpuTiming(LLM).run(build({"rows": 1, "row_bytes": 128}, ("DMA", {})))
    with pytest.raises(ProgramError, match="region 0: its base is 0x100000000; the register takes"):
        NpuTiming(LLM).run(build(regions=((1 << 32, 128),)))


def test_packed_weights_that_the_program_has_written_are_refused():
    """Bits that only an execution with data knows."""
    rows = {"rows": 1, "row_bytes": 64}
    back = build(
        rows, ("DMA", {"direction": 2}), ("DMA_WAIT", {}), ("DMA", {"direction": 1}),
        ("DMA_WAIT", {}), CONV, ("CONV", {}), image=np.zeros((64, 4), np.uint16),
        regions=((0, 512),), machine=U55,
    )  # fmt: skip
    with pytest.raises(ProgramError, match="CONV: its packed weights come from memory that"):
        NpuTiming(U55).run(back)


def test_jitter_is_the_sequence_of_the_page():
    assert [next(numbers) for numbers in [xorshift32(1)] * 3] == [270369, 67634689, 2647435461]
    memory = NpuMemoryConfig(read_latency_cycles=10, jitter_cycles=6, seed=1, beat_cycles=2)
    channel = ReadChannel(memory, 1)
    late = [270369 % 7, 67634689 % 7]
    first = channel.burst(0, 3)
    assert first == (10 + late[0], 14 + late[0])
    assert channel.burst(1, 1)[0] == max(11 + late[1], first[1] + 2)


def test_spans():
    spans = Spans([(2, 5), (7, 7), (8, 10)])
    assert spans.below(np.array([0, 2, 4, 5, 7, 9, 99])).tolist() == [0, 0, 2, 3, 3, 4, 5]
    assert spans.within([(0, 3), (9, 4), (4, 9)]) == 1 + 2
    assert spans.without(Spans([(0, 3), (3, 4), (9, 20)])).spans.tolist() == [[4, 5], [8, 9]]
    assert spans.contains(2, 5) and not spans.contains(2, 6)
    assert Spans([]).within([(0, 5)]) == 0
