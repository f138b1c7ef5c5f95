"""Latencies of the ranks: the timing model's, also between its points; chips per head; store."""

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.mapping.policy import pim_latency
from bankside.mapping.policy.base import POLICIES
from bankside.mapping.policy.pim_latency import RankAttention
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch
from bankside.sim import full_machine

DIMM = System.load("l3").dimm_pim


@pytest.mark.parametrize(
    ("name", "shape"), [("opt_66b", (72, 72, 128)), ("qwen_72b", (64, 8, 128))]
)
def test_cycles_are_those_of_the_study_of_the_whole_machine(name: str, shape: tuple) -> None:
    ranks = RankAttention.of(DIMM, *shape)
    assert ranks.nhc == full_machine.MODELS.get(name).nhc
    for context in (1024, 16384):
        point = full_machine.measure(name, context)
        assert ranks.program_cycles(context, ranks.nhc) == pytest.approx(point.kernel_cycles)
        assert (ranks.heads, ranks.groups) == (point.heads, point.groups)


@pytest.mark.parametrize(("machine", "off"), [("l3", 0.01), ("dgx-h100-l3", 0.015)])
@pytest.mark.parametrize("shape", [(72, 72, 128), (64, 8, 128), (32, 8, 128)])
def test_any_context_is_nearly_the_models(machine: str, off: float, shape: tuple) -> None:
    """Steps of 16 tokens, rows that fill (1,025, 4,624), the middle of long intervals."""
    ranks = RankAttention.of(System.load(machine).dimm_pim, *shape)
    some = (17, 65, 90, 129, 700, 1025, 1060, 1344, 1500, 2049, 2500, 4624, 9000, 40_000, 100_000)
    found = [float(ranks._cycles(np.array(float(context)))) for context in some]
    assert found == sorted(found)
    for context, cycles in zip(some, found, strict=True):
        exact = ranks.program_cycles(context, ranks.nhc)
        assert cycles == pytest.approx(exact, rel=off), context


def test_the_slowest_rank_counts() -> None:
    ranks = RankAttention.of(DIMM, 64, 8, 128)
    one, many = ranks.seconds(1, 8192, 8192), ranks.seconds(ranks.ranks, 8192 * ranks.ranks, 8192)
    assert one == pytest.approx(many)
    assert ranks.seconds(2 * ranks.ranks, 2 * 8192 * ranks.ranks, 8192) == pytest.approx(2 * one)
    assert ranks.seconds(0, 0, 0) == 0
    uneven = ranks.seconds(ranks.ranks, 100 * ranks.ranks, 8192)
    assert uneven == pytest.approx(one)


def test_points_are_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BANKSIDE_BUILD", str(tmp_path))
    config = DIMM.config(8)
    first = RankAttention(config, 64, (64, 8, 128))
    wanted = first.program_cycles(1024, first.nhc)
    monkeypatch.setattr(RankAttention, "_measure", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(RankAttention, "_best", lambda *_: pytest.fail("chosen again"))
    again = RankAttention(config, 64, (64, 8, 128))
    assert again.program_cycles(1024, again.nhc) == wanted
    (file,) = (tmp_path / "pim_latency").iterdir()
    file.write_text("{")
    with pytest.raises(pytest.fail.Exception, match="chosen again"):
        RankAttention(config, 64, (64, 8, 128))


def test_heads_that_do_not_fit_are_named(monkeypatch) -> None:
    def refuse(*_):
        raise ConfigError("head_dim 100: expected a multiple of 64")

    monkeypatch.setattr(pim_latency.RankAttention, "_programs", refuse)
    with pytest.raises(ConfigError, match="heads of 100 does not fit .*multiple of 64"):
        RankAttention(DIMM.config(1), 64, (8, 8, 100))


def test_more_query_lanes_are_never_slower() -> None:
    """Few requests are quicker where a head lies on more chips, for which fewer lanes do."""
    arch, system = Architecture.load("llama-3-70b"), System.load("l3")
    batch = Batch.decode(np.array([1, 2, 16, 300, 300]), np.array([100, 16384, 2000, 700, 20000]))
    found = [
        POLICIES.get("l3")(arch, system.with_("dimm_pim.query_lanes", lanes))
        .attention_seconds(batch)
        for lanes in (1, 2, 4, 8)
    ]  # fmt: skip
    assert (np.diff(found, axis=0) <= 0).all() and found[-1][-1] < 0.2 * found[0][-1]
    # Alone, what is chosen for eight lanes would lose.
    eight, one = RankAttention.of(DIMM, 64, 8, 128), RankAttention.up_to(DIMM, 64, 8, 128)[0]
    assert eight.seconds(1, 100, 100) > one.seconds(1, 100, 100)


def test_new_keys_and_values_wait_for_the_hosts_memory() -> None:
    """Links that are quicker than one channel of DRAM."""
    arch, system = Architecture.load("opt-66b"), System.load("l3")
    batch = Batch.prefill(4, 4000)
    both = system.with_("host_links", 64)
    narrow = both.with_("host.channels", 1)
    exposed = [
        float(np.asarray(POLICIES.get("l3")(arch, s).step(batch).parts["link.exposed"]))
        for s in (both, narrow)
    ]
    assert exposed[0] == 0 < exposed[1]
