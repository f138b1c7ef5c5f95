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

import yaml

from bankside.errors import ProgramError, SpecError

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Field:
    """One operand: bits [lsb, lsb + width), legal range, names of its values."""

    name: str
    lsb: int
    width: int
    minimum: int
    maximum: int
    enum: str | None
    values: tuple[tuple[str, int], ...]
    doc: str

    @property
    def mask(self) -> int:
        return ((1 << self.width) - 1) << self.lsb

    def parse(self, value: int | str, where: str) -> int:
        """Integer of `value` (a number or the name of an enumerated value), range-checked."""
        if isinstance(value, str):
            table = dict(self.values)
            if value not in table:
                known = ", ".join(table) or "a number"
                raise ProgramError(f"{where}: {self.name}={value!r} is not known; expected {known}")
            value = table[value]
        if not self.minimum <= int(value) <= self.maximum:
            raise ProgramError(
                f"{where}: {self.name}={value} is out of range; expected {self.minimum}..{self.maximum} ({self.doc})"
            )
        return int(value)


@dataclass(frozen=True)
class Access:
    """Words that a command reads or writes in a shared space (expressions over fields, geometry and parameters)."""

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
        """Command word. Operands that are left out are their minimum. Raises ProgramError on a bad operand."""
        where = where or name
        command = self.command(name, where)
        unknown = set(operands) - set(command.field_map)
        if unknown:
            known = ", ".join(command.field_map) or "none"
            raise ProgramError(f"{where}: unknown operand {sorted(unknown)[0]!r}; operands of {name}: {known}")
        word = command.opcode << self.opcode.lsb
        for field in command.fields:
            word |= field.parse(operands.get(field.name, field.minimum), where) << field.lsb
        return word

    def decode(self, word: int, where: str = "word") -> Instruction:
        """Instruction of a command word. Raises ProgramError on an illegal opcode, reserved bit or operand value."""
        opcode = (word >> self.opcode.lsb) & ((1 << self.opcode.width) - 1)
        command = self.by_opcode.get(opcode)
        if command is None:
            raise ProgramError(f"{where}: {word:#018x} has the illegal opcode {opcode:#04x}; expected one of the {self.engine} set")
        used = self.opcode.mask
        operands = {}
        for field in command.fields:
            used |= field.mask
            operands[field.name] = field.parse((word & field.mask) >> field.lsb, f"{where}: {command.name}")
        if word & ~used:
            raise ProgramError(f"{where}: {command.name} has reserved bits set ({word & ~used:#018x}); they must be 0")
        return Instruction(command.name, operands)


def _field(name: str, data: Mapping[str, Any], enums: Mapping[str, Mapping[str, int]], where: str) -> Field:
    unknown = set(data) - {"lsb", "width", "min", "max", "enum", "doc"}
    if unknown:
        raise SpecError(f"{where}.{name}: unknown key {sorted(unknown)[0]!r}; expected lsb, width, min, max, enum, doc")
    top = (1 << data["width"]) - 1
    values: tuple[tuple[str, int], ...] = ()
    if "enum" in data:
        if data["enum"] not in enums:
            raise SpecError(f"{where}.{name}: unknown enum {data['enum']!r}; known: {', '.join(enums)}")
        values = tuple(enums[data["enum"]].items())
    maximum = data.get("max", max((v for _, v in values), default=top))
    field = Field(name, data["lsb"], data["width"], data.get("min", 0), maximum, data.get("enum"), values, data.get("doc", ""))
    if not 0 <= field.minimum <= field.maximum <= top:
        raise SpecError(f"{where}.{name}: range {field.minimum}..{field.maximum} does not fit {field.width} bits")
    return field


def _check_bits(fields: Iterable[Field], word_bits: int, where: str) -> None:
    used = 0
    for field in fields:
        if field.lsb < 0 or field.width < 1 or field.lsb + field.width > word_bits:
            raise SpecError(f"{where}: field {field.name} lies outside the {word_bits}-bit word")
        if used & field.mask:
            raise SpecError(f"{where}: field {field.name} overlaps another one at bit {field.lsb}")
        used |= field.mask


def _command(name: str, data: Mapping[str, Any], common: list[Field], spec: Mapping[str, Any], opcode: Field) -> Command:
    where = f"commands.{name}"
    engine = data["engine"]
    if engine != "control" and engine not in spec["engines"]:
        raise SpecError(f"{where}: unknown engine {engine!r}; known: control, {', '.join(spec['engines'])}")
    if not 0 < data["opcode"] <= opcode.maximum:
        raise SpecError(f"{where}: opcode {data['opcode']:#x} must be in 1..{opcode.maximum:#x} (0 is reserved)")
    fields = [_field(k, v, spec.get("enums", {}), where) for k, v in data.get("fields", {}).items()]
    fields += common if engine != "control" else []
    _check_bits([opcode, *fields], spec["word_bits"], where)
    accesses = []
    for key in ("reads", "writes"):
        for space, first, length in data.get(key, ()):
            if space not in spec["spaces"]:
                raise SpecError(f"{where}.{key}: unknown space {space!r}; known: {', '.join(spec['spaces'])}")
            accesses.append(Access(space, str(first), str(length), key == "writes"))
    return Command(name, data["opcode"], engine, tuple(fields), tuple(accesses), data.get("doc", ""))


def parse_spec(data: Mapping[str, Any], path: Path) -> Spec:
    """Check the parsed YAML of a command set. Raises SpecError on overlaps, duplicate opcodes or unknown names."""
    opcode = _field("opcode", data["opcode"], {}, "opcode")
    common = [_field(k, v, {}, "common") for k, v in data.get("common", {}).items()]
    commands: dict[str, Command] = {}
    taken: dict[int, str] = {}
    for name, entry in data["commands"].items():
        command = _command(name, entry, common, data, opcode)
        if command.opcode in taken:
            raise SpecError(f"commands.{name}: opcode {command.opcode:#04x} is already used by {taken[command.opcode]}")
        taken[command.opcode] = name
        commands[name] = command
    return Spec(
        data["engine"], data["version"], data["word_bits"], opcode, commands, tuple(data["engines"]), data["spaces"],
        tuple(data["stalls"]), data.get("enums", {}), data["token_max"], data["loop_depth"], path,
    )


@functools.lru_cache(maxsize=None)
def load_spec(engine: str) -> Spec:
    """The command set of `engine` (a YAML file beside this module)."""
    path = _FOLDER / f"{engine}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in _FOLDER.glob("*.yaml"))
        raise SpecError(f"no command set for engine {engine!r}; known: {', '.join(known)}")
    return parse_spec(yaml.safe_load(path.read_text()), path)
