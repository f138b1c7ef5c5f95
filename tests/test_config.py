"""Hardware descriptions, strict YAML and units."""

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bankside import units
from bankside.config import DRAM_STANDARDS, PRESET_FOLDER, HardwareConfig, preset_names
from bankside.errors import ConfigError, SpecError
from bankside.strict_yaml import load_yaml, parse_yaml

MINIMAL = """
name: minimal
engine: pim
dram: {standard: ddr4_3200, rows: 64}
pim: {query_lanes: 1}
"""


@pytest.mark.parametrize("name", preset_names())
def test_presets_load_under_their_own_name(name: str) -> None:
    assert HardwareConfig.load(name).name == name


def test_presets_are_those_promised() -> None:
    promised = {"dimm_pim_ddr4", "dimm_pim_ddr4_gqa4", "dimm_pim_ddr5"}
    assert promised | {"pim_tiny_ddr4", "pim_tiny_ddr5"} <= set(preset_names())


@pytest.mark.parametrize(
    ("preset", "derived"),
    [  # banks, slice bits, elements, burst bytes, sub-banks, tCK ps, by hand from the standards
        ("dimm_pim_ddr4", (16, 64, 4, 64, 4, 625)),
        ("dimm_pim_ddr5", (16, 128, 8, 128, 2, 416)),
        ("pim_tiny_ddr4", (4, 64, 4, 16, 1, 625)),
        ("pim_tiny_ddr5", (8, 128, 8, 32, 1, 416)),
    ],
)
def test_derived_numbers(preset: str, derived: tuple[int, ...]) -> None:
    c = HardwareConfig.load(preset)
    found = (c.banks, c.slice_bits, c.elements, c.burst_bytes, c.subbanks, c.tck_ps)
    assert found == derived
    assert c.clock_mhz == pytest.approx(1e6 / derived[-1])


def test_geometry_comes_from_the_standard() -> None:
    dram = HardwareConfig.parse(MINIMAL).dram
    assert (dram.bank_groups, dram.banks_per_group, dram.columns, dram.chips) == (4, 4, 128, 8)
    dram = HardwareConfig.parse(MINIMAL.replace("ddr4_3200", "ddr5_4800")).dram
    assert (dram.bank_groups, dram.banks_per_group, dram.columns, dram.chips) == (8, 2, 64, 8)


@pytest.mark.parametrize("name", DRAM_STANDARDS.names())
def test_standards_agree_with_the_timing_tables(name: str) -> None:
    """Geometry and clock stand here and, with their sources, in isa/dram: they must be the same."""
    standard = DRAM_STANDARDS.get(name)
    folder = PRESET_FOLDER.parents[1] / "isa" / "dram"
    table = yaml.safe_load((folder / f"{name[:4]}.yaml").read_text())
    grade = table["grades"][name]
    assert grade["tck_ps"][0] == standard.tck_ps
    for key in ("bank_groups", "banks_per_group", "columns"):
        assert table["geometry"][key][0] == getattr(standard, key)
    assert {str(ns) for ns in table["options"]["trfc_ns"]["grades"][name]} == set(
        standard.options["trfc_ns"]
    )
    cl, cwl, burst = grade["nCL"][0], grade["nCWL"][0], table["parameters"]["nBL"][0]
    assert standard.options["rd_to_wr"] == tuple(str(cl + burst + gap - cwl) for gap in (1, 2))
    assert 2 * burst == standard.burst_length


def test_options_of_every_standard_are_accepted() -> None:
    for name in DRAM_STANDARDS:
        for option, values in DRAM_STANDARDS.get(name).options.items():
            for value in values:
                choice = f'{name}, options: {{{option}: "{value}"}}'
                loaded = HardwareConfig.parse(MINIMAL.replace("ddr4_3200", choice))
                assert loaded.dram.options == {option: value}


@pytest.mark.bad_inputs("hardware")
def test_bad_descriptions_are_refused(bad_case) -> None:
    with pytest.raises(ConfigError) as caught:
        HardwareConfig.load(bad_case.path)
    bad_case.check(caught.value)


def test_unknown_preset_lists_the_presets() -> None:
    with pytest.raises(ConfigError) as caught:
        HardwareConfig.load("dimm_pim_ddr6")
    message = str(caught.value)
    assert "did you mean 'dimm_pim_ddr" in message
    assert all(name in message for name in preset_names())


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing.yaml: cannot be read: No such file"):
        HardwareConfig.load(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        HardwareConfig.load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match=r"binary.yaml: not UTF-8 text \(byte 6\)"):
        HardwareConfig.load(tmp_path / "binary.yaml")
    (tmp_path / "control.yaml").write_bytes(b"name: a\x00b")
    with pytest.raises(ConfigError, match="control.yaml: not valid YAML: .*#x0000"):
        HardwareConfig.load(tmp_path / "control.yaml")
    (tmp_path / "deep.yaml").write_text("[" * 5000)
    with pytest.raises(ConfigError, match="deep.yaml: nested too deeply"):
        HardwareConfig.load(tmp_path / "deep.yaml")


def test_a_configuration_cannot_change() -> None:
    config = HardwareConfig.parse(MINIMAL)
    with pytest.raises(ValidationError, match="frozen"):
        config.dram.rows = 128  # type: ignore[misc]


def test_content_hash_is_of_the_machine_not_of_its_spelling() -> None:
    base = HardwareConfig.parse(MINIMAL)
    explicit = MINIMAL.replace("rows: 64", "columns: 128, chips: 8, rows: 0x40")
    same = HardwareConfig.parse(explicit.replace("minimal", "other"))
    assert same.content_hash == base.content_hash
    assert hash(same) == hash(base)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rows: 64", "rows: 128"),
        ("rows: 64", "rows: 64, refresh: false"),
        ("rows: 64", 'rows: 64, options: {trfc_ns: "360"}'),
        ("lanes: 1", "lanes: 2"),
        ("lanes: 1", "lanes: 1, queue_depth: 5"),
        ("ddr4_3200", "ddr4_2400"),
    ],
)
def test_content_hash_sees_every_change(old: str, new: str) -> None:
    changed = HardwareConfig.parse(MINIMAL.replace(old, new))
    assert changed.content_hash != HardwareConfig.parse(MINIMAL).content_hash


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("null", None),
        ("", None),
        ("0", 0),
        ("-12", -12),
        ("0x1F", 31),
        ("0b101", 5),
        ("0o17", 15),
        ("1e9", 1e9),
        ("1.5", 1.5),
        (".5e-3", 0.0005),
        (".inf", math.inf),
        ("2024-01-01", "2024-01-01"),
        ("1e", "1e"),
        ("7b_4", "7b_4"),
        ("'on'", "on"),
        ('"0100"', "0100"),
        ("n", "n"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    data, _ = parse_yaml(f"key: {text}", "x.yaml")
    assert data == {"key": value}
    assert type(data["key"]) is type(value)


@pytest.mark.parametrize("text", ["on", "Off", "YES", "no", "True", "NULL", "010", "1:30", "0x1_0"])
def test_ambiguous_scalars_are_refused_as_value_and_as_key(text: str) -> None:
    for document in (f"key: {text}", f"{text}: 1", f"- a\n- {text}"):
        with pytest.raises(ConfigError, match=r"x.yaml:\d: .*quote it"):
            parse_yaml(document, "x.yaml")


def test_locations() -> None:
    text = "a: 1\nb:\n  - c: 2\n    d: 3\n  - 4\n"
    data, where = parse_yaml(text, "x.yaml")
    assert data == {"a": 1, "b": [{"c": 2, "d": 3}, 4]}
    assert [where.line(p) for p in ((), ("a",), ("b",), ("b", 0, "d"), ("b", 1))] == [1, 1, 2, 4, 5]
    assert where.where(("b", 0, "unknown")) == "x.yaml:3"


def test_the_caller_chooses_the_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError):
        load_yaml(tmp_path / "none.yaml", SpecError)
    with pytest.raises(SpecError, match="x.yaml:2: key 'a' is given twice"):
        parse_yaml("a: 1\na: 2", "x.yaml", SpecError)


_TEXT = st.text(st.sampled_from("aZ09 .:,-#'\"{}[]&*!|>%@`~_\\\n\té"), max_size=8)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | _TEXT
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(_TEXT, _JSON, min_size=1, max_size=4))
def test_json_is_read_exactly(data: dict) -> None:
    text = json.dumps(data, ensure_ascii=False)
    assert parse_yaml(text, "x.yaml")[0] == data


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_yaml(text, "x.yaml")
    except ConfigError as error:
        assert str(error).startswith("x.yaml")


def test_units_of_keys() -> None:
    assert units.unit_of("trfc_ns").symbol == "ns"
    assert units.unit_of("rows") is None
    assert units.unit_of("ns") is None
    assert units.to_base("clock_mhz", 1600) == 1_600_000_000
    assert units.to_base("width_bits", 64) == 8
    assert units.to_base("bus_gbps", "25.6") == Fraction(25_600_000_000)
    with pytest.raises(ConfigError, match="'rows' carries no unit"):
        units.to_base("rows", 1)


@pytest.mark.parametrize(
    ("time_ns", "tck_ps", "cycles"),
    [(350, 625, 560), (360, 625, 576), (13.75, 625, 22), ("13.750001", 625, 23), (0, 625, 0),
     (1, 1000, 1), (0.1, 100, 1), (195, 416, 469), (350, 833, 421)],
)  # fmt: skip
def test_ns_to_cycles_rounds_up_exactly(time_ns: float | str, tck_ps: int, cycles: int) -> None:
    assert units.ns_to_cycles(time_ns, tck_ps) == cycles


@given(st.integers(0, 10**9), st.integers(1, 10**5))
def test_cycles_survive_the_way_through_ns(cycles: int, tck_ps: int) -> None:
    assert units.ns_to_cycles(Fraction(cycles * tck_ps, 1000), tck_ps) == cycles
    assert units.cycles_to_ns(cycles, tck_ps) == pytest.approx(cycles * tck_ps / 1000)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.31e13, "13.1 TB/s"), (999.9, "1 kB/s"), (0, "0 B/s"), (0.0125, "12.5 mB/s"),
     (-2e9, "-2 GB/s"), (3e-11, "30 pB/s"), (2.5e-6, "2.5 uB/s")],
)  # fmt: skip
def test_format_si(value: float, text: str) -> None:
    assert units.format_si(value, "B/s") == text


def test_format_cycles_names_the_clock_domain() -> None:
    assert units.format_cycles(1186, 1600.0, "memory-clock") == "1,186 memory-clock cycles (741 ns)"
