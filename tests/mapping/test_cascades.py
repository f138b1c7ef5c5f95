"""Cascades of Einsums: passes, elements alive, traffic, operations; what is refused."""

import json

import pytest

from bankside.errors import ConfigError
from bankside.mapping.cascade.analysis import (
    analyse,
    independent_ranks,
    input_passes,
    pass_count,
    passes,
)
from bankside.mapping.cascade.loader import cascade_names, load_cascade

SHAPE = {"M": 4096, "P": 64, "E": 64, "F": 64, "M0": 256}


@pytest.mark.bad_inputs("cascade")
def test_refused(bad_case) -> None:
    with pytest.raises(ConfigError) as error:
        load_cascade(bad_case.path)
    bad_case.check(error.value)


@pytest.mark.parametrize(
    ("name", "rank", "expected"),
    [
        ("attention_3pass", "m", 3),
        ("attention_2pass", "m1", 2),
        ("attention_1pass", "m1", 1),
        # Within a tile the scores are walked twice: the tile's maximum comes first.
        ("attention_1pass", "m0", 2),
        ("attention_3pass", "e", 1),
    ],
)
def test_passes(name: str, rank: str, expected: int) -> None:
    assert pass_count(load_cascade(name), rank) == expected


def test_passes_of_inputs() -> None:
    three = load_cascade("attention_3pass")
    assert input_passes(three, "K", "m") == [1] and input_passes(three, "V", "m") == [3]
    one = load_cascade("attention_1pass")
    assert input_passes(one, "V", "m1") == [1] and input_passes(one, "V", "m0") == [2]


def test_every_einsum_of_three_passes() -> None:
    assert passes(load_cascade("attention_3pass"), "m") == {
        "QK": 1, "M": 1, "SN": 2, "SD": 2, "A": 3, "AV": 3,
    }  # fmt: skip


@pytest.mark.parametrize("name", cascade_names())
def test_queries_are_independent(name: str) -> None:
    assert independent_ranks(load_cascade(name)) == ("p",)


def test_only_one_pass_keeps_nothing_of_the_sequence() -> None:
    """Elements alive per query, for twice the keys."""
    short, long = ({**SHAPE, "M": keys} for keys in (4096, 8192))
    growth = {
        name: analyse(load_cascade(name), long).alive_peak
        - analyse(load_cascade(name), short).alive_peak
        for name in cascade_names()
    }
    # Three passes keep the scores while they become numerators; two keep a maximum and F partial
    # sums per tile, here fewer than the scores of a tile.
    assert growth == {"attention_1pass": 0, "attention_2pass": 16 * 65, "attention_3pass": 8192}


def test_two_passes_keep_what_is_smaller() -> None:
    """The numerators of a tile, or their sums with the values: whichever has fewer elements."""
    cascade = load_cascade("attention_2pass")
    assert set(analyse(cascade, SHAPE).crossing) == {"RM", "SLNV"}
    wide = analyse(cascade, {**SHAPE, "M0": 16})
    assert set(wide.crossing) == {"RM", "SLN"}
    assert wide.placed["SLNV"] == 2 and wide.passes["V"]["m1"] == [2]


def test_traffic() -> None:
    m, p, e, f = (SHAPE[name] for name in "MPEF")
    once = 2 * (p * e + m * e + m * f + p * f)
    for name in cascade_names():
        assert analyse(load_cascade(name), SHAPE).traffic_bytes == once
    assert analyse(load_cascade("attention_1pass"), SHAPE).spilled_bytes == once
    # The scores are written once and read once, the numerators too.
    assert analyse(load_cascade("attention_3pass"), SHAPE).spilled_bytes == once + 2 * 4 * m * p


def test_operations() -> None:
    """Counts of the paper per element. Ref: arXiv 2406.10491."""
    m, p, e, f, tiles = 4096, 64, 64, 64, 16
    found = load_cascade("attention_1pass").operations(SHAPE)
    assert found == {
        "QK": {"mac": m * p * e}, "LM": {"max": m * p}, "RM": {"max": tiles * p},
        "SLN": {"add": m * p, "mac": 6 * m * p}, "SLD": {"add": m * p},
        "SLNV": {"mac": m * p * f}, "PRM": {"add": tiles * p, "mac": 6 * tiles * p},
        "SPD": {"mac": tiles * p}, "RD": {"add": tiles * p}, "SPNV": {"mac": tiles * p * f},
        "RNV": {"add": tiles * p * f}, "AV": {"divide": p * f},
    }  # fmt: skip
    # Dividing at the end takes F divisions per query, dividing the numerators M.
    three = load_cascade("attention_3pass").operations(SHAPE)
    assert three["A"] == {"divide": m * p} and three["AV"] == {"mac": m * p * f}


def test_ragged_tiles_round_up() -> None:
    assert load_cascade("attention_1pass").extents({**SHAPE, "M": 4097})["m1"] == 17


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"M": 4}, "cascade attention_3pass: rank p has P elements; give a shape"),
        ({"M": 0, "P": 1, "E": 1, "F": 1}, "rank m has M = 0 elements; expected at least 1"),
    ],
)
def test_bad_shapes(shape: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        analyse(load_cascade("attention_3pass"), shape)


LAYER_NORM = """\
ranks: {d: D, t: T}
inputs: {X: [d, t], N: [t]}
outputs: [Y]
walk: d
einsums:
  S: {out: "[t]", of: ["X[d, t]"], reduce: add}
  U: {out: "[t]", of: ["S[t]", "N[t]"], map: div}
  C: {out: "[d, t]", of: ["X[d, t]", "U[t]"], map: sub}
  V: {out: "[t]", of: ["C[d, t]", "C[d, t]"], map: mul, reduce: add}
  Y: {out: "[d, t]", of: ["C[d, t]", "V[t]"], map: div}
"""


def test_own_cascade(tmp_path, run_cli) -> None:
    """A normalisation walks its input three times; the command line shows it."""
    path = tmp_path / "norm.yaml"
    path.write_text(LAYER_NORM)
    assert pass_count(load_cascade(path), "d") == 3
    done = run_cli("cascade", path, "--shape", "D=128,T=4", "--json")
    found = json.loads(done.stdout)
    assert found["walks"] == 3 and found["passes"]["X"]["d"] == [1, 2]
    assert found["placed"] == {"S": 1, "U": 1, "C": 2, "V": 2, "Y": 3}
    text = run_cli("cascade", path, "--shape", "D=128,T=4").stdout
    assert text.startswith("norm: 3 passes over d\n")
    assert "C stays alive for pass 3" in text


def test_command_line_refuses(run_cli) -> None:
    done = run_cli("cascade", "attention_4pass")
    assert done.returncode == 2 and "did you mean 'attention_" in done.stderr
    done = run_cli("cascade", "attention_1pass", "--shape", "M=x")
    assert done.returncode == 2 and "shape: 'M=x'; write for example" in done.stderr
