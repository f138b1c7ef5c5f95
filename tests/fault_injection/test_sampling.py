"""Strata and what is drawn from them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bankside.errors import ConfigError
from bankside.fault_injection.models.models import FAULT_MODELS
from bankside.fault_injection.sampling import Phase, permuted, strata_of, windows
from bankside.sim.faults import Site

SITES = [
    Site("flop", "a.x", 3, block="a", role="data"),
    Site("flop", "a.y", 1, block="a", role="control"),
    Site("flop", "b.z", 5, block="b", role="data"),
    Site("memory", "b.m", 4, 2, block="b", role="data"),
]


def strata(phases: int = 2, cycles: int = 10):
    models = [FAULT_MODELS.get("seu"), FAULT_MODELS.get("sram_bit"), FAULT_MODELS.get("stuck_at")]
    return strata_of(
        SITES, [(m, m.options(), SITES[:3] if "flop" in m.kinds else SITES[3:]) for m in models],
        windows(cycles, phases),
    )  # fmt: skip


@given(st.integers(1, 3000), st.text(max_size=5))
def test_permutation_takes_every_number_once(population: int, key: str) -> None:
    found = permuted(np.arange(population), population, key)
    assert sorted(found.tolist()) == list(range(population))


def test_permutations_differ_by_key_and_look_even() -> None:
    n = 1 << 40
    one, other = (permuted(np.arange(20_000), n, key) for key in ("a", "b"))
    assert (one != other).all()
    counts = np.bincount(one * 16 // n, minlength=16)
    assert counts.min() > 1250 - 6 * 35 and counts.max() < 1250 + 6 * 35  # six deviations


def test_population_is_places_times_cycles() -> None:
    names = {s.name: s.population for s in strata()}
    assert names["seu / a / data / 0-4"] == 3 * 5 and names["seu / b / data / 5-9"] == 5 * 5
    assert names["sram_bit / b / data / 0-4"] == 8 * 5
    # A permanent fault is there from the beginning: no phases, two values per bit.
    assert names["stuck_at / a / data / run"] == 6
    assert sum(s.population for s in strata() if s.model.name == "seu") == 9 * 10


def test_every_fault_of_a_stratum_is_another_one_inside_it() -> None:
    for stratum in strata():
        faults = stratum.drawn(0, stratum.population, seed=5)
        assert len({fault.to_json() for fault in faults}) == stratum.population
        paths = {site.path for site in stratum.sites}
        assert {fault.site for fault in faults} == paths
        phase = stratum.phase
        assert all(phase.first <= fault.cycle < phase.end for fault in faults)


def test_larger_samples_hold_the_smaller_ones() -> None:
    stratum = strata()[0]
    few, many = stratum.drawn(0, 4, 1), stratum.drawn(0, 12, 1)
    assert many[:4] == few and stratum.drawn(4, 12, 1) == many[4:]
    assert stratum.drawn(0, 12, 2) != many


def test_windows() -> None:
    assert windows(10, 3) == [Phase("0-2", 0, 3), Phase("3-5", 3, 6), Phase("6-9", 6, 10)]
    assert windows(10, {"load": 0, "work": 4}) == [Phase("load", 0, 4), Phase("work", 4, 10)]


@pytest.mark.parametrize(
    ("phases", "message"),
    [(11, "11 windows, but the run has 10 cycles"), ({"a": 1}, "begin with 0"), ({}, "grow"),
     ({"a": 0, "b": 10}, "lie below the 10 cycles"), ({"a": 0, "b": 5, "c": 5}, "grow")],
)  # fmt: skip
def test_bad_phases(phases, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        windows(10, phases)


def test_models_without_room_are_refused() -> None:
    model = FAULT_MODELS.get("mbu")
    options = model.options.model_validate({"cluster": [[0, 0], [0, 7]]})
    with pytest.raises(ConfigError, match="mbu has nothing to hit: none of the 3 sites"):
        strata_of(SITES, [(model, options, SITES[:3])], windows(10, 1))
