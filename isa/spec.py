"""Command-set specifications: load and check a YAML file, encode and decode commands.

Ref: docs/pim.md for the semantics of the `pim` command set.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bankside.errors import ProgramError, SpecError
from bankside.strict_yaml import load_yaml

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Field:
    """One operand: bits [lsb, lsb + width), legal range, names of its values or of its bits.

    values: (name, value) of an enumeration; every other value is illegal. flags: names of the bits
    of a set, from bit 0 on; text form `buffer,rank`, or `none`.
    """

    name: str
    lsb: int
    width: int
    minimum: int
    maximum: int
    enum: str | None
    values: tuple[tuple[str, int], ...]
    flags: tuple[str, ...]
    doc: str

    @functools.cached_property
    def mask(self) -> int:
        return ((1 << self.width) - 1) << self.lsb

    @functools.cached_property
    def _meanings(self) -> frozenset[int]:
        return frozenset(value for _, value in self.values)

    def accepts(self, value: int) -> bool:
        """Whether a word may hold the value."""
        in_range = self.minimum <= value <= self.maximum
        return in_range and (not self.values or value in self._meanings)

    def _named(self, text: str, where: str) -> int:
        """Value of a name, or of comma-separated names of bits."""
        if self.flags:
            names = [] if text in ("", "none") else text.split(",")
            table = {name: 1 << bit for bit, name in enumerate(self.flags)}
        else:
            names, table = [text], dict(self.values)
        for name in names:
            if name not in table:
                known = ", ".join(table) or "a number"
                raise ProgramError(f"{where}: {self.name}={text!r} is not known; expected {known}")
        if len(set(names)) < len(names):
            raise ProgramError(f"{where}: {self.name}={text!r} names one twice; name each once")
        return sum(table[name] for name in names)

    def format(self, value: int) -> str:
        """Text of a legal value: a name, names of bits or a number (`parse` knows the names)."""
        if self.flags:
            return (
                ",".join(name for bit, name in enumerate(self.flags) if value >> bit & 1) or "none"
            )
        return {v: name for name, v in self.values}.get(value, str(value))

    def parse(self, value: int | str, where: str) -> int:
        """Integer of `value` (a number, or names as in the text form), range-checked."""
        if isinstance(value, str):
            value = self._named(value, where)
        if not self.minimum <= int(value) <= self.maximum:
            raise ProgramError(
                f"{where}: {self.name}={value} is out of range; expected "
                f"{self.minimum}..{self.maximum} ({self.doc})"
            )
        if self.values and int(value) not in dict(self.values).values():
            known = ", ".join(f"{name} ({number})" for name, number in self.values)
            raise ProgramError(f"{where}: {self.name}={value} has no meaning; expected {known}")
        return int(value)


@dataclass(frozen=True)
class Access:
    """Words that a command reads or writes in a shared space.

    `first` and `length` are expressions over its fields, the geometry and the machine's sizes.
    """

    space: str
    first: str
    length: str
    write: bool


@dataclass(frozen=True)
class Command:
    """One command: its opcode, the engine that executes it, operands, shared words it touches."""

    name: str
    opcode: int
    engine: str
    fields: tuple[Field, ...]
    accesses: tuple[Access, ...]
    doc: str

    @functools.cached_property
    def field_map(self) -> dict[str, Field]:
        return {f.name: f for f in self.fields}


@dataclass(frozen=True)
class Instruction:
    """A decoded command word. `fields` holds every operand, in specification order."""

    name: str
    fields: Mapping[str, int]

    def __getattr__(self, name: str) -> int:
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True)
class Spec:
    """A checked command-set specification."""

    engine: str
    version: int
    word_bits: int
    opcode: Field
    commands: Mapping[str, Command]
    engines: tuple[str, ...]
    spaces: Mapping[str, Mapping[str, Any]]
    stalls: tuple[str, ...]
    enums: Mapping[str, Mapping[str, int]]
    token_max: int
    loop_depth: int
    path: Path

    @functools.cached_property
    def by_opcode(self) -> dict[int, Command]:
        return {c.opcode: c for c in self.commands.values()}

    def command(self, name: str, where: str = "command") -> Command:
        """The command called `name`; ProgramError with the nearest name when there is none."""
        if name not in self.commands:
            near = difflib.get_close_matches(name.upper(), list(self.commands), 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(self.commands)}"
            raise ProgramError(f"{where}: unknown command {name!r}{hint}")
        return self.commands[name]

    def encode(self, name: str, *, where: str | None = None, **operands: int | str) -> int:
        """Command word; operands that are left out are their minimum.

        Raises ProgramError on an unknown command or operand and on an illegal value.
        """
        where = where or name
        command = self.command(name, where)
        unknown = set(operands) - set(command.field_map)
        if unknown:
            known = ", ".join(command.field_map) or "none"
            raise ProgramError(
                f"{where}: unknown operand {sorted(unknown)[0]!r}; operands of {name}: {known}"
            )
        word = command.opcode << self.opcode.lsb
        for field in command.fields:
            word |= field.parse(operands.get(field.name, field.minimum), where) << field.lsb
        return word

    def decode(self, word: int, where: str = "word") -> Instruction:
        """Instruction of a command word.

        Raises ProgramError on an illegal opcode, a reserved bit that is set or an illegal operand.
        """
        if not 0 <= word < 1 << self.word_bits:
            raise ProgramError(f"{where}: {word} is not a word of {self.word_bits} bits")
        opcode = (word >> self.opcode.lsb) & ((1 << self.opcode.width) - 1)
        command = self.by_opcode.get(opcode)
        if command is None:
            raise ProgramError(
                f"{where}: {word:#018x} has the illegal opcode {opcode:#04x}; expected one of the "
                f"{self.engine} set"
            )
        used = self.opcode.mask
        operands = {}
        for field in command.fields:
            used |= field.mask
            value = operands[field.name] = (word & field.mask) >> field.lsb
            if not field.accepts(value):
                field.parse(value, f"{where}: {command.name}")
        if word & ~used:
            raise ProgramError(
                f"{where}: {command.name} has reserved bits set ({word & ~used:#018x}); they must "
                f"be 0"
            )
        return Instruction(command.name, operands)


_COMMAND_KEYS = {"opcode", "engine", "doc", "fields", "reads", "writes"}
_FIELD_KEYS = {"lsb", "width", "min", "max", "enum", "flags", "doc"}
_SPEC_KEYS = {
    "engine", "version", "word_bits", "opcode", "common", "engines", "token_max", "loop_depth",
    "enums", "spaces", "stalls", "commands",
}  # fmt: skip
_SPACE_KEYS = {"size", "doc"}


def _check_keys(data: Any, where: str, allowed: set[str], needed: Iterable[str]) -> None:
    if not isinstance(data, Mapping):
        raise SpecError(f"{where}: expected keys {', '.join(sorted(allowed))}, found {data!r}")
    for key in data:
        if key not in allowed:
            known = ", ".join(sorted(allowed))
            raise SpecError(f"{where}: unknown key {key!r}; expected {known}")
    for key in needed:
        if key not in data:
            raise SpecError(f"{where}: the key {key!r} is missing; add it")


def _lists(data: Mapping[str, Any], key: str, name: Any, where: str) -> Any:
    """The entry `name` of `data[key]`; SpecError that lists those that exist."""
    if name not in data.get(key, {}):
        known = ", ".join(data.get(key, {})) or "none"
        raise SpecError(f"{where}: unknown {key.rstrip('s')} {name!r}; known: {known}")
    return data[key][name]


def _field(name: str, data: Mapping[str, Any], spec: Mapping[str, Any], where: str) -> Field:
    where = f"{where}.{name}"
    _check_keys(data, where, _FIELD_KEYS, ("lsb", "width"))
    for key in ("lsb", "width", "min", "max"):
        if key in data and type(data[key]) is not int:
            raise SpecError(f"{where}: {key} is {data[key]!r}; expected an integer")
    top = (1 << max(data["width"], 0)) - 1
    values: tuple[tuple[str, int], ...] = ()
    if "enum" in data:
        values = tuple(_lists(spec, "enums", data["enum"], where).items())
    flags = tuple(spec[data["flags"]]) if "flags" in data else ()
    if len(flags) > data["width"]:
        raise SpecError(f"{where}: {len(flags)} flags do not fit {data['width']} bits")
    highest = max((v for _, v in values), default=(1 << len(flags)) - 1 if flags else top)
    low, high = data.get("min", 0), data.get("max", highest)
    field = Field(
        name, data["lsb"], data["width"], low, high, data.get("enum"), values, flags,
        data.get("doc", ""),
    )  # fmt: skip
    if not 0 <= low <= high <= top:
        raise SpecError(f"{where}: range {low}..{high} does not fit {field.width} bits")
    return field


def _check_bits(fields: Iterable[Field], word_bits: int, where: str) -> None:
    used = 0
    for field in fields:
        if field.lsb < 0 or field.width < 1 or field.lsb + field.width > word_bits:
            raise SpecError(f"{where}: field {field.name} lies outside the {word_bits}-bit word")
        if used & field.mask:
            raise SpecError(f"{where}: field {field.name} overlaps another one at bit {field.lsb}")
        used |= field.mask


def _accesses(data: Mapping[str, Any], spec: Mapping[str, Any], where: str) -> tuple[Access, ...]:
    found = []
    for key in ("reads", "writes"):
        for entry in data.get(key, ()):
            if not isinstance(entry, list) or len(entry) != 3:
                raise SpecError(f"{where}.{key}: {entry!r}; expected [space, first word, words]")
            space, first, length = entry
            _lists(spec, "spaces", space, f"{where}.{key}")
            found.append(Access(space, str(first), str(length), key == "writes"))
    return tuple(found)


def _command(
    name: str, data: Mapping[str, Any], common: list[Field], spec: Mapping[str, Any], opcode: Field
) -> Command:
    where = f"commands.{name}"
    _check_keys(data, where, _COMMAND_KEYS, ("opcode", "engine"))
    engine = data["engine"]
    if engine != "control" and engine not in spec["engines"]:
        known = ", ".join(spec["engines"])
        raise SpecError(f"{where}: unknown engine {engine!r}; known: control, {known}")
    if type(data["opcode"]) is not int or not 0 < data["opcode"] <= opcode.maximum:
        raise SpecError(
            f"{where}: opcode {data['opcode']} must be in 1..{opcode.maximum} (0 is reserved)"
        )
    fields = [_field(k, v, spec, where) for k, v in data.get("fields", {}).items()]
    names = [field.name for field in fields]
    if engine != "control":
        twice = [field.name for field in common if field.name in names]
        if twice:
            raise SpecError(f"{where}: field {twice[0]} is common to all commands; rename it")
        fields += common
    _check_bits([opcode, *fields], spec["word_bits"], where)
    accesses = _accesses(data, spec, where)
    return Command(name, data["opcode"], engine, tuple(fields), accesses, data.get("doc", ""))


def parse_spec(data: Mapping[str, Any], path: Path) -> Spec:
    """Check the parsed YAML of a command set.

    Raises SpecError on unknown or missing keys, overlaps, duplicate opcodes or unknown names.
    Bits that no field covers are allowed; in a program they must be 0.
    """
    _check_keys(data, path.name, _SPEC_KEYS, sorted(_SPEC_KEYS - {"common", "enums"}))
    opcode = _field("opcode", data["opcode"], data, path.name)
    common = [_field(k, v, data, "common") for k, v in data.get("common", {}).items()]
    for space, entry in data["spaces"].items():
        _check_keys(entry, f"spaces.{space}", _SPACE_KEYS, ("size",))
    commands: dict[str, Command] = {}
    taken: dict[int, str] = {}
    for name, entry in data["commands"].items():
        command = _command(name, entry, common, data, opcode)
        if command.opcode in taken:
            raise SpecError(
                f"commands.{name}: opcode {command.opcode:#04x} is already used by "
                f"{taken[command.opcode]}; choose another"
            )
        taken[command.opcode] = name
        commands[name] = command
    return Spec(
        data["engine"], data["version"], data["word_bits"], opcode, commands,
        tuple(data["engines"]), data["spaces"], tuple(data["stalls"]), data.get("enums", {}),
        data["token_max"], data["loop_depth"], path,
    )  # fmt: skip


def spec_names() -> tuple[str, ...]:
    """Engines that have a command set."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


@functools.cache
def load_spec(engine: str) -> Spec:
    """The command set of `engine`, a YAML file beside this module (SpecError: there is none)."""
    path = _FOLDER / f"{engine}.yaml"
    if not path.is_file():
        known = ", ".join(spec_names())
        raise SpecError(f"no command set for engine {engine!r}; known: {known}")
    return parse_spec(load_yaml(path, SpecError)[0], path)
