"""Whole passes on NPUs: bounds, what never makes them slower, what is refused."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.errors import ConfigError
from bankside.mapping.policy.base import POLICIES
from bankside.mapping.policy.npu import OnNpu
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch
from bankside.mapping.workload.types import Bits


def made(model: str = "gpt2", tp: int | None = None, **changes: object) -> OnNpu:
    system = System.load("npu")
    for key, value in changes.items():
        system = system.with_(f"npu.{key}", value)
    return POLICIES.get("npu")(Architecture.load(model), system, tp=tp)


def seconds(chosen: OnNpu, batch: Batch) -> np.ndarray:
    return np.asarray(chosen.step(batch).seconds)


BATCH = Batch.decode(3, 700) + Batch.prefill(2, 100, 30)


@pytest.mark.parametrize("model", ["gpt2", "llama-3.2-3b", "qwen3-8b", "mixtral-8x7b"])
@pytest.mark.parametrize("batch", [Batch.decode(1, 3), Batch.decode(20, 5000), BATCH])
def test_no_operator_beats_its_roofline(model: str, batch: Batch) -> None:
    chosen = made(model, memory_bytes=96e9)
    found = list(chosen._timed(batch))
    for _, op, took in found:
        bound = op.bound_seconds(chosen.peak, np.inf, chosen.latency.bandwidth)
        assert float(np.asarray(took)) >= float(np.asarray(bound)) > 0, op.name
    listed = sum(line.seconds for line in chosen.plan(batch).lines)
    assert listed == pytest.approx(float(seconds(chosen, batch)))
    assert chosen.lower_bound(batch) <= seconds(chosen, batch)


def test_memory_and_clock_are_never_slower() -> None:
    bandwidths = (5.0, 9.1, 12.8, 20.0, 21.4, 25.6, 40.0, 63.0, 64.0, 200.0)
    found = [float(seconds(made(memory_gbps=b), BATCH)) for b in bandwidths]
    assert found == sorted(found, reverse=True) and found[-1] == found[-2]
    hardware = made().npu.config()
    at = [
        float(seconds(made(hardware=hardware.model_copy(update={"clock_mhz": mhz})), BATCH))
        for mhz in (100, 400, 500, 640, 1000)
    ]
    assert at == sorted(at, reverse=True)


def test_a_prompts_attention_is_that_of_its_tiles() -> None:
    """Each tile of 64 rows sees the tokens up to its last one."""
    chosen = made("llama-3.2-3b")
    tokens, past, group = 512, 200, 3
    arch, latency = chosen.arch, chosen.latency
    per_tile = 64 / group
    tiles = np.arange(1, np.ceil(tokens / per_tile) + 1)
    ends = np.minimum(past + tiles * per_tile, past + tokens)
    whole = sum(
        float(latency._context(64, np.array(end), arch.head_dim, True)) for end in ends
    ) * arch.kv_heads / latency.clock  # fmt: skip
    found = chosen.step(Batch.prefill(1, tokens, past)).parts["npu.attention"]
    assert float(np.asarray(found)) == pytest.approx(whole * chosen.arch.depth, rel=0.02)


def test_what_has_no_command_takes_its_bytes() -> None:
    chosen = made("mixtral-8x7b", memory_bytes=96e9)
    memory = {op.name for _, op, _ in chosen._timed(BATCH) if chosen._part(op) == "memory"}
    assert memory == {"embedding", "top_k", "dispatch", "combine", "sample"}


def test_copies_share_the_requests_and_shares_add_up_over_a_link() -> None:
    one, two = made(), made(count=2)
    assert two.shares.copies == 2
    assert seconds(two, Batch.decode(8, 500)) == pytest.approx(seconds(one, Batch.decode(4, 500)))
    halves = made(count=2, link="pcie4_x16", tp=2)
    batch = Batch.decode(4, 500)
    assert halves.shares.tp == 2 and halves.step(batch).parts["npu.sums"] > 0
    assert seconds(halves, batch) < seconds(one, batch)


def test_four_bits_hold_larger_models_and_are_quicker() -> None:
    eight, four = made("llama-3.2-3b"), made("llama-3.2-3b", weight_bits=4)
    assert four.weight_bytes == pytest.approx(0.75 * eight.weight_bytes)
    assert seconds(four, Batch.decode(1, 100)) < 0.85 * seconds(eight, Batch.decode(1, 100))
    with pytest.raises(ConfigError, match="do not fit"):
        made("llama-3-8b")
    assert made("llama-3-8b", weight_bits=4).capacity.kv_bytes > 0


def test_energy_is_known_where_the_device_tells() -> None:
    assert made().step(BATCH).energy_j is None
    chosen = made(energy_per_flop_pj=1.0, energy_per_byte_pj=100.0)
    flops, moved = chosen._work(BATCH)
    assert chosen.step(BATCH).energy_j == pytest.approx(1e-12 * flops + 1e-10 * moved)


@pytest.mark.parametrize(
    ("model", "changes", "part"),
    [
        ("deepseek-v3", {}, "latent attention"),
        ("opt-66b", {"memory_bytes": 96e9}, "NORM of the npu engine takes at most 4096"),
        ("llama-3-8b", {}, "8.0 GB of weights do not fit into 85% of the 8 GB of 1 NPUs"),
        ("llama-3-8b", {"count": 2}, "a copy each: npu has no npu.link"),
        ("gpt2", {"weight_bits": 6}, "the engine has 4 and 8"),
        ("gpt2", {"hardware": "npu_u55_256", "memory_gbps": 4.0}, "profile u55"),
        ("gpt2", {"tp": 5}, "among 5"),
    ],
)
def test_what_it_cannot_do_is_refused(model: str, changes: dict, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        made(model, **changes)


def test_what_lacks_an_npu_or_has_other_widths_is_refused() -> None:
    arch = Architecture.load("gpt2")
    with pytest.raises(ConfigError, match="dgx-a100 has no npu"):
        POLICIES.get("npu")(arch, System.load("dgx-a100"))
    with pytest.raises(ConfigError, match="16, 8 and 8 bits .* the engine has 8, 8 and 8"):
        POLICIES.get("npu")(arch, System.load("npu"), Bits(16, 8, 8))
    with pytest.raises(ConfigError, match="npu has no GPU"):
        POLICIES.get("gpu_only")(arch, System.load("npu"))


def test_contexts_longer_than_softmax_takes_are_refused() -> None:
    chosen = made()
    chosen.step(Batch.decode(1, 65_535))
    with pytest.raises(ConfigError, match="65,536 tokens; SOFTMAX .* at most 65,535"):
        chosen.step(Batch.decode(np.array([1, 1]), np.array([10, 65_536])))


def test_the_command() -> None:
    done = CliRunner().invoke(main, "map --model gpt2 --machine npu --json".split())
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["policy"] == "npu" and found["carried"] == {} and found["energy_j"] is None
    assert {line["device"] for line in found["operators"]} == {"npu"}
    assert found["capacity"]["weight_place"] == "NPU memory"
