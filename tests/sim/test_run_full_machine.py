"""The study at the size of the paper's machine."""

import pytest

from bankside.errors import ConfigError
from bankside.sim import full_machine as fm
from bankside.sim.timing.pim import PimTiming


def test_peak_is_the_one_that_the_paper_names() -> None:
    mc = fm.machine(1, fm.VARIANTS.get("base"))
    by_hand = 64 * 8 * 16 * 8 / 5e-9 * 1e-12  # ranks, chips, banks, bytes per tCCD_L of 5 ns
    assert fm.peak_tbps(mc) == pytest.approx(by_hand) == pytest.approx(13.1, abs=0.05)


@pytest.mark.parametrize("name", fm.MODELS.names())
def test_point_is_consistent(name: str) -> None:
    point = fm.measure(name, 2048)
    shape = fm.MODELS.get(name)
    assert point.heads * shape.nhc == 8
    assert point.kv_bytes == 2048 * 2 * 2 * 128 * point.heads
    seconds = point.kernel_cycles * 0.625e-9
    assert point.tbps == pytest.approx(64 * point.kv_bytes / seconds / 1e12)
    assert point.utilisation == pytest.approx(point.tbps / point.peak_tbps)
    assert 0.3 < point.utilisation < 1
    assert sum(point.stalls.values()) == pytest.approx(1)
    # Only MAC columns read keys and values, so no more than their share can be reached.
    assert point.utilisation <= point.stalls["mac"] * 1.02


def test_longer_contexts_and_fewer_obstacles_are_faster() -> None:
    speed = [fm.measure("gpt_175b", context).tbps for context in (2048, 8192, 65536)]
    assert speed == sorted(speed)
    base, free, ideal = (
        fm.measure("gpt_175b", 8192, v).tbps for v in ("base", "no_refresh", "ideal")
    )
    assert base < free < ideal < fm.PAPER_PEAK_TBPS


def test_refresh_has_at_least_its_share() -> None:
    """Also in kernels that are shorter than the refresh interval."""
    mc = fm.machine(1, fm.VARIANTS.get("base"))
    share = mc.std.params["nRFC"] / mc.std.params["nREFI"]
    point = fm.measure("opt_66b", 2048)
    assert point.kernel_cycles < mc.std.params["nREFI"]
    assert share < point.stalls["refresh"] < 4 * share
    assert fm.measure("opt_66b", 2048, "no_refresh").stalls["refresh"] == 0


def test_skipping_changes_nothing() -> None:
    variant = fm.VARIANTS.get("base")
    mc = fm.machine(8, variant)
    program, _ = fm.kernel(mc, fm.MODELS.get("qwen_72b"), 2048, variant)
    twice = fm.repeated(program, 2)
    fast, slow = (PimTiming(mc, skipping=s).run(twice) for s in (True, False))
    assert (fast.cycles, fast.counters) == (slow.cycles, slow.counters)
    single = PimTiming(mc).run(program).cycles
    assert 2 * single - 100 < fast.cycles < 2.2 * single


def test_repeated_program_repeats_its_data() -> None:
    variant = fm.VARIANTS.get("base")
    mc = fm.machine(1, variant)
    program, _ = fm.kernel(mc, fm.MODELS.get("opt_66b"), 100, variant)
    thrice = fm.repeated(program, 3)
    assert len(thrice.host_in) == 3 * len(program.host_in)
    assert thrice.outputs["o"][1] == 3 * program.outputs["o"][1]
    assert thrice.instructions()[0].name == "LOOP" and thrice.instructions()[-1].name == "HALT"


def test_balance() -> None:
    opt, qwen, gpt = (fm.MODELS.get(name) for name in fm.MODELS)
    assert fm.balance(opt, 1) == pytest.approx(72 / (5 * 16))
    assert fm.balance(gpt, 1) == 1
    assert fm.balance(qwen, 8) == pytest.approx(1 / 16)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown model shape 'gpt_3'"):
        fm.measure("gpt_3", 2048)
    with pytest.raises(ConfigError, match="unknown variant 'bse' \\(did you mean 'base'"):
        fm.measure("opt_66b", 2048, "bse")
    with pytest.raises(ConfigError, match="tokens fit"):
        fm.measure("opt_66b", 1 << 25)
    wide = fm.ModelShape("GQA-16", 1, 16, 1, 128, 8)
    with pytest.raises(ConfigError, match="2 passes"):
        variant = fm.VARIANTS.get("base")
        fm.kernel(fm.machine(8, variant), wide, 128, variant)


def test_summary_is_plain_and_says_what_it_assumes() -> None:
    points = list(fm.study(["opt_66b"], [2048], ["base", "all"], 2048))
    summary = fm.summary(points)
    assert [(p["context"], p["variant"]) for p in summary["points"]] == [
        (2048, "base"), (2048, "base"), (2048, "all"),
    ]  # fmt: skip
    assert any("64 ranks" in text for text in summary["assumptions"])
    assert not any("{" in text for text in summary["assumptions"])
