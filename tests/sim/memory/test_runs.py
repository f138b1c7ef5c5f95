"""Bandwidth of runs over many channels: against full simulations, and its order."""

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.sim.memory import runs
from bankside.sim.memory.model import Memory
from bankside.sim.memory.requests import pattern
from bankside.sim.memory.runs import BURST_BYTES, channel_rate, channels_of, run_rate
from bankside.sim.memory.transfer import DIRECTIONS

#: (bursts, largest relative error of one direction, of both in turn): a refresh interval more or
#: less shows in short ones.
LENGTHS = [(30_000, 0.08, 0.08), (300_000, 0.015, 0.04)]


def simulated(standard: str, channels: int, run: int, direction: str, count: int) -> float:
    """Bytes per second of a memory of that many channels with four ranks each, in full."""
    memory = Memory.of(standard, channels=channels, ranks=4)
    block = run // BURST_BYTES
    count = max(count // block, 2) * block
    addresses = pattern(
        "blocks", count, memory_bytes=memory.bytes, burst_bytes=BURST_BYTES, block_bytes=run,
        seed=5,
    )  # fmt: skip
    turn = np.arange(count) // block % 2 == 1
    write = {"read": np.zeros_like(turn), "write": np.ones_like(turn), "both": turn}[direction]
    return memory.run(memory.requests(addresses, write=write)).bytes_per_s


@pytest.mark.parametrize(("count", "alone", "in_turn"), LENGTHS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("run", [2048, 18432, 32768])
@pytest.mark.parametrize(("standard", "channels"), [("ddr4_3200", 16), ("ddr5_4800", 32)])
def test_against_all_channels_in_full(standard, channels, run, direction, count, alone, in_turn):
    """A token of GQA-8, a block of MLA (no power of two), a block of GQA-8."""
    found = run_rate(standard, direction, run, channels=channels)
    bound = in_turn if direction == "both" else alone
    full = simulated(standard, channels, run, direction, count)
    assert found == pytest.approx(full, rel=bound)


def test_the_comparison_notices_another_pattern():
    """Known-bad twin: the rate of single bursts behind one rank is far off."""
    full = simulated("ddr4_3200", 16, 32768, "read", 30_000)
    other = run_rate("ddr4_3200", "read", 1024, channels=16, ranks=1)
    assert other < 0.6 * full


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("standard", ["ddr4_3200", "ddr5_4800"])
def test_more_channels_and_longer_runs_are_never_slower(standard, direction):
    channels = np.geomspace(0.3, 5000, 200)
    rates = [run_rate(standard, direction, 32768, channels=c) for c in channels]
    assert (np.diff(rates) >= -1e-12 * rates[-1]).all()
    assert all(r <= c * channel_rate(standard) for r, c in zip(rates, channels, strict=True))


def test_channels_of_a_dimm():
    assert channels_of("ddr4_3200", 16) == 16 and channels_of("ddr5_4800", 16) == 32
    assert channel_rate("ddr4_3200") == pytest.approx(25.6e9)


def test_between_measured_pieces_it_is_straight(monkeypatch):
    monkeypatch.setattr(runs, "_piece_seconds", lambda *_: float(_[-1]) ** 2)
    for bursts, seconds in ((0.5, 0.5), (1, 1), (3, 10), (6, 40), (2048, 2 * 1024**2)):
        run = bursts * BURST_BYTES
        assert run_rate("ddr4_3200", "read", run, channels=1) == pytest.approx(run / seconds)


def test_what_is_refused():
    with pytest.raises(ConfigError, match="runs of 0 bytes on 4 channels; expected both above 0"):
        run_rate("ddr4_3200", "read", 0, channels=4)
    with pytest.raises(ConfigError, match="unknown direction 'up'"):
        run_rate("ddr4_3200", "up", 64, channels=4)
