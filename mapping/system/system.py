"""A machine as one strict description: `mapping/system/presets/*.yaml`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, Field, model_validator

from bankside.errors import ConfigError
from bankside.mapping.system.devices import (
    Array,
    DimmPim,
    HbmPim,
    Host,
    LogicPim,
    Npu,
    RankPim,
)
from bankside.mapping.system.gpu import Gpu, Link
from bankside.mapping.system.sourced import Count, Sourced
from bankside.mapping.system.tables import gpu_names, load_gpu, load_link
from bankside.registry import nearest
from bankside.schema import key_problem, validate
from bankside.strict_yaml import Locations, load_yaml, parse_yaml

PRESETS = Path(__file__).parent / "presets"
ALIASES = {"dgx-a100-l3": "l3"}
_PIM = ("hbm_pim", "logic_pim", "rank_pim", "dimm_pim")
_BY_NAME: dict[str, Callable[[str], Sourced]] = {
    "gpu": load_gpu, "gpu_link": load_link, "host_link": load_link,
}  # fmt: skip
_WORDS = {"name", "summary", "source", "notes"}


class _NoFile(Locations):
    """Of a description that stands in no file."""

    def where(self, key_path: Sequence[object] = ()) -> str:
        return str(self.path)


class System(Sourced):
    """A machine: GPUs and what stands beside them.

    `gpu`, `gpu_link` and `host_link` may be names (`gpus.yaml`, `links.yaml`) or sections written
    out. By default the links are those of the GPU.

    Attributes:
        name: for people.
        summary: what it is, in a line.
        policy: the mapping policy that is natural for it.
        gpu: each of the `gpus` equal GPUs; None without.
        gpu_link: between GPUs; None without.
        host_link: between a GPU and the host; `host_links` of them work at the same time.
        host: CPUs and their memory.
        hbm_pim, logic_pim, rank_pim, dimm_pim: at most one of them.
        array, npu: accelerators.
        notes: assumptions, for reports.
    """

    name: str = Field(min_length=1)
    summary: str
    policy: str
    gpu: Gpu | None = None
    gpus: Count = 1
    gpu_link: Link | None = None
    host_link: Link | None = None
    host_links: Count = 1
    host: Host | None = None
    hbm_pim: HbmPim | None = None
    logic_pim: LogicPim | None = None
    rank_pim: RankPim | None = None
    dimm_pim: DimmPim | None = None
    array: Array | None = None
    npu: Npu | None = None
    notes: tuple[str, ...] = Field(default=(), strict=False)

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: object) -> object:
        """Put the named GPU and links in, and the GPU's own links where none are given."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        for key, load in _BY_NAME.items():
            if isinstance(data.get(key), str):
                data[key] = _named(key, load, data[key])
        gpu = data.get("gpu")
        if isinstance(gpu, Gpu):
            data.setdefault("host_link", load_link(gpu.bus))
            if data.get("gpus", 1) != 1 and gpu.peer_link:
                data.setdefault("gpu_link", load_link(gpu.peer_link))
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [key for key in _PIM if getattr(self, key) is not None]
        if len(given) > 1:
            raise key_problem(given[1], f"stands beside {given[0]}; a system has one kind of PIM")
        if not (self.gpu or self.array or self.npu):
            raise key_problem("gpu", "is missing, and so are array and npu; nothing would compute")
        if given and self.gpu is None:
            raise key_problem("gpu", f"is missing; {given[0]} computes attention only")
        for key in ("rank_pim", "dimm_pim"):
            if key in given and (self.host is None or self.host_link is None):
                raise key_problem("host", f"is missing; {key} stands in the host's memory")
        for key, engine in (("array", self.array), ("npu", self.npu)):
            if engine is not None and engine.link is not None:
                _named(f"{key}.link", load_link, engine.link)
        return self

    # --- reading ----------------------------------------------------------------------------------
    @classmethod
    def load(cls, source: str | Path) -> System:
        """Read a system.

        Args:
            source: a preset's name; a GPU's name (one GPU alone); or the path of a YAML file
                (contains "/" or ends in .yaml or .yml).

        Raises:
            ConfigError: no such preset or file, or the description is not valid.
        """
        text = str(source)
        if isinstance(source, Path) or "/" in text or text.endswith((".yaml", ".yml")):
            return _validated(*load_yaml(Path(source)))
        return _preset(text)

    @classmethod
    def parse(cls, text: str, name: str = "<text>") -> System:
        """Read a system from YAML text; `name` stands for the file in messages."""
        return _validated(*parse_yaml(text, name))

    def with_(self, path: str, value: Any) -> System:
        """A copy with one value changed and everything checked again.

        Args:
            path: dotted keys, for example "gpu.memory_gbps" or "dimm_pim.ranks_per_dimm". With
                another GPU the links stay as they are.
            value: the new value; None takes an optional section away.

        Raises:
            ConfigError: no such key, or the new system is not valid.
        """
        data: dict[str, Any] = self.model_dump()
        *parents, last = path.split(".")
        inside: Any = data
        for depth, key in enumerate([*parents, last]):
            if not isinstance(inside, dict) or key not in inside:
                valid = list(inside) if isinstance(inside, dict) else []
                raise ConfigError(
                    f"system {self.name!r} has no {'.'.join(path.split('.')[: depth + 1])!r}"
                    f"{nearest(key, valid)}; keys there: {', '.join(valid) or 'none'}"
                )
            if depth < len(parents):
                inside = inside[key]
        old = inside[last]
        # Numbers of numpy are not what a strict description takes for integers.
        inside[last] = value.item() if hasattr(value, "item") else value
        if isinstance(inside.get("source"), dict) and not isinstance(old, dict):
            inside["source"][last] = f"set to {value} (was {old})"
        return validate(System, data, _NoFile(Path(f"system {self.name!r}")))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some attributes changed, checked again, nothing cached taken over."""
        return type(self).model_validate(self.model_dump() | dict(update or {}))

    # --- what follows -----------------------------------------------------------------------------
    @property
    def pim(self) -> HbmPim | LogicPim | RankPim | DimmPim | None:
        """The PIM it has, of whatever kind."""
        return next((found for key in _PIM if (found := getattr(self, key))), None)

    @property
    def gpu_memory_bytes(self) -> float:
        """Capacity of all GPUs."""
        return self.gpus * self.gpu.memory_bytes if self.gpu else 0.0

    @property
    def gpu_bandwidth(self) -> float:
        """Bytes per second of all GPUs' memories."""
        return self.gpus * self.gpu.memory_bandwidth if self.gpu else 0.0

    def gpu_flops(self, bits: float = 16) -> float:
        """Operations per second of all GPUs' matrix units on numbers of that width."""
        return self.gpus * self.gpu.matrix_flops(bits) if self.gpu else 0.0

    @property
    def host_bandwidth(self) -> float:
        """Bytes per second between GPUs and host in one direction: links or host memory."""
        if self.host_link is None:
            return 0.0
        links = self.host_links * self.host_link.bandwidth
        return min(links, self.host.memory_bandwidth) if self.host else links

    @cached_property
    def content_hash(self) -> str:
        """64 hexadecimal digits, equal for equal machines, whatever their names and sources."""
        content = _without_words(self.model_dump(mode="json"))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __hash__(self) -> int:
        return hash(self.content_hash)

    def sources(self) -> dict[str, str]:
        """Where every number comes from: dotted key -> words."""
        return dict(_sources(self, ""))


def _named(key: str, load: Callable[[str], Sourced], name: str) -> Sourced:
    try:
        return load(name)
    except ConfigError as bad:
        raise key_problem(key, str(bad)) from bad


def _without_words(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _without_words(v) for k, v in data.items() if k not in _WORDS}
    return data


def _sources(section: Sourced, prefix: str) -> Any:
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, Sourced):
            yield from _sources(value, f"{prefix}{key}.")
        elif isinstance(value, int | float | tuple | BaseModel) and key not in _WORDS:
            if source := section.source_of(key):
                yield f"{prefix}{key}", source


def _validated(data: object, locations: Locations) -> System:
    if isinstance(data, dict):
        data = {"name": locations.path.stem} | data
    return validate(System, data, locations)


def system_names() -> tuple[str, ...]:
    """Names that `System.load` knows: presets, aliases, single GPUs."""
    presets = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    return (*presets, *ALIASES, *gpu_names())


@lru_cache(maxsize=64)
def _preset(name: str) -> System:
    stem = ALIASES.get(name, name)
    path = PRESETS / f"{stem}.yaml"
    if name in system_names() and path.is_file():
        return _validated(*load_yaml(path))
    if name in gpu_names():
        data = {
            "name": name, "summary": f"one {name} alone", "policy": "gpu_only", "gpu": name,
            "gpus": 1, "source": {"rest": "by definition"},
        }  # fmt: skip
        return validate(System, data, _NoFile(Path(f"system {name!r}")))
    names = system_names()
    raise ConfigError(
        f"unknown system {name!r}{nearest(name, names)}; choose from: {', '.join(names)}; or give "
        f"the path of a YAML file"
    )
