"""Every policy has a machine, a section, sources and tests; every machine answers `map`."""

import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankside.errors import ConfigError
from bankside.isa.dram.table import load_standard
from bankside.mapping.map_cli import mapped
from bankside.mapping.policy.base import POLICIES
from bankside.mapping.system.system import PRESETS, System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "policies.md"
MACHINES = {path.stem: System.load(path.stem) for path in sorted(PRESETS.glob("*.yaml"))}
DEFAULT = {system.policy: name for name, system in reversed(MACHINES.items())}
MODELS = {"npu": "gpt2", "fusemax": "llama-3-8b"}


def without_heading(page: str, names: Iterable[str]) -> set[str]:
    """Policies that no heading of a page names."""
    headings = re.findall(r"^#{2,4} `?(\w+)`?$", page, re.MULTILINE)
    return set(names) - {heading.lower() for heading in headings}


def without_source(documented: dict[str, str]) -> set[str]:
    """Policies whose module names no publication or page that it follows."""
    return {name for name, text in documented.items() if not re.search(r"^Ref: \S", text, re.M)}


def untested(names: Iterable[str], sources: Iterable[str]) -> set[str]:
    """Policies that no test names."""
    text = "\n".join(sources)
    return {name for name in names if f'"{name}"' not in text}


def test_every_policy_is_the_default_of_a_machine() -> None:
    assert set(POLICIES) == set(DEFAULT)


def test_every_policy_has_a_heading() -> None:
    assert without_heading(PAGE.read_text(), POLICIES) == set()


def test_every_policy_names_its_source() -> None:
    modules = {name: sys.modules[POLICIES.get(name).__module__] for name in POLICIES}
    assert without_source({name: module.__doc__ or "" for name, module in modules.items()}) == set()
    assert all(inspect.getdoc(POLICIES.get(name)) for name in POLICIES)


def test_every_policy_is_in_the_tests() -> None:
    files = [path for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)]
    assert untested(POLICIES, (path.read_text() for path in files)) == set()


def test_what_is_missing_is_noticed() -> None:
    """Known-bad twin of each check."""
    assert without_heading("## `gpu_only`\n`l3`\n", ["gpu_only", "l3"]) == {"l3"}
    assert without_source({"a": "Words.\n\nRef: a paper.", "b": "Ref: ", "c": ""}) == {"b", "c"}
    assert untested(["l3", "new"], ['policy("l3")', "new"]) == {"new"}


@pytest.mark.parametrize("machine", MACHINES)
def test_every_machine_answers(machine: str) -> None:
    model = MODELS.get(machine, "llama-3-70b")
    found = mapped(model, machine, None, Batch.decode(2, 500), context=500)
    assert found["policy"] == MACHINES[machine].policy
    assert found["seconds"] >= found["lower_bound_s"] > 0 and found["operators"]


# --- bounds that hold for all of them -------------------------------------------------------------
def _points(seed: int, longest: int) -> Batch:
    rng = np.random.default_rng(seed)
    decode, prompts = rng.integers(0, 200, 8), rng.integers(0, 3, 8)
    batch = Batch.decode(decode, rng.integers(1, longest, 8))
    batch = batch + Batch.prefill(prompts, rng.integers(1, longest, 8), rng.integers(0, 300, 8))
    return batch + Batch.decode(1, 2)


@pytest.mark.parametrize("name", list(POLICIES))
def test_no_pass_beats_the_bounds_of_its_operators(name: str) -> None:
    """`lower_bound`; and the same from all products and weights of the model at the peaks of all
    devices together, without the policy's own words.
    """
    machine = DEFAULT[name]
    arch = Architecture.load(MODELS.get(machine, "llama-3-70b"))
    policy = POLICIES.get(name)(arch, MACHINES[machine])
    system = MACHINES[machine]
    flops = system.gpu_flops(16) + (system.logic_pim.flops if system.logic_pim else 0.0)
    if system.gpu is None:
        flops = system.npu.count * policy.peak

    @settings(max_examples=8)
    @given(st.integers(0, 2**32 - 1))
    def every_batch(seed: int) -> None:
        batch = _points(seed, 700)
        cost = policy.step(batch)
        products = sum(
            n * op.matrix_flops for n, op in policy.operators(batch, 1) if op.kind == "gemm"
        )
        assert (np.asarray(cost.seconds) >= np.asarray(policy.lower_bound(batch))).all()
        assert (np.asarray(cost.seconds) >= products / flops).all()
        assert np.asarray(sum(cost.parts.values())) == pytest.approx(cost.seconds, rel=1e-12)

    every_batch()


def kv_bandwidth(system: System) -> float:
    """Bytes per second of the memory, and the links, that keys and values are read through."""
    if system.dimm_pim is not None and system.policy == "l3":
        hardware, std = system.dimm_pim.config(), load_standard(system.host.standard)
        banks = hardware.dram.chips * hardware.dram.bank_groups * hardware.dram.banks_per_group
        column = 2 * std.params["nBL"]  # bytes of a burst of a chip of 8 bits
        cycle = 1e-12 * std.tck_ps * std.params["nCCD_L"]
        return system.dimm_pim.ranks * banks * column / cycle
    if system.policy == "host_offload":
        return system.host_bandwidth
    if system.npu is not None:
        return system.npu.count * system.npu.memory_bandwidth
    return system.pim.bandwidth if system.pim else system.gpu_bandwidth


@pytest.mark.parametrize("name", list(POLICIES))
def test_keys_and_values_are_read_once_at_least(name: str) -> None:
    """Compulsory traffic: contexts of the requests that decode, through what they are read by."""
    system = MACHINES[DEFAULT[name]]
    arch = Architecture.load(MODELS.get(DEFAULT[name], "llama-3-70b"))
    policy = POLICIES.get(name)(arch, system)

    @settings(max_examples=8)
    @given(st.integers(1, 600), st.integers(1, 9_000))
    def every_batch(requests: int, context: int) -> None:
        read = requests * context * arch.kv_bytes_per_token(policy.bits.kv)
        seconds = float(np.asarray(policy.step(Batch.decode(requests, context)).seconds))
        assert seconds >= read / kv_bandwidth(system)

    every_batch()


def test_a_machine_without_the_policys_part_is_refused() -> None:
    llama = Architecture.load("llama-3-70b")
    needing = [name for name in POLICIES if name != "gpu_only"]
    for name in needing:
        with pytest.raises(ConfigError):
            POLICIES.get(name)(llama, System.load("a100-sxm-80g"))
