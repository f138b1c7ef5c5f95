"""Off-loading of keys and values: the slower of links and the host's DRAM, and the GPUs."""

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.mapping.policy.base import POLICIES
from bankside.mapping.policy.kv_transfer import BLOCK_TOKENS, RANKS, KvTransfer
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch
from bankside.sim.memory.model import Memory

LLAMA = Architecture.load("llama-3-70b")
#: Links so quick that the DRAM decides.
WIDE = System.load("l3").with_("host_links", 40)


def policy(system: System, model: Architecture = LLAMA):
    return POLICIES.get("host_offload")(model, system)


def test_the_slower_of_links_and_dram_decides() -> None:
    batch = Batch.decode(np.array([1, 16, 256]), 40_000)
    links, dram = policy(System.load("l3")).step(batch), policy(WIDE).step(batch)
    assert (links.parts["link.exposed"][1:] > 0).all() and not links.parts["host.exposed"].any()
    assert (dram.parts["host.exposed"][1:] > 0).all()
    transfer = policy(WIDE).transfer
    read = 256 * 40_000 * LLAMA.kv_bytes_per_token()
    assert read / transfer.rate("read", BLOCK_TOKENS) < dram.seconds[2] < links.seconds[2]
    for cost in (links, dram):
        assert np.asarray(sum(cost.parts.values())) == pytest.approx(cost.seconds, rel=1e-12)


def test_the_links_explain_what_they_can() -> None:
    """Bytes over both resources by hand; where the GPUs wait for both, the slower counts."""
    transfer = KvTransfer(LLAMA, System.load("l3"))
    assert transfer.links == 4 * 31.5e9 and transfer.token_bytes == 8 * 128 * 2
    assert transfer.link_seconds(3e9, 1e9, 1e9) == pytest.approx(3e9 / 126e9)
    assert transfer.link_seconds(1e9, 2e9, 2e9) == pytest.approx(4e9 / 126e9)
    assert 0.85 < transfer.rate("read", BLOCK_TOKENS) / 406e9 < 0.95
    only_dram = transfer.dram_seconds(2e9)
    assert transfer.seconds(2e9) == pytest.approx(max(2e9 / 126e9, float(only_dram)))


@pytest.mark.parametrize(("tokens", "bound"), [(BLOCK_TOKENS, 0.06), (1, 0.08)])
@pytest.mark.parametrize("writes", [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("machine", ["l3", "dgx-h100"])
def test_dram_seconds_against_a_full_simulation(
    machine: str, writes: float, tokens: int, bound: float
) -> None:
    """Runs read and written in every mix, over all controllers of the machine's host."""
    transfer = KvTransfer(LLAMA, System.load(machine))
    memory = Memory.of(
        transfer.system.host.standard, channels=round(transfer.channels), ranks=RANKS
    )
    run, count = int(tokens * transfer.token_bytes), 800 * BLOCK_TOKENS // tokens
    starts = np.random.default_rng(3).integers(0, memory.bytes // run, count) * run
    addresses = (starts[:, None] + np.arange(0, run, memory.burst_bytes)).ravel()
    write = np.floor(np.arange(1, count + 1) * writes) > np.floor(np.arange(count) * writes)
    full = memory.run(
        memory.requests(addresses, write=np.repeat(write, run // memory.burst_bytes))
    ).seconds
    written = float(write.sum()) * run
    read = float(count * run) - written
    if tokens == 1:  # reads are priced as blocks; here they are tokens too
        found = transfer.dram_seconds(read, 0.0, written)
        found += max(read - written, 0) * (
            1 / transfer.rate("read", 1) - 1 / transfer.rate("read", BLOCK_TOKENS)
        )
    else:
        found = transfer.dram_seconds(read, written)
    # 15.86 controllers of table I's 406 GB/s are simulated as 16.
    assert found * transfer.channels / memory.channels == pytest.approx(full, rel=bound)


def test_time_is_linear_and_arrays_broadcast() -> None:
    transfer = KvTransfer(LLAMA, WIDE)
    read, blocks = np.array([[0.0, 1e6], [1e9, 1e12]]), np.array([0.0, 5e8])
    found = transfer.seconds(read, blocks, 1e5)
    assert found.shape == (2, 2) and (found > 0).all()
    assert transfer.seconds(7 * read, 7 * blocks, 7e5) == pytest.approx(7 * found, rel=1e-12)
    assert found[1, 0] == pytest.approx(float(transfer.seconds(1e9, 0.0, 1e5)), rel=1e-12)
    assert not np.any(transfer.seconds(np.zeros(3)))


def test_more_bytes_are_never_quicker_in_any_kind() -> None:
    rng = np.random.default_rng(7)
    less = rng.uniform(0, 1e9, (3, 200))
    transfer = KvTransfer(LLAMA, WIDE)
    base = transfer.seconds(*less)
    for kind in range(3):
        more = less.copy()
        more[kind] *= rng.uniform(1, 3, 200)
        assert (transfer.seconds(*more) >= base * (1 - 1e-12)).all()


def test_a_decoded_token_costs_more_to_write_than_its_share_of_a_block() -> None:
    transfer = KvTransfer(LLAMA, WIDE)
    assert transfer.dram_seconds(0.0, 0.0, 1e9) > transfer.dram_seconds(0.0, 1e9)
    latent = KvTransfer(Architecture.load("deepseek-v3"), WIDE)
    assert latent.token_bytes == 576 * 2


def test_never_below_links_and_memory_at_their_peaks() -> None:
    chosen = policy(WIDE)
    batch = Batch.decode(64, np.array([10, 1000, 100_000])) + Batch.prefill(1, 300, 50)
    bound = np.asarray(chosen.lower_bound(batch))
    assert (np.asarray(chosen.step(batch).seconds) >= bound).all()
    assert bound[2] >= 64 * 100_000 * LLAMA.kv_bytes_per_token() / 406e9


def test_energy_needs_that_of_links_and_host() -> None:
    batch = Batch.decode(4, 1000)
    linked = System.load("l3").with_("host_link.energy_per_byte_pj", 5.0)
    assert policy(linked).step(batch).energy_j is None
    known = policy(linked.with_("host.energy_per_byte_pj", 20.0))
    more = policy(linked.with_("host.energy_per_byte_pj", 30.0))
    moved = sum(known.moved_bytes(batch))
    assert more.step(batch).energy_j - known.step(batch).energy_j == pytest.approx(1e-11 * moved)


def test_prompts_of_rank_pim_wait_for_the_dram() -> None:
    batch = Batch.prefill(1, 4000)
    base = System.load("rank-pim").with_("host_links", 40)
    fewer = base.with_("host.channels", 4)
    slow, quick = (POLICIES.get("rank_pim")(LLAMA, system).step(batch) for system in (fewer, base))
    assert slow.seconds > quick.seconds
    bytes_ = 4000 * LLAMA.kv_bytes_per_token()
    assert slow.parts["link.exposed"] >= bytes_ / (4 * 25.6e9)


def test_no_link_no_transfer() -> None:
    with pytest.raises(ConfigError, match="npu has no link to a host"):
        KvTransfer(LLAMA, System.load("npu"))
