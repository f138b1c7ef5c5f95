"""Where architectures come from: presets, YAML files, Hugging Face `config.json`."""

from functools import lru_cache
from pathlib import Path

from bankside.errors import ConfigError
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.huggingface import read_config
from bankside.registry import nearest
from bankside.schema import validate
from bankside.strict_yaml import Locations, load_yaml

PRESETS = Path(__file__).parents[1] / "models" / "architectures.yaml"
_SOURCE_KEYS = ("source", "source_of")


def load_architecture(source: str | Path) -> Architecture:
    """See `Architecture.load`."""
    text = str(source)
    if not isinstance(source, Path) and "/" not in text and not _is_file_name(text):
        return preset(text)
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        data, locations = load_yaml(path)
        if isinstance(data, dict):
            data = {"name": path.stem} | data
        return validate(Architecture, data, locations)
    return read_config(path / "config.json" if path.is_dir() else path)


def _is_file_name(text: str) -> bool:
    return text.endswith((".json", ".yaml", ".yml"))


def architecture_names() -> tuple[str, ...]:
    """Names of the presets, in the order of the file."""
    return tuple(_presets())


def preset(name: str) -> Architecture:
    """The preset of that name. Raises ConfigError for an unknown one; the message lists them."""
    return _presets()[_known(name)][0]


def preset_sources(name: str) -> dict[str, str]:
    """Where each number of a preset was read: attribute -> source in words."""
    return dict(_presets()[_known(name)][1])


def _known(name: str) -> str:
    names = architecture_names()
    if name not in names:
        raise ConfigError(
            f"unknown model {name!r}{nearest(name, names)}; choose from: {', '.join(names)}; or "
            f"give the path of a Hugging Face config.json, of its folder, or of a YAML file"
        )
    return name


@lru_cache(maxsize=1)
def _presets() -> dict[str, tuple[Architecture, dict[str, str]]]:
    return read_presets(PRESETS)


def read_presets(path: Path) -> dict[str, tuple[Architecture, dict[str, str]]]:
    """Read a file of presets: name -> (architecture, source of each attribute).

    Raises:
        ConfigError: the file is not valid, or a number has no source.
    """
    data, locations = load_yaml(path)
    if not isinstance(data, dict) or set(data) != {"sources", "models"}:
        raise ConfigError(f"{locations.where()}: expected the keys sources and models, no others")
    for key in ("sources", "models"):
        if not isinstance(data[key], dict):
            raise ConfigError(f"{locations.where((key,))}: {key}: expected `name: ...` lines")
    return {
        str(name): _entry(str(name), entry, data["sources"], locations.below(("models", name)))
        for name, entry in data["models"].items()
    }


def _entry(
    name: str, entry: object, sources: dict, locations: Locations
) -> tuple[Architecture, dict[str, str]]:
    if not isinstance(entry, dict):
        raise ConfigError(f"{locations.where()}: {name}: expected `key: value` lines")
    arch = validate(
        Architecture,
        {"name": name} | {k: v for k, v in entry.items() if k not in _SOURCE_KEYS},
        locations,
    )
    main, exceptions = entry.get("source"), entry.get("source_of", {})
    if main is None or not isinstance(exceptions, dict):
        raise ConfigError(
            f"{locations.where()}: {name}: expected `source: KEY`, and for single attributes "
            f"`source_of: {{attribute: KEY}}`"
        )
    for attribute, key in {"source": main, **exceptions}.items():
        if attribute != "source" and attribute not in entry:
            raise ConfigError(
                f"{locations.where(('source_of', attribute))}: {name}: source_of names "
                f"{attribute!r}, which is not given{nearest(str(attribute), map(str, entry))}"
            )
        if key not in sources:
            raise ConfigError(
                f"{locations.where(('source_of', attribute))}: {name}: unknown source "
                f"{key!r}{nearest(str(key), sources)}; sources: {', '.join(sources)}"
            )
    given = [key for key in entry if key not in _SOURCE_KEYS]
    return arch, {key: str(sources[exceptions.get(key, main)]) for key in given}
