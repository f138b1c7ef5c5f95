"""Registries and lazily imported entries."""

import sys
from pathlib import Path

import pytest

from bankside.errors import ConfigError, ToolError
from bankside.registry import Lazy, Registry


@pytest.fixture
def colours() -> Registry[int]:
    registry: Registry[int] = Registry("colour")
    registry.add("red", 1)
    registry.add("green", 2)
    return registry


def test_lookup_and_order(colours: Registry[int]) -> None:
    assert colours.get("green") == 2
    assert colours.names() == ("red", "green") == tuple(colours)
    assert "red" in colours and "blue" not in colours
    assert len(colours) == 2


def test_decorator_returns_what_it_registers(colours: Registry) -> None:
    @colours.register("blue")
    def blue() -> int:
        return 3

    assert colours.get("blue") is blue and blue() == 3


def test_unknown_name_lists_the_valid_ones(colours: Registry[int]) -> None:
    with pytest.raises(ConfigError) as caught:
        colours.get("gren")
    assert str(caught.value) == (
        "unknown colour 'gren' (did you mean 'green'?); choose from: red, green"
    )


def test_unknown_name_of_an_empty_registry() -> None:
    with pytest.raises(ConfigError, match="choose from: none is registered"):
        Registry("ghost").get("x")


def test_duplicate_is_refused_and_the_first_stays(colours: Registry[int]) -> None:
    with pytest.raises(ConfigError, match="colour 'red' is registered twice"):
        colours.add("red", 9)
    assert colours.get("red") == 1


def test_lazy_entry_is_imported_by_the_first_get_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lazy_probe_module.py").write_text("thing = object()\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[object] = Registry("thing")
    registry.add("probe", Lazy("lazy_probe_module:thing"))
    assert "probe" in registry
    assert "lazy_probe_module" not in sys.modules
    first = registry.get("probe")
    assert first is sys.modules["lazy_probe_module"].thing
    assert registry.get("probe") is first
    monkeypatch.delitem(sys.modules, "lazy_probe_module")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("bankside.nothing:x", "module 'bankside.nothing' is missing; it is not part of this"),
        ("no_such_package.part:x", "install it: python -m pip install no_such_package"),
        ("bankside.units:no_such_name", "no such object"),
    ],
)
def test_lazy_entry_that_cannot_be_imported(target: str, message: str) -> None:
    with pytest.raises(ToolError) as caught:
        Lazy(target).load()
    assert message in str(caught.value) and target in str(caught.value)
