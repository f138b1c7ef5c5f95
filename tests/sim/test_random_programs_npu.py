"""Random programs of the npu engine: legal, repeatable, of every kind, with data that matter."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest

from bankside.isa.machines import verify_program
from bankside.isa.npu_commands import OPERATIONS, TO_MEMORY, TO_WEIGHTS, commands
from bankside.isa.npu_weights import PACKED
from bankside.isa.program import Program
from bankside.isa.spec import load_spec
from bankside.sim.agree_npu import UNIT
from bankside.sim.golden.npu import NpuGolden
from bankside.sim.random_npu_free import DATA_BYTES, free_program
from bankside.sim.random_npu_layers import parameters, random_bytes
from bankside.sim.random_programs_npu import FREE, NETWORK, random_programs
from bankside.sim.timing.npu import NpuTiming

SPEC = load_spec("npu")
NAMES = ("npu_u55_32", "npu_u55_256", "npu_llm_32", "npu_llm_128")
MACHINES = {name: next(UNIT.machines(name)) for name in NAMES}


def some(name: str, seed: int, count: int) -> list[tuple[str, Program]]:
    programs = random_programs(np.random.default_rng(seed), MACHINES[name])
    return list(itertools.islice(programs, count))


def free(name: str, seed: int, count: int) -> list[Program]:
    rng = np.random.default_rng(seed)
    return [free_program(rng, MACHINES[name]) for _ in range(count)]


@pytest.mark.parametrize("name", MACHINES)
def test_programs_are_legal(name):
    for _, program in some(name, 11, 20):
        verify_program(program, MACHINES[name])


def test_a_seed_gives_the_same_programs():
    first, again, other = (some("npu_llm_32", seed, 8) for seed in (3, 3, 4))
    assert [p.hash for _, p in first] == [p.hash for _, p in again]
    assert [p.hash for _, p in first] != [p.hash for _, p in other]


# --- what is used at the same time --------------------------------------------------------------


class Used:
    """A command with its time on the machine: shared bytes written and read, weight bytes."""

    def __init__(self, machine, command, macro) -> None:
        self.name, self.begin, self.end = command.name, macro["load"], macro["complete"]
        self.reg, self.writes, self.reads, self.weights = command.reg, [], [], set()
        if command.name == "DMA":
            self._transfer(command)
            return
        self.writes = [(command.writes().first, command.writes().stop)]
        self.reads = [(r.first, r.stop) for r in command.reads()]
        if command.name in ("CONV", "DEPTHWISE"):
            self.weights = {command.reg["weights"] * machine.weight_port_bytes}

    def _transfer(self, command) -> None:
        reg, direction = self.reg, command.fields["direction"]
        rows = [reg["buf"] + i * reg["buf_step"] for i in range(reg["rows"])]
        if direction == TO_WEIGHTS:
            self.weights = {b for at in rows for b in range(at, at + reg["row_bytes"])}
        else:
            pieces = [(at, at + reg["row_bytes"]) for at in rows]
            self.reads, self.writes = ([pieces, []], [[], pieces])[direction != TO_MEMORY]

    def banks(self, machine) -> set[int]:
        size = 32 * machine.shared_words // machine.config.npu.banks
        pieces = self.reads + self.writes
        return {b for first, stop in pieces for b in range(first // size, (stop - 1) // size + 1)}


def used(machine, program: Program) -> list[Used]:
    """Everything that the two engines do, in program order."""
    macros = NpuTiming(machine).run(program, trace=True).macros
    times = [iter(macros[macros["engine"] == engine]) for engine in range(2)]
    return [
        Used(machine, command, next(times[command.name != "DMA"]))
        for command in commands(program, machine)
        if command.name in ("DMA", *OPERATIONS)
    ]


def meet(first: list, second: list) -> bool:
    return any(a < d and c < b for a, b in first for c, d in second)


def clashes(machine, program: Program) -> list[str]:
    """What one engine uses while the other one, or an operation before, still needs it."""
    found, everything = [], used(machine, program)
    for i, later in enumerate(everything):
        for before in everything[:i]:
            if before.end <= later.begin:
                continue
            pair = f"{before.name} {later.name}"
            if (before.name == "DMA") != (later.name == "DMA"):
                if before.banks(machine) & later.banks(machine) or before.weights & later.weights:
                    found.append(pair)
            elif before.name != "DMA" and meet(before.writes, later.reads):
                found.append(pair)
    return found


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_shared_is_used_in_turn(name):
    """Under every memory; engines overlap, chained operations too."""
    overlaps = Counter()
    for machine in UNIT.machines(name):
        for _, program in some(name, 12, 15):
            assert clashes(machine, program) == []
            for a, b in itertools.pairwise(used(machine, program)):
                overlaps[a.name == "DMA", b.name == "DMA"] += a.end > b.begin
    assert overlaps[True, False] > 10 and overlaps[False, True] > 10 and overlaps[False, False] > 10


def test_clashes_without_waits_would_be_found():
    machine, found, lacking = MACHINES["npu_llm_32"], Counter(), 0
    for program in free("npu_llm_32", 13, 40):
        for name in ("DMA_WAIT", "KERNEL_WAIT"):
            words = [SPEC.encode("IRQ", code=0) if SPEC.decode(w).name == name else w
                     for w in program.words]  # fmt: skip
            bad = dataclasses.replace(program, words=tuple(words))
            lacking += bad.words != program.words
            found[name] += bool(clashes(machine, bad))
    assert lacking > 60 and min(found.values()) > 15


def test_what_is_read_has_been_written():
    for name, machine in MACHINES.items():
        for program in free(name, 14, 15):
            shared = np.zeros(32 * machine.shared_words, bool)
            for step in used(machine, program):
                for first, stop in step.reads:
                    assert shared[first:stop].all(), step.name
                for first, stop in step.writes:
                    # An operation leaves gaps: only what was there before stays defined.
                    if step.name == "DMA":
                        shared[first:stop] = True


# --- coverage -----------------------------------------------------------------------------------


def test_every_command_register_and_value_appears():
    names, registers, values, kinds = Counter(), set(), set(), Counter()
    for machine in MACHINES:
        for kind, program in some(machine, 2, 60):
            kinds[kind] += 1
            for ins in program.instructions():
                names[ins.name] += 1
                if ins.name == "SET":
                    registers.add(ins.reg)
                    values.add((ins.reg, ins.value))
                else:
                    values |= {(ins.name, *item) for item in ins.fields.items()}
    assert kinds == {FREE: 160, NETWORK: 80}
    assert set(names) == set(SPEC.commands) and min(names.values()) >= 20
    assert registers == set(SPEC.enums["register"].values())
    operands = [
        (command.name, field.name, value)
        for command in SPEC.commands.values()
        for field in command.fields
        for value in ([v for _, v in field.values] or [0, 1])
        if command.name != "SET" and (field.values or field.width == 1)
    ]
    assert [o for o in operands if o not in values] == []


def test_operations_have_every_mode():
    """Registers in use at an operation, not only sent."""
    seen = Counter()
    flags = ("weight_format", "weight_mode", "scale_mode", "rounding", "ofm_bits", "lut_enable",
             "depend", "ifm_bits", "ifm2_bits", "ifm2_broadcast", "wide")  # fmt: skip
    for name, machine in MACHINES.items():
        for program in free(name, 5, 60):
            for command in commands(program, machine):
                if command.name in OPERATIONS:
                    used_here = set(command.used()) & set(flags)
                    seen.update((command.name, f, command.reg[f]) for f in used_here)
    enums = {"weight_format": 3, "weight_mode": 2, "scale_mode": 3, "rounding": 4, "lut_enable": 2,
             "depend": 2, "ofm_bits": 2}  # fmt: skip
    assert [(f, v) for f, n in enums.items() for v in range(n) if not seen["CONV", f, v]] == []
    assert [m for m in range(8) if not seen["ELEMENTWISE", "ifm2_broadcast", m]] == []
    for name in ("ELEMENTWISE", "NORM"):
        for f in ("ifm_bits", "ofm_bits"):
            assert seen[name, f, 0] and seen[name, f, 1]
    assert all(seen["DEPTHWISE", "weight_format", f] for f in (0, 1))
    assert all(seen["MATMUL", "weight_mode", m] for m in (0, 1))
    assert all(seen["COPY", "wide", w] for w in (0, 1))


def test_programs_wait_for_everything_there_is():
    totals = Counter()
    for name in NAMES:
        for machine in UNIT.machines(name):
            for _, program in some(name, 6, 10):
                totals.update(NpuTiming(machine).run(program).counters)
    assert [reason for reason in SPEC.stalls if not totals[reason]] == []


def test_packed_tiles_have_all_widths_and_masks():
    widths, masks = set(), set()
    for program in free("npu_u55_256", 7, 60):
        machine, weights = MACHINES["npu_u55_256"], np.zeros(32768, np.uint8)
        memory = program.host_in.astype("<u2").view(np.uint8).reshape(-1)
        for command in commands(program, machine):
            reg = command.reg
            if command.name == "DMA" and command.fields["direction"] == TO_WEIGHTS:
                base = program.regions[reg["region"]][0] + reg["offset"]
                for i in range(reg["rows"]):
                    at, to = base + i * reg["row_step"], reg["buf"] + i * reg["buf_step"]
                    weights[to : to + reg["row_bytes"]] = memory[at : at + reg["row_bytes"]]
            elif command.name in ("CONV", "DEPTHWISE"):
                assert reg["weight_format"] == PACKED
                data, at = weights[reg["weights"] * 8 :], 0
                for words in command.weights.tile_words(data):
                    widths.add(int(data[at]))
                    masks.add(int(data[at + 2]))
                    at += 8 * words
    assert widths == set(range(9)) and masks == {0, 1}


@pytest.mark.parametrize("name", NAMES)
def test_bits_come_from_the_inputs(name):
    """Other activations, other results, in nearly all programs."""
    machine, same = MACHINES[name], 0
    for program in free(name, 8, 15):
        image, rng = program.host_in.copy(), np.random.default_rng(1)
        window = slice(0, 512 // machine.burst_elements)
        image[window] = rng.permuted(image[window])
        other = dataclasses.replace(program, host_in=image)
        first = DATA_BYTES // machine.bus_bytes
        results = [NpuGolden(machine).run(p).outputs[first:] for p in (program, other)]
        same += np.array_equal(*results)
    assert same <= 2


def test_activations_meet_extremes_and_parameters_are_of_their_kind():
    rng = np.random.default_rng(1)
    drawn = [random_bytes(rng, 64) for _ in range(40)]
    assert any(set(d) <= {0, 127, 128, 255} for d in drawn)
    assert any(len(set(d.tolist())) > 40 for d in drawn)
    data = parameters(rng)
    records = data[8 * 32 + 1024 :][: 64 * 16].reshape(64, 16)
    assert not records[:, 9:].any()
    assert (np.abs(records[:, 8].view(np.int8).astype(int)) <= 31).all()
    table = data[256 : 256 + 1024].view("<i4")
    assert table[0] == 2**31 - 1 and (np.diff(table) <= 0).all()
