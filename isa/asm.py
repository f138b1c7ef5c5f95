"""Assembler and disassembler: programs as text, exactly and both ways.

One command per line, `MAC col=0 count=32 wait=buffer signal=buffer,rank`; operands that are left
out are their minimum; `#` starts a comment; loop bodies are indented for people. Directives:

    .engine NAME              command set (first directive)
    .burst N                  FP16 elements of a host burst
    .output NAME FIRST COUNT  bursts that the host receives under a name
    .region BASE SIZE         next region of main memory, bytes (engine npu)
    .word 0x...               any word, also an illegal one
    .host FILE                host data from a .npy file (uint16 [bursts, N]) beside the text
    .host                     host data: hexadecimal FP16 bits up to `.end`

Text -> program -> text gives the canonical text, program -> text -> program the same program.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bankside.errors import BanksideError, ProgramError
from bankside.isa.program import Program
from bankside.isa.spec import Spec, load_spec

U16 = NDArray[np.uint16]

_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|[0-9]+")
_HEX_PER_LINE = 16


# --- text -> program --------------------------------------------------------------------------


@dataclass
class _Source:
    """What has been read so far; `lines[i]` is the source line of command i."""

    name: str
    folder: Path
    line: int = 0
    spec: Spec | None = None
    burst: int = 0
    words: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    host: list[int] | U16 | None = None
    in_host: bool = False
    outputs: dict[str, tuple[int, int]] = field(default_factory=dict)
    regions: list[tuple[int, int]] = field(default_factory=list)

    @property
    def where(self) -> str:
        return f"{self.name}:{self.line}"

    def error(self, text: str) -> ProgramError:
        return ProgramError(f"{self.where}: {text}")

    def need_spec(self) -> Spec:
        if self.spec is None:
            raise self.error("a command before the directive .engine; begin with `.engine pim`")
        return self.spec


def assemble(text: str, name: str = "<text>", *, folder: Path | None = None) -> Program:
    """The program that `text` describes.

    `name` stands for the file in messages; `.host FILE` is looked up in `folder` (default: here).
    Raises ProgramError with the line of the first mistake.
    """
    return assemble_with_lines(text, name, folder=folder)[0]


def assemble_with_lines(
    text: str, name: str = "<text>", *, folder: Path | None = None
) -> tuple[Program, tuple[int, ...]]:
    """As `assemble`, with the source line of every command."""
    source = _Source(name, folder or Path.cwd())
    for source.line, raw in enumerate(text.split("\n"), 1):
        tokens = raw.partition("#")[0].split()
        if source.in_host and tokens != [".end"]:
            _host_line(source, tokens)
        elif tokens:
            (_directive if tokens[0].startswith(".") else _command)(source, tokens)
    return _finish(source), tuple(source.lines)


def _number(source: _Source, text: str, what: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise source.error(f"{what} is {text!r}; expected a number such as 12 or 0x0c")
    return int(text, 0) if text.startswith("0x") else int(text)


def _command(source: _Source, tokens: list[str]) -> None:
    spec, operands = source.need_spec(), {}
    for token in tokens[1:]:
        key, equals, value = token.partition("=")
        if not equals or not value:
            raise source.error(f"operand {token!r}; expected name=value without spaces")
        if key in operands:
            raise source.error(f"operand {key!r} is given twice; give it once")
        operands[key] = _number(source, value, key) if value[0].isdigit() else value
    source.words.append(spec.encode(tokens[0], where=f"{source.where}: {tokens[0]}", **operands))
    source.lines.append(source.line)


def _directive(source: _Source, tokens: list[str]) -> None:
    known = {
        ".engine": _engine, ".burst": _burst, ".output": _output, ".region": _region,
        ".word": _word, ".host": _host, ".end": _end,
    }  # fmt: skip
    if tokens[0] not in known:
        raise source.error(f"unknown directive {tokens[0]!r}; known: {', '.join(known)}")
    known[tokens[0]](source, tokens[1:])


def _expect(source: _Source, arguments: list[str], form: str) -> None:
    if len(arguments) != len(form.split()) - 1:
        raise source.error(f"{len(arguments)} arguments; write `{form}`")


def _engine(source: _Source, arguments: list[str]) -> None:
    _expect(source, arguments, ".engine NAME")
    if source.spec is not None:
        raise source.error("a second .engine; a program has one command set")
    try:
        source.spec = load_spec(arguments[0])
    except BanksideError as error:
        raise source.error(str(error)) from None


def _burst(source: _Source, arguments: list[str]) -> None:
    _expect(source, arguments, ".burst N")
    if source.burst:
        raise source.error("a second .burst; give it once")
    source.burst = _number(source, arguments[0], ".burst")
    if source.burst < 1:
        raise source.error(".burst is 0; expected the FP16 elements of a host burst")


def _output(source: _Source, arguments: list[str]) -> None:
    _expect(source, arguments, ".output NAME FIRST COUNT")
    name = arguments[0]
    if not _NAME.fullmatch(name):
        raise source.error(f"output name {name!r}; expected letters, digits, _ . -")
    if name in source.outputs:
        raise source.error(f"output {name!r} is declared twice; choose another name")
    first, count = (_number(source, text, f"output {name}") for text in arguments[1:])
    source.outputs[name] = (first, count)


def _region(source: _Source, arguments: list[str]) -> None:
    _expect(source, arguments, ".region BASE SIZE")
    base, size = (_number(source, text, ".region") for text in arguments)
    source.regions.append((base, size))


def _word(source: _Source, arguments: list[str]) -> None:
    _expect(source, arguments, ".word VALUE")
    bits = source.need_spec().word_bits
    value = _number(source, arguments[0], ".word")
    if value >> bits:
        raise source.error(f".word {value:#x} does not fit {bits} bits")
    source.words.append(value)
    source.lines.append(source.line)


def _host(source: _Source, arguments: list[str]) -> None:
    if source.host is not None:
        raise source.error("a second .host; give all host data in one place")
    if arguments:
        _expect(source, arguments, ".host FILE")
        source.host = _host_file(source, source.folder / arguments[0])
    else:
        source.host, source.in_host = [], True


def _host_file(source: _Source, path: Path) -> U16:
    try:
        data = np.load(path, allow_pickle=False)
    except OSError as error:
        raise source.error(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise source.error(f"{path} is not a .npy file: {error}") from None
    if not isinstance(data, np.ndarray) or data.dtype != np.uint16 or data.ndim != 2:
        raise source.error(f"{path} must hold uint16 [bursts, elements] (FP16 bits)")
    return data


def _host_line(source: _Source, tokens: list[str]) -> None:
    for token in tokens:
        if not re.fullmatch(r"[0-9a-fA-F]{1,4}", token):
            raise source.error(
                f"host data {token!r}; expected FP16 bits as up to four hexadecimal digits, or "
                f".end after the last"
            )
        source.host.append(int(token, 16))


def _end(source: _Source, arguments: list[str]) -> None:
    _expect(source, arguments, ".end")
    if not source.in_host:
        raise source.error(".end without .host")
    source.in_host = False


def _finish(source: _Source) -> Program:
    if source.in_host:
        raise source.error("the host data does not end; add .end")
    spec = source.need_spec()
    if not source.burst:
        raise source.error("no .burst; give the FP16 elements of a host burst (C*NE)")
    data = np.asarray([] if source.host is None else source.host, np.uint16)
    if data.ndim == 2 and data.shape[1] != source.burst or data.size % source.burst:
        raise source.error(
            f"host data of shape {list(data.shape)} does not divide into bursts of {source.burst} "
            f"elements; add what is missing or correct .burst"
        )
    bursts = data.reshape(-1, source.burst)
    regions = tuple(source.regions)
    return Program(spec.engine, tuple(source.words), bursts, source.outputs, regions)


# --- program -> text --------------------------------------------------------------------------


def command_text(spec: Spec, word: int) -> str:
    """One command as text; `.word` with the reason where it is illegal."""
    try:
        instruction = spec.decode(word)
    except ProgramError as error:
        return f".word {word:#018x}  # {error}"
    parts = [instruction.name]
    for operand in spec.commands[instruction.name].fields:
        value = instruction.fields[operand.name]
        # Empty masks say nothing; every other operand is shown, so that a line is complete.
        if value or not operand.flags:
            parts.append(f"{operand.name}={operand.format(value)}")
    return " ".join(parts)


def command_lines(program: Program) -> list[str]:
    """All commands as text, loop bodies indented."""
    lines, depth = [], 0
    for word in program.words:
        text = command_text(program.spec, word)
        name = text.split()[0]
        depth = max(0, depth - (name == "ENDLOOP"))
        lines.append("  " * depth + text)
        depth += name == "LOOP"
    return lines


def disassemble(program: Program, *, host_file: str | None = None) -> str:
    """The text of `program`, from which `assemble` makes the same program again.

    host_file: name of a .npy file that the caller writes beside the text (`program.host_in`);
    by default the host data stands in the text.
    """
    for name in program.outputs:
        if not _NAME.fullmatch(name):
            raise ProgramError(f"output name {name!r} has no text form; use letters, digits, _ . -")
    lines = [f".engine {program.engine}", f".burst {program.host_in.shape[1]}"]
    lines += [f".output {name} {a} {n}" for name, (a, n) in program.outputs.items()]
    lines += [f".region {base} {size}" for base, size in program.regions]
    lines += ["", *command_lines(program)]
    if host_file is not None:
        lines += ["", f".host {host_file}"]
    elif len(program.host_in):
        lines += ["", ".host", *_host_text(program.host_in), ".end"]
    return "\n".join(lines) + "\n"


def _host_text(host_in: U16) -> list[str]:
    """Hexadecimal lines; every burst starts a new one."""
    lines = []
    for burst in host_in.tolist():
        for start in range(0, len(burst), _HEX_PER_LINE):
            lines.append(" ".join(f"{v:04x}" for v in burst[start : start + _HEX_PER_LINE]))
    return lines
