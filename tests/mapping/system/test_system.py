"""Systems: presets, sources, changes; what is refused."""

from pathlib import Path

import numpy as np
import pytest

from bankside.config import HardwareConfig
from bankside.errors import ConfigError
from bankside.mapping.system import (
    DimmPim,
    HbmPim,
    LogicPim,
    RankPim,
    System,
    gpu_names,
    link_names,
    load_gpu,
    load_link,
    system_names,
)
from bankside.mapping.system.sourced import Sourced
from bankside.mapping.system.system import PRESETS
from bankside.mapping.system.tables import read_table

MINIMAL = """
summary: one GPU
policy: gpu_only
gpu: a100-sxm-80g
source: {rest: by definition}
"""


# --- presets ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", system_names())
def test_presets_load(name: str) -> None:
    system = System.load(name)
    assert system.summary and system.policy
    assert system.gpu or system.npu or system.array


@pytest.mark.parametrize("name", system_names())
def test_every_number_of_a_preset_has_a_source(name: str) -> None:
    system = System.load(name)
    sources = system.sources()
    numbers = dict(_numbers(system, ""))
    assert set(numbers) <= set(sources) | {"gpus", "host_links"}  # 1 by default
    assert all(sources.values())


def _numbers(section: Sourced, prefix: str):  # type: ignore[no-untyped-def]
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, Sourced):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            yield f"{prefix}{key}", value


# CHIME (ISCA 2026), table I: what the evaluated systems have in all.
@pytest.mark.parametrize(
    ("name", "kind", "capacity", "bandwidth"),
    [("hbm-pim", HbmPim, 640e9, 260.8e12), ("hbm-pim-ext", HbmPim, 320e9, 130.4e12),
     ("rank-pim", RankPim, 2e12, 1.6e12)],
)  # fmt: skip
def test_baselines_of_l3(name: str, kind: type, capacity: float, bandwidth: float) -> None:
    system = System.load(name)
    assert isinstance(system.pim, kind)
    assert (system.pim.memory_bytes, system.pim.bandwidth) == (capacity, bandwidth)
    assert system.gpu_memory_bytes == 640e9
    assert system.gpu_bandwidth == pytest.approx(16.3e12, rel=1e-3)


def test_l3() -> None:
    system = System.load("l3")
    assert system == System.load("dgx-a100-l3")
    pim = system.dimm_pim
    assert isinstance(system.pim, DimmPim) and pim is not None
    assert (pim.ranks, pim.ranksets, pim.ranks_per_rankset) == (64, 4, 16)
    assert system.host.memory_bandwidth == 406e9  # type: ignore[union-attr]
    # 8 bytes per tCCD_L (5 ns) from each of 16 banks, 8 chips, 64 ranks: 13.1 TB/s (table I: 13.0).
    rank = pim.config()
    column_s = 8 * rank.tck_ps * 1e-12
    total = pim.ranks * rank.banks * rank.burst_bytes / column_s
    assert total == pytest.approx(13.0e12, rel=0.01)


@pytest.mark.parametrize(("group", "lanes"), [(1, 1), (2, 2), (4, 4), (5, 4), (8, 8), (16, 8)])
def test_query_lanes_follow_the_model(group: int, lanes: int) -> None:
    pim = System.load("l3").dimm_pim
    assert pim is not None and pim.config(group).pim.query_lanes == lanes
    four = System.load("l3").with_("dimm_pim.query_lanes", 4).dimm_pim
    assert four is not None and four.config(group).pim.query_lanes == min(lanes, 4)


def test_duplex() -> None:
    system = System.load("duplex")
    assert isinstance(system.pim, LogicPim)
    assert system.pim.bandwidth == pytest.approx(4 * system.gpu_bandwidth, rel=1e-3)
    assert system.pim.flops == 8 * system.pim.bandwidth
    assert System.load("hbm-pim").hbm_pim.flops == float("inf")  # type: ignore[union-attr]


def test_fusemax_and_npu() -> None:
    array = System.load("fusemax").array
    assert array is not None
    hardware = array.config()
    assert (hardware.array.rows, hardware.array.columns, hardware.clock_mhz) == (256, 256, 940)
    assert array.memory_bandwidth == pytest.approx(400 * 2**30, rel=1e-4)
    npu = System.load("npu").npu
    assert npu is not None and npu.config().npu.macs == 256
    named = System.load("fusemax").with_("array.hardware", "array_16x16").array
    assert named is not None and named.config() == HardwareConfig.load("array_16x16")


# --- GPUs and links ---------------------------------------------------------------------------
@pytest.mark.parametrize("name", gpu_names())
def test_gpus(name: str) -> None:
    gpu = load_gpu(name)
    assert gpu.name == name and System.load(name).gpu == gpu
    assert gpu.matrix_flops(16) >= 2 * gpu.vector_flops
    # The derived energy per operation makes up the power limit with full memory traffic.
    full = gpu.energy_j(gpu.matrix_flops(16), gpu.memory_bandwidth)
    assert full == pytest.approx(gpu.tdp_w, rel=1e-3)
    assert np.allclose(gpu.energy_j(np.array([1e12, 0]), 0) / 1e12, [gpu.energy_j(1, 0), 0])


def test_peaks_follow_from_units_and_clock() -> None:
    # Operations per clock of a multiprocessor's matrix units on FP16, by generation.
    for name, per_clock in (("a100-sxm-80g", 2048), ("h100-sxm", 4096), ("b200-sxm", 8192),
                            ("rtx-4090", 512)):  # fmt: skip
        gpu = load_gpu(name)
        peak = gpu.sms * per_clock * gpu.clock_mhz * 1e6
        assert gpu.matrix_flops() == pytest.approx(peak, rel=2e-3), name


def test_widths_without_a_format_take_the_next_wider() -> None:
    a100, h100 = load_gpu("a100-sxm-80g"), load_gpu("h100-sxm")
    assert a100.matrix_flops(4) == a100.matrix_flops(8) == 624e12  # int8
    assert h100.matrix_flops(6) == h100.matrix_flops(8) == 1978.9e12
    assert a100.matrix_flops(16) == 312e12 and a100.matrix_flops(32) == 156e12
    with pytest.raises(ConfigError, match="at most 64 bits"):
        a100.matrix_flops(128)


def test_links() -> None:
    by_generation = [load_link(f"pcie{n}_x16").gbps for n in (3, 4, 5)]
    lane = [8, 16, 32]
    assert by_generation == pytest.approx([x * 16 * 128 / 130 / 8 for x in lane], rel=1e-3)
    assert load_link("nvlink4").bandwidth == 450e9
    assert all(load_link(name).latency_s < 1e-5 for name in link_names())


def test_energy_that_is_not_known() -> None:
    gpu = System.load("h100-sxm").with_("gpu.energy_per_flop_pj", None).gpu
    assert gpu is not None and gpu.energy_j(1, 1) is None


# --- links by default ---------------------------------------------------------------------------
def test_links_come_from_the_gpu() -> None:
    alone = System.parse(MINIMAL)
    assert alone.host_link == load_link("pcie4_x16") and alone.gpu_link is None
    two = System.parse(MINIMAL + "gpus: 2\n")
    assert two.gpu_link == load_link("nvlink3") and two.gpu_memory_bytes == 160e9
    cxl = System.parse(MINIMAL + "host_link: cxl3_x16\nhost_links: 2\n")
    assert cxl.host_bandwidth == 2 * load_link("cxl3_x16").bandwidth


def test_host_memory_bounds_the_links() -> None:
    system = System.load("l3")
    assert system.host_bandwidth == 4 * 31.5e9
    assert system.with_("host_links", 100).host_bandwidth == 406e9


# --- changes ------------------------------------------------------------------------------------
def test_with_changes_a_copy() -> None:
    system = System.load("l3")
    wide = system.with_("dimm_pim.channels", np.int64(32)).with_("host.memory_gbps", 800)
    assert wide.dimm_pim.ranks == 128 and system.dimm_pim.ranks == 64  # type: ignore[union-attr]
    assert wide.host.source_of("memory_gbps") == "set to 800 (was 406.0)"  # type: ignore[union-attr]
    assert wide.content_hash != system.content_hash
    assert System.load("l3").content_hash == system.content_hash
    assert system.with_("gpu", "h100-sxm").gpu == load_gpu("h100-sxm")
    assert system.with_("dimm_pim", None).pim is None


def test_hash_ignores_words() -> None:
    one = System.parse(MINIMAL)
    other = System.parse(MINIMAL.replace("one GPU", "another").replace("by definition", "x"), "y")
    assert one.content_hash == other.content_hash and hash(one) == hash(other)
    assert one.content_hash != one.with_("gpu.sms", 107).content_hash


def test_copies_forget_the_hash() -> None:
    one = System.parse(MINIMAL)
    assert one.content_hash != one.model_copy(update={"gpus": 2}).content_hash


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("dimm_pim.rank_per_dimm", 1, "did you mean 'ranks_per_dimm'"),
        ("dimm.channels", 1, "has no 'dimm' (did you mean 'dimm_pim'?)"),
        ("gpu.sms.x", 1, "has no 'gpu.sms.x'"),
        ("dimm_pim.ranksets", 3, "dimm_pim.ranksets: is 3, which does not divide 64 ranks"),
        ("gpu.memory_gbps", -1, "gpu.memory_gbps: is -1; expected a number > 0"),
        ("gpu", "h100-smx", "did you mean 'h100-sxm'"),
        ("dimm_pim.hardware", "array_16x16", "of the engine 'array'; expected one of the engine"),
        ("dimm_pim.query_lanes", 3, "expected one of: 1, 2, 4, 8"),
        ("host", None, "host: is missing; dimm_pim stands in the host's memory"),
        ("host.standard", "ddr4_3201", "did you mean 'ddr4_3200'"),
        ("gpu", None, "gpu: is missing"),
    ],
)
def test_changes_refused(path: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        System.load("l3").with_(path, value)
    assert message in str(error.value) and str(error.value).startswith("system 'l3'")


RANK_PIM = "rank_pim: {memory_bytes: 1.0, bandwidth_gbps: 1.0, source: {rest: x}}\n"


# --- files --------------------------------------------------------------------------------------
def test_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((PRESETS / "l3.yaml").read_text())
    mine = System.load(str(path))
    assert mine.name == "mine" and mine.content_hash == System.load("l3").content_hash


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("gpus: 8", "gpuss: 8", "unknown key (did you mean 'gpus'?)"),
        ("gpu: a100-sxm-80g", "gpu: a100-sxm-80gb", "did you mean 'a100-sxm-80g'"),
        ("host_links: 4", "host_links: 0", "host_links: is 0; expected an integer >= 1"),
        ("  channels: 16\n  dimms", "  chanels: 16\n  dimms", "did you mean 'channels'"),
        ("  gpus: \"CHIME", "  gpu_count: \"CHIME", "gpu_count: names no key of this section"),
        ("  host_links: \"scale", "  notes: \"scale", "host_links: has no source; add `host_links"),
        ("hardware: dimm_pim_ddr4", "hardware: dimm_pim_ddr", "did you mean 'dimm_pim_ddr"),
        ("memory_gbps: 406", "memory_gbps: \"406\"", "is '406' (text); expected a number > 0"),
        ("dimm_pim:\n", f"{RANK_PIM}dimm_pim:\n", "a system has one kind of PIM"),
    ],
)  # fmt: skip
def test_files_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (PRESETS / "l3.yaml").read_text()
    assert old in text
    path = tmp_path / "bad.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        System.load(path)
    assert message in str(error.value) and "bad.yaml:" in str(error.value)


def test_nothing_that_computes_is_refused() -> None:
    text = "summary: none\npolicy: x\nsource: {rest: y}\n"
    with pytest.raises(ConfigError, match="so are array and npu; nothing would compute"):
        System.parse(text)


def test_unknown_engine_link_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"array\.link: unknown link 'nvlnk3'"):
        System.load("fusemax").with_("array.link", "nvlnk3")


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'rank-pim'") as error:
        System.load("rankpim")
    assert "dgx-a100-l3" in str(error.value) and "rtx-4090" in str(error.value)


def test_table_needs_sources(tmp_path: Path) -> None:
    path = tmp_path / "links.yaml"
    path.write_text("slow:\n  gbps: 1.0\n  latency_us: 2.0\n  source: {gbps: mine}\n")
    with pytest.raises(ConfigError, match=r"links.yaml:3: latency_us: has no source"):
        read_table(type(load_link("nvlink3")), path)
