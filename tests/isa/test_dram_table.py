"""The constraint tables: numbers, options, and every way a table can be wrong."""

import pickle
from pathlib import Path

import pytest
import yaml

import bankside.isa.dram.table as table
from bankside.config import DRAM_STANDARDS
from bankside.errors import SpecError
from bankside.isa.dram.table import load_standard, load_tables, standard_names

FOLDER = Path(table.__file__).parent
TAGS = "cmd ccd turn wr rtp ras rp rcd rrd faw rfc".split()


def test_standards_match_hardware_descriptions():
    assert set(standard_names()) == set(DRAM_STANDARDS)
    for name in standard_names():
        std, described = load_standard(name), DRAM_STANDARDS.get(name)
        assert std.tck_ps == described.tck_ps
        assert std.slice_bits == described.burst_length * 8
        for key in ("bank_groups", "banks_per_group", "columns"):
            assert getattr(std.geometry, key) == getattr(described, key)
        for option, values in described.options.items():
            assert set(load_standard(name).options) == set(described.options)
            for value in values:
                chosen = load_standard(name, options={option: value})
                assert str(chosen.options[option]) == value


def test_ddr4_3200_numbers():
    std = load_standard("ddr4_3200")
    expected = dict(
        nBL=4, nCL=22, nCWL=16, nRCD=22, nRP=22, nRAS=52, nRC=74, nCCD_S=4, nCCD_L=8, nRRD_S=4,
        nRRD_L=8, nFAW=34, nWR=24, nRTP=12, nWTR_S=4, nWTR_L=12, nRFC=560, nREFI=12480, nRTW=12,
    )  # fmt: skip
    assert {k: std.params[k] for k in expected} == expected
    assert list(std.stall_tags) == TAGS
    assert std.geometry.rows == 65536 and std.banks == 16 and std.slice_bits == 64
    # 8 Gb in a chip, whatever the family.
    for name in standard_names():
        s = load_standard(name)
        assert s.banks * s.geometry.rows * s.geometry.columns * s.slice_bits == 8 << 30


def test_options_change_what_they_name():
    base = load_standard("ddr4_3200")
    assert load_standard("ddr4_3200", options={"rd_to_wr": 11}).params["nRTW"] == 11
    assert load_standard("ddr4_3200", options={"trfc_ns": 360}).params["nRFC"] == 576
    assert load_standard("ddr4_2400").params["nRTW"] == 16 + 4 + 2 - 12
    assert load_standard("ddr5_4800", options={"trfc_ns": 295}).params["nRFC"] == 710
    waived = load_standard("ddr4_3200", options={"multi_activate_faw": "waived"})

    def latency(std, before, after):
        rows = [r for r in std.constraints if r.level == "rank"]
        return max(r.latency for r in rows if before in r.preceding and after in r.following)

    assert latency(base, "ACTA", "ACT") == 4 * 34 and latency(base, "ACT4", "ACT") == 34
    assert latency(base, "ACT", "ACTA") == 34
    assert latency(load_standard("ddr5_4800"), "ACT4", "ACT") == 2 * 48
    for pair in (("ACTA", "ACT"), ("ACT4", "ACT4"), ("ACT", "ACTA")):
        assert latency(waived, *pair) == 8
    assert len({base.digest(), waived.digest(), load_standard("ddr4_3200").digest()}) == 2


def test_two_cycle_commands_of_ddr5():
    std = load_standard("ddr5_4800")
    two = {c.name for c in std.commands if c.cycles == 2}
    assert two == set("ACT RD WR RDA WRA MAC RDRB WRSB LDSB ACT4 ACTA".split())
    rows = [r for r in std.constraints if r.stall == 0 and r.text == "2"]
    assert {p for r in rows for p in r.preceding} == two
    assert all(len(r.following) == len(std.commands) and r.latency == 2 for r in rows)
    assert all(c.cycles == 1 for c in load_standard("ddr4_3200").commands)


def test_standard_is_frozen_hashable_and_picklable():
    std = load_standard("ddr4_3200", geometry={"rows": 16})
    assert pickle.loads(pickle.dumps(std)) == std and hash(std) == hash(
        pickle.loads(pickle.dumps(std))
    )
    assert std.geometry.rows == 16
    with pytest.raises(TypeError, match="read-only"):
        std.params["nRCD"] = 1
    with pytest.raises(AttributeError):
        std.name = "other"


def test_touched_banks():
    std = load_standard("ddr5_4800")
    assert std.touched("RD", 5) == (5,)
    assert std.touched("ACT4", 1) == std.touched("ACT4", 7) == tuple(range(1, 16, 2))
    assert std.touched("MAC", 3) == tuple(range(16))
    assert std.touched_instances("ACT4", 1, "bankgroup") == tuple(range(8))
    with pytest.raises(SpecError, match="no command 'READ'"):
        std.command("READ")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(name="ddr3_1600"), "unknown DRAM standard 'ddr3_1600'; expected one of ddr4_2400"),
        (dict(geometry={"banks": 3}), "ddr4.yaml: geometry: unknown key 'banks'"),
        (dict(geometry={"rows": 100}), "rows is 100; expected a power of two"),
        (dict(options={"rd_to_wr": 13}), "13 does not exist in ddr4_3200; expected one of 11, 12"),
        (dict(options={"trfc": 1}), "unknown option 'trfc'; expected one of"),
        (dict(params={"nFOO": 1}), "unknown parameter 'nFOO'"),
        (dict(params={"nCWL": 99}), "is negative|expected 0 or more"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(SpecError, match=message):
        load_standard(**({"name": "ddr4_3200"} | arguments))


def _row(data, number):
    return data["constraints"][number]


BAD_TABLES = {
    "unknown command": (lambda d: _row(d, 0)["preceding"].append("RED"), "unknown command 'RED'"),
    "unknown parameter": (
        lambda d: _row(d, 3).update(latency="nCCD_X"),
        r"constraint 4: unknown name 'nCCD_X'",
    ),
    "unknown level": (
        lambda d: _row(d, 2).update(level="chip"),
        "constraint 3: unknown level 'chip'",
    ),
    "unknown tag": (lambda d: _row(d, 2).update(stall="slow"), "unknown stall tag 'slow'"),
    "unknown row key": (lambda d: _row(d, 2).update(windwo=4), r"unknown keys \['windwo'\]"),
    "missing row key": (lambda d: _row(d, 2).pop("latency"), r"missing keys \['latency'\]"),
    "negative latency": (
        lambda d: _row(d, 2).update(latency="nCCD_S - nRFC"),
        "latency nCCD_S - nRFC is -556",
    ),
    "fraction": (lambda d: _row(d, 2).update(latency="nCL / 4"), "not a whole number"),
    "bad window": (lambda d: _row(d, 2).update(window=0), "window 0; expected 1 or more"),
    "window below the rank": (lambda d: _row(d, 1).update(window=4), "expected the level rank"),
    "duplicate row": (
        lambda d: d["constraints"].append(dict(_row(d, 0))),
        "constraint 20: duplicates row 0",
    ),
    "no row for a command": (
        lambda d: d["commands"].update(REFSB=dict(d["commands"]["REF"])),
        "no constraint row names the command REFSB",
    ),
    "unknown scope": (lambda d: d["commands"]["ACT"].update(scope="chip"), "scope 'chip'"),
    "missing command key": (lambda d: d["commands"]["ACT"].pop("effect"), r"\['effect'\]"),
    "command twice": (
        lambda d: d["commands"].update(MAC=dict(d["commands"]["REF"])),
        "command MAC: declared twice",
    ),
    "no source": (
        lambda d: d["grades"]["ddr4_3200"].update(nRCD=22),
        "nRCD: expected .value, source",
    ),
    "unknown source": (
        lambda d: d["grades"]["ddr4_3200"].update(nRCD=[22, "hearsay"]),
        "unknown source 'hearsay'",
    ),
    "unused parameter": (
        lambda d: d["grades"]["ddr4_3200"].update(nXS=[5, "R2"]),
        r"no constraint row uses \['nXS'\]",
    ),
    "no option entry": (
        lambda d: d["options"]["trfc_ns"]["grades"].pop("ddr4_3200"),
        "no entry for ddr4_3200",
    ),
    "unknown when": (lambda d: _row(d, 2).update(when={"mood": 1}), "unknown option 'mood'"),
    "unknown section": (lambda d: d.update(extra={}), r"unknown section \['extra'\]"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_table(case, tmp_path):
    spoil, message = BAD_TABLES[case]
    data = yaml.safe_load((FOLDER / "ddr4.yaml").read_text())
    spoil(data)
    path = tmp_path / "spoilt.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(SpecError, match=message) as caught:
        load_tables(path, FOLDER / "pim.yaml", "ddr4_3200")
    assert "yaml" in str(caught.value), "the message must name the file"


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda t: t.replace("nRCD: [22,", "nRAS: [22,"), r"spoilt.yaml:\d+: the key 'nRAS'"),
        (lambda t: t + "\n  ]", "not YAML"),
        (lambda t: "- 1\n- 2\n", "unknown section"),
    ],
)
def test_bad_file(spoil, message, tmp_path):
    path = tmp_path / "spoilt.yaml"
    path.write_text(spoil((FOLDER / "ddr4.yaml").read_text()))
    with pytest.raises(SpecError, match=message):
        load_tables(path, FOLDER / "pim.yaml", "ddr4_3200")
    with pytest.raises(SpecError, match="cannot read the table"):
        load_tables(tmp_path / "absent.yaml", FOLDER / "pim.yaml", "ddr4_3200")
