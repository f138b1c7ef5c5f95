"""Policies: what must hold for each of them on its machine, and what is refused."""

from functools import cache

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from bankside.cli import main
from bankside.errors import ConfigError
from bankside.mapping.map_cli import mapped
from bankside.mapping.policy.base import POLICIES, Policy
from bankside.mapping.system.system import System, system_names
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch
from bankside.mapping.workload.load import architecture_names

MACHINES = {
    "gpu_only": "dgx-a100", "host_offload": "l3", "hbm_pim": "hbm-pim",
    "hbm_pim_ext": "hbm-pim-ext", "rank_pim": "rank-pim", "l3": "l3",
    "duplex": "duplex", "fusemax": "fusemax",
}  # fmt: skip
MODELS = ("llama-3-70b", "opt-66b", "mixtral-8x7b")
#: More GPUs than the preset has, where it does not hold the models below.
GPUS = {"fusemax": 8}
#: Numbers of a system that can only help when they grow.
BETTER = {
    "gpu_only": ("gpu.memory_gbps", "gpu.memory_bytes", "gpu_link.gbps"),
    "host_offload": ("gpu.memory_gbps", "host_link.gbps", "host.memory_gbps", "host.memory_bytes"),
    "hbm_pim": ("gpu.memory_gbps", "hbm_pim.bandwidth_gbps", "gpu.memory_bytes"),
    "hbm_pim_ext": ("hbm_pim.bandwidth_gbps", "hbm_pim.memory_bytes", "gpu_link.gbps"),
    "rank_pim": ("rank_pim.bandwidth_gbps", "rank_pim.memory_bytes", "host_link.gbps"),
    "l3": ("gpu.memory_gbps", "host_link.gbps", "dimm_pim.memory_bytes", "dimm_pim.channels"),
    "duplex": ("gpu.memory_gbps", "gpu.memory_bytes", "gpu_link.gbps", "logic_pim.bandwidth_gbps"),
    "fusemax": ("gpu.memory_gbps", "gpu.memory_bytes", "array.count", "array.memory_gbps"),
}  # fmt: skip


@cache
def policy(name: str, model: str = "llama-3-70b", change: tuple = ()) -> Policy:
    system = System.load(MACHINES[name])
    if name in GPUS:
        system = system.with_("gpus", GPUS[name])
    for path, factor in change:
        value = system
        for key in path.split("."):
            value = getattr(value, key)
        system = system.with_(path, type(value)(value * factor))
    return POLICIES.get(name)(Architecture.load(model), system)


def seconds(chosen: Policy, batch: Batch) -> np.ndarray:
    return np.asarray(chosen.step(batch).seconds)


SWEEP = Batch.decode(np.array([1, 2, 7, 64, 256, 31]), np.array([100, 4096, 900, 2000, 70000, 5]))
MIXED = SWEEP + Batch.prefill(np.array([0, 1, 1, 2, 0, 1]), np.array([0, 512, 100, 2000, 0, 7]), 64)


def test_every_policy_has_a_machine_here() -> None:
    assert set(MACHINES) <= set(POLICIES) and set(BETTER) == set(MACHINES)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", list(MACHINES))
def test_passes(name: str, model: str) -> None:
    """Parts sum to the whole; nothing beats the bounds; arrays give what numbers give."""
    chosen = policy(name, model)
    for batch in (SWEEP, MIXED):
        cost = chosen.step(batch)
        assert np.shape(cost.seconds) == (6,) and (np.asarray(cost.seconds) > 0).all()
        assert np.asarray(sum(cost.parts.values())) == pytest.approx(cost.seconds, rel=1e-12)
        assert all((np.asarray(part) >= 0).all() for part in cost.parts.values())
        assert (np.asarray(cost.seconds) >= np.asarray(chosen.lower_bound(batch))).all()
        for i in range(6):
            one = Batch(*(np.broadcast_to(getattr(batch, f), 6)[i] for f in vars(batch)))
            assert float(np.asarray(chosen.step(one).seconds)) == pytest.approx(
                float(cost.seconds[i]), rel=1e-9
            )
    assert chosen.capacity.kv_tokens * chosen.arch.kv_bytes_per_token() == pytest.approx(
        chosen.capacity.kv_bytes
    )


@pytest.mark.parametrize("name", list(MACHINES))
def test_more_of_anything_is_never_slower(name: str) -> None:
    base = policy(name)
    for path in BETTER[name]:
        better = policy(name, change=((path, 2),))
        if better.shares == base.shares:
            assert (seconds(better, MIXED) <= seconds(base, MIXED) * (1 + 1e-9)).all(), path
        assert better.capacity.kv_tokens >= base.capacity.kv_tokens, path


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(list(MACHINES)),
    requests=st.integers(1, 300),
    context=st.integers(1, 200_000),
    prompt=st.integers(0, 3000),
)
def test_more_work_is_never_quicker(name: str, requests: int, context: int, prompt: int) -> None:
    chosen = policy(name)
    points = Batch.decode(np.array([requests, requests]), np.array([context, context + 999]))
    points = points + Batch.prefill(1, prompt)
    less, more = seconds(chosen, points)
    # The GPU model's attention may change its kernel for a longer context and gain a little.
    on_gpus = name in ("gpu_only", "host_offload")
    assert more >= less * (0.75 if on_gpus else 1 - 1e-9)
    assert less >= float(np.asarray(chosen.lower_bound(points))[0])


def test_interleaving_hides_the_quicker_side() -> None:
    """Many short requests: half on the GPUs while the ranks work on the other half."""
    chosen = policy("l3", "opt-66b")
    batch = Batch.decode(512, 1500)
    whole = {name: float(np.asarray(part)) for name, part in chosen.step(batch).parts.items()}
    attention = float(np.asarray(chosen.attention_seconds(batch)))
    alone, _ = chosen.on_gpus(chosen.divided(batch))
    in_turn = attention + sum(float(np.asarray(part)) for part in alone.values())
    assert whole["pim.attention"] < 0.9 * attention
    assert sum(whole.values()) < 0.9 * in_turn


# --- bankside map -------------------------------------------------------------------------------


LATER = ("npu",)
"""Machines whose own policies are not there yet."""


@pytest.mark.parametrize("machine", [n for n in system_names() if n not in LATER])
@pytest.mark.parametrize("model", architecture_names())
def test_every_preset_gives_an_answer_or_a_reason(model: str, machine: str) -> None:
    try:
        found = mapped(model, machine, None, Batch.decode(4, 4096), context=4096)
    except ConfigError as error:
        assert model in str(error) or machine in str(error), error
        return
    assert found["seconds"] > found["lower_bound_s"] > 0 and found["operators"]
    listed = sum(line["seconds"] for line in found["operators"])
    if found["policy"] == "gpu_only":
        sums = found["parts_s"]["gpu.sums"]
        assert listed + sums == pytest.approx(found["seconds"], rel=1e-9)


def test_the_command() -> None:
    args = "map --model llama-3-70b --machine l3 --context 131072 --batch 64".split()
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    for part in ("attention_decode", "dimm_pim", "tokens/s", "THESE DO NOT FIT"):
        assert part in done.output
    again = CliRunner().invoke(main, [*args, "--json"])
    assert '"kind": "map"' in again.output


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        ("--model llama-3-70b --machine l33", ("did you mean", "l3")),
        ("--model llama-3-70 --machine l3", ("did you mean", "llama-3-70b")),
        ("--model llama-3-70b --machine dgx-a100 --policy l3", ("dgx-a100 has no dimm_pim",)),
        ("--model deepseek-v3 --machine l3", ("latent attention", "use gpu_only")),
        ("--model llama-3-70b --machine dgx-a100 --tp 3", ("64 does not divide among 3",)),
        ("--model gpt3-175b --machine a100-sxm-80g", ("do not fit", "it takes 5.1 such GPUs")),
        ("--model llama-3-70b --machine l3 --batch 0", ("expected something to compute",)),
    ],
)
def test_what_cannot_be_mapped_says_why(args: str, parts: tuple) -> None:
    done = CliRunner().invoke(main, ["map", *args.split()])
    assert done.exit_code == 2
    assert all(part in done.output for part in parts), done.output
