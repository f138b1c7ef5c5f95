"""Modulo schedules: optimal, legal, deterministic; the paper's interval from its operations."""

import json
import random
from fractions import Fraction
from itertools import product

import pytest

from bankside.errors import ConfigError
from bankside.isa.array_schedule import Distance, check, distances
from bankside.isa.machines import load_machine
from bankside.mapping import schedule_modulo
from bankside.mapping.binding.loader import binding_names, load_binding
from bankside.mapping.schedule_cli import gantt
from bankside.mapping.schedule_einsums import einsum_cycles, schedule_einsums
from bankside.mapping.schedule_modulo import (
    Problem,
    Solution,
    modulo_schedule,
    problem_of,
    recurrence_bound,
    resource_bound,
    solve,
)

MACHINES = ("array_4x4", "array_6x10", "array_8x8_deep", "array_16x16", "array_32x32")
ONE_PASS = {"qk": 64, "lm": 1, "exp": 7, "sld": 1, "slnv": 64, "rcp": 1, "av": 64}


def obeys(problem: Problem, solution: Solution) -> bool:
    """Whether a solution keeps all rules, written without the solver."""
    begin, length, ii = dict(solution.begins), dict(problem.lengths), solution.ii
    slots = [
        {(begin[op] + i) % ii for i in range(length[op])} for unit in problem.units for op in unit
    ]
    apart = sum(map(len, slots)) == sum(length[op] for unit in problem.units for op in unit)
    for unit in problem.units:
        used = [(begin[op] + i) % ii for op in unit for i in range(length[op])]
        apart &= len(set(used)) == len(used)
    inside = all(begin[op] % ii + n <= ii for op, n in problem.lengths)
    kept = all(begin[r.second] + r.later * ii - begin[r.first] >= r.slots for r in problem.rules)
    return apart and inside and kept


def smallest(problem: Problem, limit: int) -> int | None:
    """Smallest ii by trying every slot and stage of every block."""
    for ii in range(1, limit):
        places = [range(4 * ii) for _ in problem.lengths]
        for begins in product(*places):
            named = tuple(zip((op for op, _ in problem.lengths), begins, strict=True))
            if obeys(problem, Solution(ii, named, 0, 0, True, True)):
                return ii
    return None


@pytest.mark.parametrize("seed", range(12))
def test_the_interval_is_the_smallest(seed: int) -> None:
    """Against exhaustive search on small random problems with cycles of distances."""
    rng = random.Random(seed)
    lengths = tuple((op, rng.randint(1, 2)) for op in "abc")
    rules = [Distance(a, b, rng.randint(1, 3)) for a, b in ("ab", "bc") if rng.random() < 0.8]
    if rng.random() < 0.7:
        rules.append(Distance("c", "a", rng.randint(-1, 3), rng.randint(1, 2)))
    problem = Problem(lengths, tuple(rules), (("a", "b"), ("b", "c")), (), 40)
    solution = solve(problem)
    assert obeys(problem, solution) and solution.ii_proven
    assert solution.ii == smallest(problem, 16)
    assert solution.bound <= solution.ii


@pytest.mark.parametrize("binding", binding_names())
@pytest.mark.parametrize("name", MACHINES)
def test_bindings_on_presets(name: str, binding: str) -> None:
    machine = load_machine(name)
    for kernel in load_binding(binding).kernels:
        for e, f in ((64, 64), (16, 40), (33, 7)):
            schedule, solution = kernel.schedule(machine, e, f)
            check(schedule, machine)
            assert solution.status == "optimal"
            assert solution.bound <= solution.ii == schedule.ii
            if not kernel.overlap:
                assert {b.stage for b in schedule.blocks if not b.on_lanes} == {0}


def test_fusemax_interval() -> None:
    """E + 1 + 7 + 1 + F slots per tile: the 2D array never waits, for any latency of 16 x 16."""
    _, solution = modulo_schedule(ONE_PASS, load_machine("array_16x16"))
    assert (solution.ii, solution.resource_bound, solution.status) == (137, 137, "optimal")


def test_without_interleaving() -> None:
    """One tile at a time: the way of the maximum up and down the column is idle time."""
    machine = load_machine("array_16x16")
    _, solution = modulo_schedule(ONE_PASS, machine, one_at_a_time=True)
    # qk, then the maximum, exp and slnv one after the other; the division needs one slot more.
    assert solution.recurrence_bound == 64 + machine.maximum_latency + 7 + 64
    assert solution.ii == 64 + machine.maximum_latency + 7 + 1 + 64 and solution.ii_proven


def test_score_registers_limit_the_interval() -> None:
    """At 256 x 256 two score registers are too few: the maximum takes 515 slots."""
    base = load_machine("array_16x16").config
    found = {}
    for tags in (2, 3, 5, 8):
        array = base.array.model_copy(update={"rows": 256, "columns": 256, "score_registers": tags})
        machine = type(load_machine("array_16x16")).of(base.model_copy(update={"array": array}))
        problem = problem_of(ONE_PASS, machine)
        found[tags] = recurrence_bound(problem)
        assert solve(problem).ii >= max(found[tags], 137)
    assert found[2] == 325 == -(-(64 + 515 + 7 + 64) // 2)
    assert solve(problem_of(ONE_PASS, machine)).ii == 137


@pytest.mark.parametrize(
    ("e", "f", "keys"),
    [(64, 64, 1 << n) for n in range(10, 21, 2)] + [(128, 128, 8192), (128, 128, 1 << 20)],
)
def test_operations_of_the_paper(e: int, f: int, keys: int) -> None:
    """FuseMax's closed form is the optimum of its own operation counts, to the last fraction."""
    tiles = keys // 256
    paper = max(Fraction(e + 1), 1 + f + Fraction(f, tiles)) + 1 + 8 + f
    found = schedule_einsums(load_binding("interleaved"), e, f, tiles)
    assert found.ii == paper and found.solution.status == "optimal"


def test_operation_counts_of_the_paper() -> None:
    """Cycles per tile of each Einsum, derived from the cascade. Ref: arXiv 2406.10491."""
    counts = einsum_cycles(load_binding("interleaved"), 64, 64, 16)
    assert counts == {
        "QK": 64, "LM": 1, "SLN": 7, "SLD": 1, "SLNV": 64,
        "RM": 1, "PRM": 7, "SPD": 1, "RD": 1, "SPNV": 64, "RNV": 64, "AV": 4,
    }  # fmt: skip


def test_no_schedule() -> None:
    with pytest.raises(ConfigError, match="no schedule for the blocks qk 3000, slnv 3000 with up"):
        modulo_schedule({"qk": 3000, "slnv": 3000}, load_machine("array_4x4"))
    endless = Problem((("a", 1),), (Distance("a", "a", 1, 0),), (("a",),), (), 50)
    with pytest.raises(ConfigError, match="no schedule for the blocks a 1 with up to 50 slots"):
        solve(endless)


def test_deterministic() -> None:
    problem = problem_of(ONE_PASS, load_machine("array_6x10"))
    assert solve(problem) == solve(problem)


def test_kept_in_the_cache(tmp_path, monkeypatch) -> None:
    """A schedule is solved once per content, across processes."""
    monkeypatch.setenv("BANKSIDE_BUILD", str(tmp_path))
    schedule_modulo.solve_cached.cache_clear()
    first = modulo_schedule({"qk": 9, "drain": 4}, load_machine("array_4x4"))
    schedule_modulo.solve_cached.cache_clear()
    monkeypatch.setattr(schedule_modulo, "solve", lambda problem: pytest.fail("solved again"))
    assert modulo_schedule({"qk": 9, "drain": 4}, load_machine("array_4x4")) == first
    schedule_modulo.solve_cached.cache_clear()


def test_bounds() -> None:
    rules = (Distance("a", "b", 7), Distance("b", "a", 4, 2))
    problem = Problem((("a", 3), ("b", 4)), rules, (("a", "b"),))
    assert (resource_bound(problem), recurrence_bound(problem)) == (7, 6)


def test_rules_do_not_mention_absent_blocks() -> None:
    machine = load_machine("array_4x4")
    for rule in distances({"qk": 8, "drain": 4}, machine):
        assert {rule.first, rule.second} <= {"qk", "drain"}


def test_gantt() -> None:
    """A row per unit; a block begins and ends where its slots do."""
    schedule, _ = modulo_schedule({"fill": 16, "slnv": 64}, load_machine("array_16x16"))
    array, lanes, axis = gantt(schedule)
    assert array == "2D |fill----------->slnv" + "-" * 59 + ">|"
    assert lanes == array.replace("2D", "1D")
    assert axis == "    0" + " " * 77 + "79"


def test_command_line(run_cli) -> None:
    done = run_cli("schedule", "interleaved", "--machine", "array_16x16", "--json")
    found = json.loads(done.stdout)
    (kernel,) = found["kernels"]
    assert done.returncode == 0
    assert (kernel["ii"], kernel["bound"], kernel["status"]) == (137, 137, "optimal")
    assert found["operations_only_ii"] == 138 + 64 / 4096
    done = run_cli("schedule", "flat", "--machine", "pim_tiny_ddr4")
    assert done.returncode == 2 and "machine of the engine 'pim'" in done.stderr
    done = run_cli("schedule", "flatt")
    assert done.returncode == 2 and "did you mean 'flat'?" in done.stderr
