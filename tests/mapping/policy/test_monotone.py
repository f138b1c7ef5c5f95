"""More bandwidth or capacity is never slower: for every number of every machine, every policy."""

from functools import cache

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydantic import Field
from tests.mapping.policy.machine_numbers import (
    RULES,
    Rule,
    numbers,
    numeric_fields,
    scaled,
    value_of,
)

from bankside.config import PimHardware
from bankside.config_array import ArrayHardware
from bankside.config_npu import NpuHardware
from bankside.errors import ConfigError
from bankside.mapping.policy.base import POLICIES
from bankside.mapping.system.gpu import Link
from bankside.mapping.system.system import PRESETS, System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch

ROOTS = (System, PimHardware, ArrayHardware, NpuHardware)
LARGE = ("llama-3-70b", "opt-66b", "mixtral-8x7b")
#: Where the preset does not hold the models.
LARGER = {"fusemax": (("gpus", 8), ("gpu_link", "nvlink3"))}
#: Numbers of devices; what is compared is what they hold together, with shares of equal size.
DEVICES = ("gpus", "npu.count")
MODELS = {"npu": ("gpt2",)}
#: Examples; where a change means programs to time, few.
EXAMPLES = {"l3": 3, "npu": 1}
POINTS = 12
#: Factor by which what is said to be never slower may be: rounding of sums.
ROUNDING = 1 + 1e-12


@cache
def machine(policy: str) -> System:
    """The first preset whose policy it is."""
    presets = (System.load(path.stem) for path in sorted(PRESETS.glob("*.yaml")))
    found = next(system for system in presets if system.policy == policy)
    for path, value in LARGER.get(policy, ()):
        found = found.with_(path, value)
    return found


@st.composite
def batches(draw, longest: int = 100_000) -> Batch:
    """Points with prompts, requests that decode, or both."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def some(most: int, share: float) -> np.ndarray:
        drawn = np.exp(rng.uniform(0, np.log(most), POINTS)).astype(int)
        return np.where(rng.random(POINTS) < share, drawn, 0)

    decode = Batch.decode(some(400, 0.8), some(longest, 1.0))
    prompts = Batch.prefill(some(4, 0.5), some(min(longest, 4000), 1.0), some(2000, 0.5))
    return decode + prompts + Batch.decode(1, 5)


def seconds(policy, batch: Batch) -> np.ndarray:
    return np.broadcast_to(np.asarray(policy.step(batch).seconds, float), (POINTS,))


def compare(
    name: str, arch: Architecture, worse: System, better: System, batch: Batch, path: str = ""
):
    """Times of the better machine over those of the other, and their capacities; None: one of them
    cannot hold the model.
    """
    try:
        base = POLICIES.get(name)(arch, worse)
        tp = base.shares.tp if path in DEVICES else None
        other = POLICIES.get(name)(arch, better, tp=tp)
    except ConfigError:
        return None
    ratio = seconds(other, batch) / seconds(base, batch)
    return ratio, other.capacity.kv_tokens / base.capacity.kv_tokens


def problem(rule: Rule, ratio: np.ndarray, tokens: float) -> str:
    """What is wrong with times and capacities of the better machine; empty: nothing."""
    if rule.better == 0:
        changed = np.abs(ratio - 1).max() > 1e-12 or tokens != 1
        return f"changes to {ratio}, {tokens} of the tokens" if changed else ""
    if ratio.max() > rule.bound * ROUNDING:
        return f"{ratio.max():.6f} times as slow"
    return "" if tokens >= 1 - 1e-12 else f"only {tokens:.6f} of the tokens"


def check(name: str, arch: Architecture, path: str, factor: float, batch: Batch) -> bool:
    """Both directions from the preset's value; whether any was valid."""
    base, rule = machine(name), RULES[dict(numbers(machine(name)))[path]]
    tried = False
    for up in (True, False):
        changed = scaled(base, path, factor if up else 1 / factor)
        if changed is None:
            continue
        worse, better = (base, changed) if up == (rule.better >= 0) else (changed, base)
        found = compare(name, arch, worse, better, batch, path)
        if found is not None:
            tried = True
            said = problem(rule, *found)
            assert not said, f"{name}, {path} {value_of(base, path)} x {factor} ({up=}): {said}"
    return tried


# --- the table ----------------------------------------------------------------------------------
def test_every_number_has_its_line() -> None:
    fields = numeric_fields(ROOTS)
    assert fields - set(RULES) == set(), "say in RULES what they do"
    assert set(RULES) - fields == set(), "not in any description"
    assert all(rule.why for rule in RULES.values() if not rule.better or rule.bound > 1)


def test_a_new_number_is_noticed() -> None:
    """Known-bad twin: fields that no line tells of, at every depth."""

    class Faster(Link):
        lanes: int | None = None
        rates: tuple[float, ...] = Field(default=())
        nickname: str = ""

    class Other(System):
        host_link: Faster | None = None
        spare_gbps: float = 1.0

    new = numeric_fields([Other]) - set(RULES)
    assert {"Faster.lanes", "Faster.rates", "Other.spare_gbps"} <= new
    assert "Faster.nickname" not in new


def test_the_comparison_notices_what_it_is_for() -> None:
    """Known-bad twin: the opposite of what a line says."""
    arch, batch = Architecture.load(LARGE[0]), Batch.decode(np.full(POINTS, 9), 4000)
    slow = scaled(machine("gpu_only"), "gpu.memory_gbps", 1 / 2)
    small = scaled(machine("hbm_pim_ext"), "hbm_pim.memory_bytes", 1 / 2)
    assert slow is not None and small is not None
    ratio, tokens = compare("gpu_only", arch, machine("gpu_only"), slow, batch)
    assert "times as slow" in problem(Rule(1), ratio, tokens)
    assert "changes to" in problem(Rule(0, "so it was said"), ratio, tokens)
    assert not problem(Rule(1, "", bound=2.1), ratio, tokens)
    ratio, tokens = compare("hbm_pim_ext", arch, machine("hbm_pim_ext"), small, batch)
    assert problem(Rule(1), ratio, tokens) == "only 0.500000 of the tokens"


# --- the properties -----------------------------------------------------------------------------
@pytest.mark.parametrize("name", list(POLICIES))
def test_more_is_never_slower(name: str) -> None:
    """Every number of the policy's machine, by a random factor, random models and batches."""
    found = numbers(machine(name))
    paths = [path for path, field in found if RULES[field].better is not None]
    tried: set[str] = set()

    # Every example walks over all numbers: shrinking one would take minutes and tell no more.
    @settings(max_examples=EXAMPLES.get(name, 5), phases=(Phase.reuse, Phase.generate))
    @given(
        st.floats(1.01, 4),
        st.sampled_from(MODELS.get(name, LARGE)),
        batches(900 if name == "npu" else 100_000),
    )
    def every_number(factor: float, model: str, batch: Batch) -> None:
        arch = Architecture.load(model)
        tried.update(path for path in paths if check(name, arch, path, factor, batch))

    every_number()
    assert tried == set(paths), f"never changed: {set(paths) - tried}"
