"""Loads a DRAM timing-constraint table (`*.yaml` of this folder) and checks it against itself."""

from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from bankside.errors import SpecError
from bankside.isa.dram.standard import (
    LEVELS,
    SCOPES,
    STALL_TAGS,
    Command,
    Constraint,
    DramStandard,
    FrozenMap,
    Geometry,
    State,
)
from bankside.isa.expr import evaluate, names_in

__all__ = [
    "Command", "Constraint", "DramStandard", "Geometry", "State", "load_standard", "load_tables",
    "standard_names",
]  # fmt: skip

_FOLDER = Path(__file__).resolve().parent
_PIM = "pim.yaml"
_SECTIONS = {
    "family", "sources", "geometry", "parameters", "grades", "options", "commands", "groups",
    "constraints",
}  # fmt: skip
_ROW_KEYS = {
    "level", "preceding", "following", "latency", "window", "stall", "families", "when",
}  # fmt: skip
_ROW_NEEDED = ("level", "preceding", "following", "latency", "stall")
_COMMAND_VALUES = {
    "scope": SCOPES,
    "needs": ("open", "closed", "any"),
    "effect": ("open", "close", "none"),
    "bus": ("read", "write", "none"),
}


class _Loader(yaml.SafeLoader):
    """YAML without duplicate keys: the second one would silently replace the first."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
    seen: set = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            line = key_node.start_mark.line + 1
            raise SpecError(
                f"{loader.name}:{line}: the key {key!r} appears twice; expected it once; remove one"
            )
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)


def _read(path: Path) -> dict[str, Any]:
    """The checked sections of a table; parsed once per state of the file, for YAML is slow."""
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        stamp = 0
    return _parse(path, stamp)


@lru_cache(maxsize=32)
def _parse(path: Path, _stamp: int) -> dict[str, Any]:
    try:
        loader = _Loader(path.read_text())
        loader.name = path.name
        data = loader.get_single_data()
    except OSError as error:
        raise SpecError(
            f"{path.name}: cannot read the table ({error.strerror}); check the path"
        ) from None
    except yaml.YAMLError as error:
        raise SpecError(f"{path.name}: not YAML: {error}; correct the syntax") from None
    if not isinstance(data, dict) or not _SECTIONS >= set(data):
        odd = sorted(set(data) - _SECTIONS) if isinstance(data, dict) else [type(data).__name__]
        raise SpecError(
            f"{path.name}: unknown section {odd}; expected some of {sorted(_SECTIONS)}; rename it"
        )
    return data


def _sourced(entry: Any, sources: Mapping[str, str], where: str) -> int | str:
    """The value of a `[value, source]` pair whose source starts with a declared name."""
    if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)):
        raise SpecError(f"{where}: expected [value, source], found {entry!r}; give the source")
    if entry[1].split()[0] not in sources:
        raise SpecError(
            f"{where}: unknown source {entry[1]!r}; expected it to start with one of "
            f"{sorted(sources)}; declare it under `sources`"
        )
    return entry[0]


class _Table:
    """A family file together with the PIM file, one speed grade, resolved to integers."""

    def __init__(self, family: Path, pim: Path, grade: str):
        self.files = {path.name: _read(path) for path in (family, pim)}
        self.family_file, self.pim_file = family.name, pim.name
        self.base, self.grade = self.files[family.name], grade
        self.family = self.base["family"]

    def geometry(self, overrides: Mapping[str, int] | None) -> Geometry:
        base = self.base
        values: dict[str, Any] = {
            k: _sourced(v, base["sources"], f"{self.family_file}: {k}")
            for k, v in base["geometry"].items()
        }
        where = f"{self.family_file}: geometry"
        for key, value in (overrides or {}).items():
            if key not in values:
                raise SpecError(
                    f"{where}: unknown key {key!r}; expected {sorted(values)}; use one of them"
                )
            values[key] = value
        for key, value in values.items():
            if not isinstance(value, int) or value < 1 or value & (value - 1):
                raise SpecError(
                    f"{where}: {key} is {value!r}; expected a power of two (address bits); "
                    f"choose the nearest one"
                )
        return Geometry(**values)

    def params(
        self, geometry: Geometry, chosen: Mapping[str, Any], overrides: Mapping[str, int]
    ) -> tuple[dict[str, int], dict[str, Any]]:
        """Cycle counts and resolved options of the grade, in the order of the files."""
        fixed = {
            "bank_groups": geometry.bank_groups,
            "banks_per_group": geometry.banks_per_group,
            "banks": geometry.banks,
        }
        expressions: dict[str, tuple[int | str, str]] = {}
        for file, data in self.files.items():
            rows = dict(data.get("grades", {}).get(self.grade, {}))
            rows |= data.get("parameters", {})
            for key, entry in rows.items():
                where = f"{file}: {key}"
                expressions[key] = (_sourced(entry, data["sources"], where), where)
        values = self._resolve(expressions, fixed, overrides)
        options = self._options(chosen, values, fixed, overrides)
        for name in overrides:
            if name not in values:
                raise SpecError(
                    f"{self.family_file}: unknown parameter {name!r}; expected one of "
                    f"{sorted(values)}; use one of them"
                )
        return values, options

    @staticmethod
    def _resolve(
        expressions: Mapping[str, tuple[int | str, str]],
        fixed: Mapping[str, int],
        overrides: Mapping[str, int],
    ) -> dict[str, int]:
        values: dict[str, int] = {}
        # Plain numbers first: an expression may name a parameter that stands below it.
        for key, (text, where) in sorted(
            expressions.items(), key=lambda i: isinstance(i[1][0], str)
        ):
            value = (
                overrides[key] if key in overrides else evaluate(text, {**fixed, **values}, where)
            )
            if value < 0:
                raise SpecError(f"{where}: {value} is negative; expected cycles; correct it")
            values[key] = value
        return values

    def _options(
        self,
        chosen: Mapping[str, Any],
        values: dict[str, int],
        fixed: Mapping[str, int],
        overrides: Mapping[str, int],
    ) -> dict[str, Any]:
        resolved: dict[str, Any] = {}
        known = {n for data in self.files.values() for n in data.get("options", {})}
        for name in chosen:
            if name not in known:
                raise SpecError(
                    f"{self.grade}: unknown option {name!r}; expected one of {sorted(known)}; "
                    f"use one of them"
                )
        for file, data in self.files.items():
            for name, spec in data.get("options", {}).items():
                where = f"{file}: option {name}"
                choices, default = self._choices(spec, data, {**fixed, **values}, where)
                asked = chosen.get(name, default)
                # By text: descriptions written in YAML may say 12 as well as "12".
                value = next((c for c in choices if str(c) == str(asked)), None)
                if value is None:
                    raise SpecError(
                        f"{where}: {asked!r} does not exist in {self.grade}; expected one of "
                        f"{', '.join(map(str, choices))}; use one of them"
                    )
                resolved[name] = value
                if "parameter" in spec:
                    values[spec["parameter"]] = overrides.get(spec["parameter"], choices[value])
        return resolved

    def _choices(
        self, spec: Mapping[str, Any], data: Mapping[str, Any], names: Mapping[str, int], where: str
    ) -> tuple[dict[Any, Any], Any]:
        """The choices of an option with the value each gives its parameter, and the default."""
        if "names" in spec:
            return {n: n for n in spec["names"]}, spec["default"]
        if spec.get("values") == "cycles":
            found = [
                evaluate(_sourced(entry, data["sources"], where), names, where)
                for entry in spec["choices"]
            ]
            return {cycles: cycles for cycles in found}, found[spec["default"] - 1]
        grades = spec["grades"]
        if self.grade not in grades:
            raise SpecError(f"{where}: no entry for {self.grade}; add one under `grades`")
        entries = grades[self.grade].items()
        return {k: _sourced(v, data["sources"], where) for k, v in entries}, spec["default"]

    def commands(self) -> tuple[Command, ...]:
        found: list[Command] = []
        for file, data in self.files.items():
            for name, spec in data.get("commands", {}).items():
                where = f"{file}: command {name}"
                if any(c.name == name for c in found):
                    raise SpecError(f"{where}: declared twice; expected once; remove one")
                spec = {"bus": "none"} | spec
                if odd := set(spec) ^ {*_COMMAND_VALUES, "cycles"}:
                    raise SpecError(f"{where}: missing or unknown keys {sorted(odd)}; correct them")
                for key, allowed in _COMMAND_VALUES.items():
                    if spec[key] not in allowed:
                        raise SpecError(
                            f"{where}: {key} {spec[key]!r}; expected one of {', '.join(allowed)}"
                            f"; use one of them"
                        )
                cycles = spec["cycles"]
                cycles = cycles[self.family] if isinstance(cycles, dict) else cycles
                found.append(Command(name, len(found), **(spec | {"cycles": cycles})))
        return tuple(found)

    def constraints(
        self, commands: tuple[Command, ...], names: Mapping[str, int], options: Mapping[str, Any]
    ) -> tuple[Constraint, ...]:
        rows: list[Constraint] = []
        explicit: set[str] = set()
        for file, data in self.files.items():
            groups = data.get("groups", {})
            for number, spec in enumerate(data["constraints"]):
                where = f"{file}: constraint {number + 1}"
                self._check_row(spec, where)
                if self._is_active(spec, options, where):
                    row = _row(spec, len(rows), [c.name for c in commands], groups, names, where)
                    _refuse_duplicate(row, rows, where)
                    rows.append(row)
                    explicit.update(row.preceding)
                    explicit.update(() if spec["following"] == ["any"] else row.following)
        for command in commands:
            if command.name not in explicit:
                raise SpecError(
                    f"{self.family_file}: no constraint row names the command {command.name}; "
                    f"expected at least one; add its rows"
                )
        return tuple(rows)

    @staticmethod
    def _check_row(spec: Mapping[str, Any], where: str) -> None:
        missing = [k for k in _ROW_NEEDED if k not in spec]
        unknown = sorted(set(spec) - _ROW_KEYS)
        if missing or unknown:
            raise SpecError(
                f"{where}: missing keys {missing}, unknown keys {unknown}; expected "
                f"{', '.join(_ROW_NEEDED)} and perhaps window, families, when; correct the row"
            )
        if spec["level"] not in LEVELS:
            raise SpecError(
                f"{where}: unknown level {spec['level']!r}; expected one of {', '.join(LEVELS)}; "
                f"use one of them"
            )
        if spec["stall"] not in STALL_TAGS:
            raise SpecError(
                f"{where}: unknown stall tag {spec['stall']!r}; expected one of "
                f"{', '.join(STALL_TAGS)}; use one of them"
            )

    def _is_active(self, spec: Mapping[str, Any], options: Mapping[str, Any], where: str) -> bool:
        for option, value in spec.get("when", {}).items():
            if option not in options:
                raise SpecError(f"{where}: unknown option {option!r} in `when`; declare it")
            if options[option] != value:
                return False
        return self.family in spec.get("families", [self.family])


def _row(
    spec: Mapping[str, Any],
    index: int,
    commands: list[str],
    groups: Mapping[str, list[str]],
    names: Mapping[str, int],
    where: str,
) -> Constraint:
    latency = evaluate(spec["latency"], names, where)
    if latency < 0:
        raise SpecError(
            f"{where}: latency {spec['latency']} is {latency}; expected 0 or more cycles; "
            f"correct the parameters"
        )
    window = spec.get("window", 1)
    if not isinstance(window, int) or window < 1:
        raise SpecError(f"{where}: window {window!r}; expected 1 or more; correct it")
    if window > 1 and spec["level"] != "rank":
        raise SpecError(
            f"{where}: window {window} at level {spec['level']}; expected the level rank, the "
            f"only one that has windows; change the row"
        )
    return Constraint(
        index=index,
        level=spec["level"],
        preceding=_expand(spec["preceding"], commands, groups, where),
        following=_expand(spec["following"], commands, groups, where),
        latency=latency,
        window=window,
        stall=STALL_TAGS.index(spec["stall"]),
        text=str(spec["latency"]),
    )


def _expand(
    entries: list[str], commands: list[str], groups: Mapping[str, list[str]], where: str
) -> tuple[str, ...]:
    """Command names for a list of commands, groups and `any`."""
    found: list[str] = []
    for entry in entries:
        found += commands if entry == "any" else groups.get(entry, [entry])
    for name in found:
        if name not in commands:
            raise SpecError(
                f"{where}: unknown command {name!r}; expected one of {', '.join(commands)}; "
                f"declare it or correct the spelling"
            )
    return tuple(found)


def _refuse_duplicate(row: Constraint, rows: list[Constraint], where: str) -> None:
    for other in rows:
        same = (other.level, other.window, other.stall) == (row.level, row.window, row.stall)
        before = set(other.preceding) & set(row.preceding)
        after = set(other.following) & set(row.following)
        if same and before and after:
            raise SpecError(
                f"{where}: duplicates row {other.index} ({other}) for {' '.join(sorted(before))} "
                f"-> {' '.join(sorted(after))}; expected one row per pair; merge them"
            )


def load_tables(
    family: Path,
    pim: Path,
    name: str,
    *,
    geometry: Mapping[str, int] | None = None,
    options: Mapping[str, Any] | None = None,
    params: Mapping[str, int] | None = None,
) -> DramStandard:
    """As `load_standard`, from two given files (for a standard that is not part of the package)."""
    table = _Table(family, pim, name)
    shape = table.geometry(geometry)
    values, resolved = table.params(shape, options or {}, params or {})
    commands = table.commands()
    names = values | {
        "bank_groups": shape.bank_groups,
        "banks_per_group": shape.banks_per_group,
        "banks": shape.banks,
    }
    rows = table.constraints(commands, names, resolved)
    _refuse_unused(values, rows, table.family_file)
    return DramStandard(
        name=name,
        family=table.family,
        tck_ps=values.pop("tck_ps"),
        geometry=shape,
        params=FrozenMap(values),
        options=FrozenMap(resolved),
        commands=commands,
        constraints=rows,
    )


def _refuse_unused(values: Mapping[str, int], rows: tuple[Constraint, ...], file: str) -> None:
    """A parameter that no row reads would look configurable and do nothing."""
    used = {name for row in rows for name in names_in(row.text)}
    # Clock and refresh interval act outside the rows.
    outside = {"tck_ps", "nREFI"}
    if unused := sorted(set(values) - used - outside):
        raise SpecError(f"{file}: no constraint row uses {unused}; add the row or remove them")


@cache
def _grades() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(_FOLDER.glob("*.yaml")):
        found |= {grade: path for grade in _read(path).get("grades", {})}
    return found


def standard_names() -> tuple[str, ...]:
    """The speed grades that exist, e.g. ("ddr4_2400", "ddr4_3200", "ddr5_4800")."""
    return tuple(_grades())


def load_standard(
    name: str,
    *,
    geometry: Mapping[str, int] | None = None,
    options: Mapping[str, Any] | None = None,
    params: Mapping[str, int] | None = None,
) -> DramStandard:
    """The standard `name` with its PIM commands, resolved to integers.

    `geometry` overrides bank_groups, banks_per_group, columns, rows; `options` chooses rd_to_wr
    (cycles), trfc_ns, multi_activate_faw; `params` replaces single parameters (cycles), for studies
    and mutation tests.

    Errors: SpecError, with the file and what to do, for an unknown name or a table that contradicts
    itself.
    """
    if name not in _grades():
        raise SpecError(
            f"unknown DRAM standard {name!r}; expected one of {', '.join(_grades())}; use one of "
            f"them or add a grade to isa/dram/*.yaml"
        )
    path = _grades()[name]
    pim = _FOLDER / _PIM
    return load_tables(path, pim, name, geometry=geometry, options=options, params=params)
