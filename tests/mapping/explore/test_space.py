"""Descriptions and proposals."""

import random
from pathlib import Path

import pytest

from bankside.errors import ConfigError
from bankside.mapping.explore.search import SAMPLERS, Sample, ask
from bankside.mapping.explore.space import Choices, Range, load_space, random_value

HERE = Path(__file__).parent
EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.bad_inputs("explore")
def test_bad_descriptions(bad_case) -> None:
    with pytest.raises(ConfigError) as caught:
        load_space(bad_case.path)
    bad_case.check(caught.value)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("explore_*.yaml")), ids=lambda p: p.stem)
def test_examples_are_valid(path: Path) -> None:
    assert load_space(path).samplers[0] == "random"


@pytest.mark.parametrize(
    "given",
    [{"low": 3, "high": 40}, {"low": 8, "high": 64, "step": 8},
     {"low": 1, "high": 1024, "log": True},
     {"low": 0.5, "high": 2.0}, {"low": 0.0, "high": 1.0, "step": 0.25}],
)  # fmt: skip
def test_ranges(given: dict) -> None:
    parameter, rng = Range(**given), random.Random(1)
    values = {random_value(parameter, rng) for _ in range(2000)}
    assert min(values) >= given["low"] and max(values) <= given["high"]
    assert all(abs(parameter.at(parameter.share(v)) - v) < 1e-9 for v in values)
    assert all(type(v) is (int if parameter.whole else float) for v in values)
    assert len(values) == 2000 if parameter.grid is None else len(values) <= parameter.count
    assert parameter.at(0.0) == given["low"] and parameter.at(1.0) == given["high"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_never_repeats_and_ends(sampler: str, tmp_path: Path) -> None:
    (tmp_path / "quadratic.py").write_text((HERE / "quadratic.py").read_text())
    text = (HERE / "space.yaml").read_text().replace("high: 40", "high: 6")
    (tmp_path / "space.yaml").write_text(text)
    space, history = load_space(tmp_path / "space.yaml"), []
    assert space.size == 49
    for generation in range(10):
        points = ask(space, sampler, 3, generation, history, 10)
        assert points == ask(space, sampler, 3, generation, history, 10)
        history += [Sample(p, (float(p["x"]), -float(p["y"])), 0.0) for p in points]
    assert sorted((s.point["x"], s.point["y"]) for s in history) == [
        (x, y) for x in range(7) for y in range(7)
    ]


def test_other_seed_other_points() -> None:
    space = load_space(HERE / "space.yaml")
    assert ask(space, "random", 0, 0, [], 10) != ask(space, "random", 1, 0, [], 10)


def test_keys_tell_points_and_code_apart(tmp_path: Path) -> None:
    for name in ("quadratic.py", "space.yaml"):
        (tmp_path / name).write_text((HERE / name).read_text())
    here, there = load_space(HERE / "space.yaml"), load_space(tmp_path / "space.yaml")
    point = {"x": 1, "y": 2}
    assert here.key(point) == there.key(point) != here.key({"x": 2, "y": 1})
    with open(tmp_path / "quadratic.py", "a") as file:
        file.write("# changed\n")
    assert load_space(tmp_path / "space.yaml").key(point) != here.key(point)


def test_choices_are_drawn_as_they_are() -> None:
    rng = random.Random(0)
    drawn = {repr(random_value(Choices((1, "1", True)), rng)) for _ in range(100)}
    assert drawn == {"1", "'1'", "True"}
