"""GPUs and links by name, from `gpus.yaml` and `links.yaml`."""

from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from bankside.errors import ConfigError
from bankside.mapping.system.gpu import Gpu, Link
from bankside.mapping.system.sourced import Sourced
from bankside.registry import nearest
from bankside.schema import validate
from bankside.strict_yaml import load_yaml

_FOLDER = Path(__file__).parent
S = TypeVar("S", bound=Sourced)


def read_table(model: type[S], path: Path) -> dict[str, S]:
    """Read a file of `name: section` lines.

    Raises:
        ConfigError: it is not valid; with file and line.
    """
    data, locations = load_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{locations.where()}: expected `name: ...` lines")
    found = {}
    for name, section in data.items():
        inside = locations.below((name,))
        if isinstance(section, dict):
            section = {"name": str(name)} | section
        found[str(name)] = validate(model, section, inside)
    return found


@lru_cache(maxsize=1)
def _gpus() -> dict[str, Gpu]:
    gpus = read_table(Gpu, _FOLDER / "gpus.yaml")
    for gpu in gpus.values():
        for name in filter(None, (gpu.bus, gpu.peer_link)):
            load_link(name)
    return gpus


@lru_cache(maxsize=1)
def _links() -> dict[str, Link]:
    return read_table(Link, _FOLDER / "links.yaml")


def _find(kind: str, name: str, table: dict[str, S]) -> S:
    if name not in table:
        raise ConfigError(
            f"unknown {kind} {name!r}{nearest(name, table)}; choose from: {', '.join(table)}; or "
            f"write the section out"
        )
    return table[name]


def gpu_names() -> tuple[str, ...]:
    """GPUs that come with the package."""
    return tuple(_gpus())


def link_names() -> tuple[str, ...]:
    """Links that come with the package."""
    return tuple(_links())


def load_gpu(name: str) -> Gpu:
    """The GPU of that name. Raises ConfigError for an unknown one; the message lists them."""
    return _find("GPU", name, _gpus())


def load_link(name: str) -> Link:
    """The link of that name. Raises ConfigError for an unknown one; the message lists them."""
    return _find("link", name, _links())
