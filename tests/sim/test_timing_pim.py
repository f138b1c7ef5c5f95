"""The event-driven timing model against the machine written down cycle by cycle."""

from __future__ import annotations

import dataclasses
import importlib.util
import random
import sys
from pathlib import Path

import pytest

from bankside.errors import ProgramError, SpecError
from bankside.isa.program import Builder
from bankside.isa.spec import load_spec
from bankside.sim import full_machine
from bankside.sim.timing import skip
from bankside.sim.timing.constraints import Table
from bankside.sim.timing.pim import PimTiming
from bankside.sim.timing.stalls import STALLS


def _sibling(name: str):
    """A module of this folder (tests are not a package)."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


programs = _sibling("timing_programs")
reference = _sibling("reference_pim_timing")


def compare(machine, program, note: str = "") -> int:
    """Commands, macro-commands, counters and cycles of model and reference; returns the cycles."""
    expected = reference.Reference(machine, program).run()
    result = PimTiming(machine).run(program, trace=True)
    assert [tuple(c) for c in result.commands.tolist()] == expected.commands, note
    assert [tuple(m) for m in result.macros.tolist()] == expected.macros, note
    assert result.cycles == expected.cycles, note
    assert result.counters == expected.counters, note
    assert sum(result.counters.values()) == result.cycles, note
    return result.cycles


@pytest.mark.parametrize("seed", range(40))
def test_random_programs_agree_with_the_cycle_by_cycle_machine(seed):
    rng = random.Random(seed)
    machine = programs.random_machine(rng)
    program = programs.RandomProgram(machine, rng, 24).build()
    compare(machine, program, f"seed {seed}, {machine.std.name}")


@pytest.mark.parametrize("standard", ["ddr4_3200", "ddr5_4800"])
def test_attention_agrees_with_the_cycle_by_cycle_machine(standard):
    """The software-pipelined kernel, with a refresh inside."""
    machine = programs.machine(standard, params={"nREFI": 6000})
    assert compare(machine, programs.attention(machine, 4, lanes=2)) > 6000


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("burst", ["RDRB", "WRSB"])
def test_a_due_refresh_holds_the_bursts_back(burst, explicit):
    """REF follows the last burst after their constraint; bursts and activation resume nRFC later.

    The refresh is due, or the command REF loaded, in the middle of a stream of bursts.
    """
    machine = programs.machine(params={"nREFI": 1500}, refresh=not explicit)
    std = machine.std
    b = Builder("pim", machine.burst_elements)
    b.GEOM(cpt=4, lanes=8)
    b.SFM(groups=3, valid=1, signal="array")
    if burst == "RDRB":
        b.RDRBC(count=4)
    else:
        b.WRSBP(groups=30)
    if explicit:
        b.REF(wait="rank")
        b.OPEN(mode="bank", bank=3)
    else:
        b.OPEN(mode="bank", bank=3, wait="rank")
    b.CLOSE(mode="all")
    program = b.build()
    compare(machine, program)
    commands = PimTiming(machine).run(program, trace=True).commands
    bursts = commands["cycle"][commands["code"] == std.code(burst)]
    (refresh,) = commands["cycle"][commands["code"] == std.code("REF")]
    before, after = bursts[bursts < refresh], bursts[bursts > refresh]
    assert len(before) > 20 and len(after) > 20, "the refresh is in the middle of the stream"
    latency = machine.read_latency if burst == "RDRB" else machine.write_latency
    assert refresh == before[-1] + latency
    assert after[0] == refresh + std.params["nRFC"]
    same_with_and_without_skipping(machine, program)


def test_a_refresh_does_not_issue_before_it_is_due():
    """The activation waits on tFAW across the due cycle, the refresh behind it for nothing."""
    machine = programs.machine(params={"nREFI": 1000, "nFAW": 1500})
    b = Builder("pim", machine.burst_elements)
    for _ in range(2):
        for bank in range(4):
            b.OPEN(mode="bank", bank=bank)
        b.CLOSE(mode="all")
    program = b.build()
    compare(machine, program)
    commands = PimTiming(machine).run(program, trace=True).commands
    refreshes = commands["cycle"][commands["code"] == machine.std.code("REF")]
    assert refreshes.tolist()[0] == 1000


def test_refreshes_of_the_attention_kernel_cost_little():
    """About nRFC of every nREFI; a refresh that let the bursts go first would cost twice that."""
    base, without = (full_machine.measure("opt_66b", 131072, v) for v in ("base", "no_refresh"))
    machine = full_machine.machine(1, full_machine.VARIANTS.get("base"))
    share = machine.std.params["nRFC"] / machine.refresh_interval
    assert 0.8 * share < 1 - without.kernel_cycles / base.kernel_cycles < 1.2 * share


def test_the_comparison_notices_one_cycle():
    """One more cycle of tRCD, or a shorter queue, must not go unnoticed."""
    program = programs.attention(programs.machine(), 3)
    expected = reference.Reference(programs.machine(), program).run()
    slower = PimTiming(programs.machine(params={"nRCD": 23})).run(program, trace=True)
    assert [tuple(c) for c in slower.commands.tolist()] != expected.commands
    blocked = _program(*[("REF", {})] * 4, ("SFM", {"groups": 63, "valid": 1}))
    deep, shallow = (PimTiming(programs.machine(depth=d)).run(blocked) for d in (4, 1))
    assert shallow.cycles > deep.cycles


def same_with_and_without_skipping(machine, program, note: str = ""):
    """Cycles and counters of skipping, of skipping with a warm memo, and of every command
    simulated.
    """
    plain = PimTiming(machine, skipping=False).run(program)
    model = PimTiming(machine)
    for attempt in ("cold", "warm"):
        fast = model.run(program)
        assert (fast.cycles, fast.counters) == (plain.cycles, plain.counters), f"{note} {attempt}"
    return model, plain


def longer_loops(program, rng):
    """The program with other loop counts: what skipping sees is a known body."""
    words = []
    for word in program.words:
        if program.spec.decode(word).name == "LOOP" and rng.random() < 0.6:
            word = program.spec.encode("LOOP", count=rng.choice([7, 30, 60]))
        words.append(word)
    return dataclasses.replace(program, words=tuple(words))


@pytest.mark.parametrize("seed", range(60))
def test_skipping_changes_nothing(seed):
    rng = random.Random(1000 + seed)
    machine = programs.random_machine(rng)
    program = programs.RandomProgram(machine, rng, rng.choice([8, 16, 30])).build()
    same_with_and_without_skipping(machine, program, f"seed {seed}")
    same_with_and_without_skipping(machine, longer_loops(program, rng), f"seed {seed}, longer")


@pytest.mark.parametrize("refresh", [True, False])
@pytest.mark.parametrize("standard", ["ddr4_3200", "ddr5_4800"])
def test_long_attention_is_skipped_exactly(standard, refresh):
    machine = programs.machine(standard, refresh=refresh)
    model, plain = same_with_and_without_skipping(
        machine, programs.attention(machine, 120, lanes=2)
    )
    assert plain.cycles > 20 * machine.refresh_interval
    (memo,) = model.memos()
    assert len(memo.states) < 60, "the kernel reaches a steady state"
    # Another context length is the same body: nothing of it is simulated again.
    before = memo.size
    longer = model.run(programs.attention(machine, 4000, lanes=2))
    assert longer.cycles > 30 * plain.cycles and memo.size < 3 * before + 40


def test_nested_loops_are_skipped_exactly():
    machine = programs.machine(params={"nREFI": 5000})
    b = Builder("pim", machine.burst_elements)
    b.LOOP(count=30)
    b.HWR(count=3, signal="array")
    b.LOOP(count=20)
    b.OPEN(mode="staggered", areg=1, areg_en=1)
    b.MAC(count=50)
    b.CLOSE(mode="all")
    b.ENDLOOP()
    b.WRR(cpt=1, wait="host")
    b.ENDLOOP()
    same_with_and_without_skipping(machine, b.build())


def test_memo_is_bounded(monkeypatch):
    """A loop whose states do not repeat soon gives up remembering, not correctness."""
    monkeypatch.setattr(skip, "MAX_STATES", 3)
    machine = programs.machine(params={"nREFI": 3001})
    program = programs.attention(machine, 60)
    same_with_and_without_skipping(machine, program)


def test_registers_and_rows_in_the_trace():
    machine = programs.machine(refresh=False)
    b = Builder("pim", machine.burst_elements)
    b.SETA(areg=2, value=(1 << 20) - 1)
    b.LOOP(count=3)
    b.OPEN(mode="bank", bank=6, row=10, areg=2, areg_en=1)
    b.CLOSE(mode="all")
    b.ADDA(areg=2, value=3)
    b.ENDLOOP()
    result = PimTiming(machine).run(b.build(), trace=True)
    activations = result.commands[result.commands["code"] == machine.std.code("ACT")]
    assert activations["row"].tolist() == [9, 12, 15]
    assert activations["bank"].tolist() == [6, 6, 6]


def test_empty_program_ends_in_its_first_cycle():
    machine = programs.machine()
    result = PimTiming(machine).run(Builder("pim", machine.burst_elements).build())
    assert result.cycles == 1
    assert result.counters == dict.fromkeys(STALLS, 0) | {"control": 1}


def _program(*commands: tuple[str, dict]):
    b = Builder("pim", 32)
    for name, operands in commands:
        b.emit(name, **operands)
    return b.build()


@pytest.mark.parametrize(("commands", "message"), [
    ([("WRR", {"cpt": 1, "wait": "rank"})], "deadlock .* WRR"),
    ([("HWR", {"count": 1, "signal": "rank"})] * 16, "more than 15 tokens"),
    ([("ENDLOOP", {})], "ENDLOOP without LOOP"),
    ([("LOOP", {"count": 2})] * 3, "nested deeper"),
])  # fmt: skip
def test_illegal_programs_are_refused(commands, message):
    for skipping in (True, False):
        with pytest.raises(ProgramError, match=message):
            PimTiming(programs.machine(), skipping=skipping).run(_program(*commands))


def test_a_program_without_halt_is_refused():
    program = _program(("WRR", {"cpt": 1}))
    with pytest.raises(ProgramError, match="end it with HALT"):
        PimTiming(programs.machine()).run(dataclasses.replace(program, words=program.words[:-1]))


def test_stall_names_are_those_of_the_specification():
    assert load_spec("pim").stalls == STALLS


def test_a_window_below_the_rank_is_refused():
    std = programs.machine().std
    row = next(r for r in std.constraints if r.window > 1)
    rows = tuple(dataclasses.replace(r, level="bank") if r is row else r for r in std.constraints)
    with pytest.raises(SpecError, match="windows per rank"):
        Table(dataclasses.replace(std, constraints=rows))
