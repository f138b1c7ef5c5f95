"""`bankside asm` and `bankside disasm`: programs from text to words and back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from bankside.cache import atomic_write
from bankside.cli_support import common_options
from bankside.errors import ProgramError
from bankside.isa.asm import assemble_with_lines, disassemble
from bankside.isa.machines import load_machine, verify_program
from bankside.isa.program import Program
from bankside.isa.program_file import load_program, program_bytes

_FILE = click.argument("file", type=click.Path(path_type=Path))
_CHECK = click.option(
    "--check", "machine", metavar="MACHINE",
    help="Refuse the program unless it is legal on this machine (preset or YAML file).",
)  # fmt: skip


def _summary(program: Program, machine: str | None) -> dict[str, Any]:
    return {
        "engine": program.engine, "hash": program.hash, "commands": len(program.words),
        "host_bursts": len(program.host_in), "checked": machine,
        "outputs": {name: list(place) for name, place in program.outputs.items()},
    }  # fmt: skip


def _read(path: Path) -> tuple[Program, tuple[int, ...]]:
    """The program of a file, and the line of each command where it is text."""
    if path.suffix == ".npz" or not path.is_file():
        return load_program(path), ()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return load_program(path), ()  # says what is wrong
    return assemble_with_lines(text, str(path), folder=path.parent)


def _check(program: Program, lines: tuple[int, ...], machine: str | None, path: Path) -> None:
    if machine is None:
        return
    try:
        verify_program(program, load_machine(machine))
    except ProgramError as error:
        first = re.search(r"command (\d+)", str(error))
        number = int(first[1]) if first else -1
        where = f"{path}:{lines[number]}" if 0 <= number < len(lines) else f"{path}"
        raise ProgramError(f"{where}: {error}") from None


@click.command()
@_FILE
@_CHECK
@common_options
def asm(file: Path, machine: str | None, as_json: bool, out: Path | None) -> None:
    """Assemble the program FILE: print its words, or with --out write DIR/NAME.npz."""
    program, lines = _read(file)
    _check(program, lines, machine, file)
    summary = _summary(program, machine)
    if out is not None:
        atomic_write(out / f"{file.stem}.npz", program_bytes(program))
    if as_json:
        click.echo(json.dumps({**summary, "words": [f"{w:#018x}" for w in program.words]}))
    elif out is None:
        click.echo("\n".join(f"{w:#018x}" for w in program.words))
    else:
        click.echo(f"{out / file.stem}.npz: {summary['commands']} commands, hash {program.hash}")


@click.command()
@_FILE
@_CHECK
@common_options
def disasm(file: Path, machine: str | None, as_json: bool, out: Path | None) -> None:
    """Print the program FILE as text, or with --out write DIR/NAME.asm."""
    program, lines = _read(file)
    _check(program, lines, machine, file)
    text = disassemble(program)
    if out is not None:
        atomic_write(out / f"{file.stem}.asm", text)
    if as_json:
        click.echo(json.dumps({**_summary(program, machine), "instructions": _decoded(program)}))
    else:
        click.echo(text if out is None else f"{out / file.stem}.asm: {len(program.words)} commands",
                   nl=out is not None)  # fmt: skip


def _decoded(program: Program) -> list[dict[str, Any]]:
    """One entry per command: name and operands by number, or why the word is illegal."""
    found: list[dict[str, Any]] = []
    for word in program.words:
        try:
            instruction = program.spec.decode(word)
        except ProgramError as error:
            found.append({"word": f"{word:#018x}", "error": str(error)})
        else:
            found.append({"name": instruction.name, "operands": dict(instruction.fields)})
    return found
