"""FuseMax beside GPUs: prompts' attention on the array."""

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.mapping.policy.base import POLICIES
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch


def made(model: str = "llama-3-8b", machine: str = "fusemax"):
    return POLICIES.get("fusemax")(Architecture.load(model), System.load(machine))


def test_only_prompts_attention_is_on_the_array() -> None:
    chosen = made()
    lines = chosen.plan(Batch.prefill(2, 4096) + Batch.decode(4, 1000)).lines
    assert [line.name for line in lines if line.device == "array"] == ["attention_prefill"]


def test_the_array_takes_its_closed_form_and_no_less_than_its_peak() -> None:
    """Two prompts after 512 tokens done before: twice the cycles of one, layers alike."""
    chosen = made()
    arch, machine = chosen.arch, chosen.closed[-1].machine
    cycles = min(
        closed.estimate(
            1024, 1536, arch.heads, arch.kv_heads, causal=True, first_position=512
        ).total
        for closed in chosen.closed
    )
    clock = machine.config.clock_mhz * 1e6
    batch = Batch.prefill(2, 1024, 512)
    found = float(np.asarray(chosen.step(batch).parts["array.attention"]))
    assert found == pytest.approx(2 * chosen.layers * int(cycles) / clock, rel=1e-9)
    products = float(np.asarray(batch.prefill_pairs)) * 2 * arch.heads * arch.head_dim
    assert found >= chosen.layers * products / (machine.rows * machine.columns * clock)


@pytest.mark.parametrize(
    ("model", "machine", "part"),
    [("llama-3-8b", "dgx-a100", "has no array"), ("deepseek-v3", "fusemax", "latent attention")],
)
def test_what_it_cannot_do_is_refused(model: str, machine: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        made(model, machine)


def test_energy_is_not_known_where_the_array_does_not_tell() -> None:
    system = System.load("fusemax")
    batch = Batch.prefill(1, 512)
    arch = Architecture.load("llama-3-8b")
    known = POLICIES.get("fusemax")(arch, system).step(batch).energy_j
    assert float(np.asarray(known)) > 0
    for key in ("energy_per_flop_pj", "energy_per_byte_pj"):
        less = system.with_(f"array.{key}", None)
        assert POLICIES.get("fusemax")(arch, less).step(batch).energy_j is None


def test_short_prompts_take_the_schedule_for_fewer_score_registers() -> None:
    arch, system = Architecture.load("llama-3-8b"), System.load("fusemax")
    batch = Batch.prefill(1, np.array([1, 64, 200, 1000, 4000]))
    found = [
        POLICIES.get("fusemax")(
            arch, system.with_("array.hardware.array.score_registers", registers)
        ).step(batch).parts["array.attention"]
        for registers in (1, 2, 3, 8)
    ]  # fmt: skip
    assert (np.diff(found, axis=0) <= 0).all()
    assert len(made().closed) == 2 and found[2][-1] < 0.8 * found[1][-1]
