"""Bindings of Einsums to blocks and units: what they say, what is refused."""

import pytest

from bankside.errors import ConfigError
from bankside.mapping.binding.loader import CAPABILITIES, binding_names, load_binding

SHAPE = {"M": 1024, "P": 16, "E": 64, "F": 64, "M0": 16}


@pytest.mark.bad_inputs("binding")
def test_refused(bad_case) -> None:
    with pytest.raises(ConfigError) as error:
        load_binding(bad_case.path)
    bad_case.check(error.value)


def test_names() -> None:
    assert binding_names() == (
        "architecture", "cascade", "flat", "flat_2pass", "interleaved", "unfused",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"unknown binding 'flats' \(did you mean 'flat'\?\)"):
        load_binding("flats")


@pytest.mark.parametrize("name", binding_names())
def test_every_operation_has_one_unit(name: str) -> None:
    binding = load_binding(name)
    by_unit, total = binding.operations(SHAPE), {}
    for counts in binding.cascade.operations(SHAPE).values():
        for unit, count in counts.items():
            total[unit] = total.get(unit, 0) + count
    both = {op: by_unit["array"].get(op, 0) + by_unit["lanes"].get(op, 0) for op in total}
    assert both == total


def test_what_moves_into_the_array() -> None:
    """FuseMax takes the exponentials from the lanes: 7 of their 8 operations per score."""
    scores = SHAPE["M"] * SHAPE["P"]
    inside = load_binding("interleaved").operations(SHAPE)
    outside = load_binding("cascade").operations(SHAPE)
    assert outside["lanes"]["mac"] - inside["lanes"]["mac"] == 6 * scores
    assert inside["array"]["mac"] == scores * (64 + 64 + 6)
    assert outside["array"] == {"mac": scores * 128}


def test_every_block_is_described() -> None:
    from bankside.isa.array_schedule import OPS

    assert set(CAPABILITIES) == set(OPS)


def test_cascade_beside_the_binding(tmp_path) -> None:
    """A binding of one's own names its cascade by a path from its own folder."""
    from bankside.mapping.binding.loader import FOLDER
    from bankside.mapping.cascade.loader import FOLDER as CASCADES

    (tmp_path / "own.yaml").write_text((CASCADES / "attention_1pass.yaml").read_text())
    text = (FOLDER / "interleaved.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("cascade: attention_1pass", "cascade: ./own.yaml"))
    binding = load_binding(path)
    assert (binding.name, binding.cascade.name) == ("mine", "own")
