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
from bankside.mapping.policy.base import POLICIES, AnyPolicy
from bankside.mapping.system.system import System, system_names
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch
from bankside.mapping.workload.load import architecture_names

MACHINES = {
    "gpu_only": "dgx-a100", "host_offload": "l3", "hbm_pim": "hbm-pim",
    "hbm_pim_ext": "hbm-pim-ext", "rank_pim": "rank-pim", "l3": "l3",
    "duplex": "duplex", "fusemax": "fusemax", "npu": "npu",
}  # fmt: skip
MODELS = ("llama-3-70b", "opt-66b", "mixtral-8x7b")
#: In their place where the engine cannot have such wide ones.
NARROW = {"npu": {"llama-3-70b": "llama-2-7b", "opt-66b": "gpt2"}}
#: Changes of presets that do not hold the models below.
LARGER = {
    "fusemax": (("gpus", 8), ("gpu_link", "nvlink3")), "npu": (("npu.memory_bytes", 96e9),),
}  # fmt: skip
#: Tokens of context at most.
LONGEST = {"npu": 65_535 - 999}
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
    "npu": ("npu.memory_gbps", "npu.memory_bytes", "npu.count"),
}  # fmt: skip


@cache
def policy(name: str, model: str = "llama-3-70b", change: tuple = ()) -> AnyPolicy:
    system = System.load(MACHINES[name])
    for path, value in LARGER.get(name, ()):
        system = system.with_(path, value)
    for path, factor in change:
        value = system
        for key in path.split("."):
            value = getattr(value, key)
        system = system.with_(path, type(value)(value * factor))
    model = NARROW.get(name, {}).get(model, model)
    return POLICIES.get(name)(Architecture.load(model), system)


def seconds(chosen: AnyPolicy, batch: Batch) -> np.ndarray:
    return np.asarray(chosen.step(batch).seconds)


def sweep(name: str) -> Batch:
    contexts = np.array([100, 4096, 900, 2000, 70000, 5])
    contexts = np.minimum(contexts, LONGEST.get(name, 70000))
    return Batch.decode(np.array([1, 2, 7, 64, 256, 31]), contexts)


def mixed(name: str) -> Batch:
    lengths = np.array([0, 512, 100, 2000, 0, 7])
    return sweep(name) + Batch.prefill(np.array([0, 1, 1, 2, 0, 1]), lengths, 64)


def test_every_policy_has_a_machine_here() -> None:
    assert set(MACHINES) == set(POLICIES) == set(BETTER)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", list(MACHINES))
def test_passes(name: str, model: str) -> None:
    """Parts sum to the whole; nothing beats the bounds; arrays give what numbers give."""
    chosen = policy(name, model)
    for batch in (sweep(name), mixed(name)):
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
    each = chosen.arch.kv_bytes_per_token(chosen.bits.kv)
    assert chosen.capacity.kv_tokens * each == pytest.approx(chosen.capacity.kv_bytes)


@pytest.mark.parametrize("name", list(MACHINES))
def test_more_of_anything_is_never_slower(name: str) -> None:
    base = policy(name)
    for path in BETTER[name]:
        better = policy(name, change=((path, 2),))
        assert (seconds(better, mixed(name)) <= seconds(base, mixed(name)) * (1 + 1e-9)).all(), path
        assert better.capacity.kv_tokens >= base.capacity.kv_tokens, path


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(list(MACHINES)),
    requests=st.integers(1, 300),
    context=st.integers(1, 200_000),
    prompt=st.integers(0, 3000),
)
def test_more_work_is_never_quicker(name: str, requests: int, context: int, prompt: int) -> None:
    chosen, context = policy(name), min(context, LONGEST.get(name, context))
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


@pytest.mark.parametrize("machine", system_names())
@pytest.mark.parametrize("model", architecture_names())
def test_every_preset_gives_an_answer_or_a_reason(model: str, machine: str) -> None:
    try:
        found = mapped(model, machine, None, Batch.decode(4, 4096), context=4096)
    except ConfigError as error:
        assert model in str(error) or machine in str(error), error
        return
    assert found["seconds"] >= found["lower_bound_s"] > 0 and found["operators"]
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
