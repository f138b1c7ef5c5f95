"""Reads and writes DRAM command traces of DRAMsim3 and Ramulator 2, plain or gzip.

DRAMsim3: `clock command channel rank bankgroup bank 0xrow 0xcolumn`, separated by blanks.
Ramulator 2: CSV with the header `clock,command,Channel,Rank,BankGroup,Bank,Row,Column,...`.
"""

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bankside.errors import ProgramError
from bankside.isa.dram.standard import DramStandard

__all__ = ["STYLES", "TraceCommand", "read_trace", "write_trace"]

_DRAMSIM3 = {
    "activate": "ACT",
    "precharge": "PRE",
    "read": "RD",
    "read_p": "RDA",
    "write": "WR",
    "write_p": "WRA",
    "refresh": "REF",
}
_RAMULATOR2 = {
    "ACT": "ACT",
    "PRE": "PRE",
    "PREpb": "PRE",
    "PREA": "PREA",
    "PREab": "PREA",
    "RD": "RD",
    "RDA": "RDA",
    "WR": "WR",
    "WRA": "WRA",
    "REF": "REF",
    "REFab": "REF",
}
_CSV_FIELDS = ("clock", "command", "channel", "rank", "bankgroup", "bank", "row", "column")


@dataclass(frozen=True)
class TraceCommand:
    """One command of a trace: `clock` in memory cycles, `bank` the flat index in its rank, `line`
    from 1.
    """

    clock: int
    command: str
    bank: int
    row: int
    column: int
    line: int
    channel: int = 0
    rank: int = 0


def read_trace(
    path: Path | str,
    std: DramStandard,
    *,
    limit: int | None = None,
    only: tuple[int, int] | None = None,
) -> Iterator[TraceCommand]:
    """The commands of a trace of one channel and one rank, in order; of a larger trace those of
    channel and rank `only`.

    The format is recognised by the first line. Row and column of a command without them are
    whatever the trace says (a precharge in both formats names the row to be opened next).

    Errors: ProgramError with file and line for a file that cannot be read, a malformed line, an
    unknown command, an address outside the geometry, another channel or rank, or clocks that do
    not increase.
    """
    path = Path(path)
    previous = -1
    count = 0
    parse = None
    for number, text in _lines(path):
        where = f"{path.name}:{number}"
        if parse is None:
            parse = _parse_csv if text.lower().startswith("clock,") else _parse_blank
            if parse is _parse_csv:
                _check_header(text, where)
                continue
        entry = _entry(parse(text, where), std, where, number, only)
        if entry is None:
            continue
        if entry.clock <= previous:
            raise ProgramError(
                f"{where}: clock {entry.clock} after {previous}; expected increasing clocks, one "
                f"command per cycle; sort the trace and split it by rank"
            )
        previous = entry.clock
        yield entry
        count += 1
        if limit is not None and count >= limit:
            return
    if not count:
        raise ProgramError(
            f"{path.name}: no command in the file; expected a DRAMsim3 or Ramulator 2 command "
            f"trace; write one with the simulator's command-trace option"
        )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="ascii") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, text.strip()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ProgramError(
            f"{path}: cannot read the trace ({reason}); expected a text file or a complete gzip "
            f"file; check the path or fetch it again"
        ) from None


def _check_header(text: str, where: str) -> None:
    found = tuple(text.lower().split(",")[: len(_CSV_FIELDS)])
    if found != _CSV_FIELDS:
        raise ProgramError(
            f"{where}: header {text!r}; expected it to start with {','.join(_CSV_FIELDS)}; "
            f"reorder the columns"
        )


def _parse_csv(text: str, where: str) -> list[str]:
    fields = text.split(",")
    if len(fields) < len(_CSV_FIELDS):
        raise ProgramError(
            f"{where}: {len(fields)} fields in {text!r}; expected {len(_CSV_FIELDS)} or more "
            f"({','.join(_CSV_FIELDS)}); the file may be cut off"
        )
    return [_name(fields[1], _RAMULATOR2, where), fields[0], *fields[2:8]]


def _parse_blank(text: str, where: str) -> list[str]:
    fields = text.split()
    if len(fields) != len(_CSV_FIELDS):
        raise ProgramError(
            f"{where}: {len(fields)} fields in {text!r}; expected 8 ({' '.join(_CSV_FIELDS)}); "
            f"the file may be cut off or not be a command trace"
        )
    return [_name(fields[1], _DRAMSIM3, where), fields[0], *fields[2:]]


def _name(found: str, names: dict[str, str], where: str) -> str:
    if found not in names:
        raise ProgramError(
            f"{where}: unknown command {found!r}; expected one of {', '.join(names)}; remove it "
            f"or replay another trace"
        )
    return names[found]


def _entry(
    fields: list[str], std: DramStandard, where: str, line: int, only: tuple[int, int] | None
) -> TraceCommand | None:
    try:
        # Base 0 reads 0x1f as well as 31.
        clock, channel, rank, group, bank, row, column = (int(f, 0) for f in fields[1:])
    except ValueError as error:
        raise ProgramError(f"{where}: {error}; expected whole numbers; correct the line") from None
    shape = std.geometry
    # Simulators write -1 for the parts of an address that a command does not have.
    if std.command(fields[0]).scope == "rank":
        group, bank = max(0, group), max(0, bank)
    if std.command(fields[0]).needs != "open" and fields[0] != "ACT":
        channel, row, column = (max(0, v) for v in (channel, row, column))
    if only is not None and only != (channel, rank):
        return None
    limits = {
        "clock": (clock, None),
        "channel": (channel, None if only else 1),
        "rank": (rank, None if only else 1),
        "bank group": (group, shape.bank_groups),
        "bank": (bank, shape.banks_per_group),
        "row": (row, shape.rows),
        "column": (column, shape.columns),
    }
    for name, (value, limit) in limits.items():
        if value < 0 or (limit is not None and value >= limit):
            raise ProgramError(
                f"{where}: {name} {value} does not exist in one rank of {std.name}; expected "
                f"0..{'' if limit is None else limit - 1}; choose the right standard or split "
                f"the trace"
            )
    flat = group * shape.banks_per_group + bank
    return TraceCommand(clock, fields[0], flat, row, column, line, channel, rank)


def write_trace(
    path: Path | str,
    commands: Iterable[TraceCommand],
    std: DramStandard,
    *,
    style: str = "ramulator2",
) -> None:
    """Writes ordinary commands as a simulator of `STYLES` does (gzip when `path` ends in .gz).

    Errors: ProgramError for an unknown style, or a command that the format cannot express.
    """
    if style not in STYLES:
        raise ProgramError(
            f"unknown trace style {style!r}; expected one of {', '.join(STYLES)}; use one"
        )
    names, line = STYLES[style]
    opener = gzip.open if Path(path).suffix == ".gz" else open
    lines = [_CSV_HEADER] if style == "ramulator2" else []
    for c in commands:
        if c.command not in names:
            raise ProgramError(
                f"{path}: {c.command} at clock {c.clock} has no name in a {style} trace; expected "
                f"{', '.join(names)}; write another style or a stream without it"
            )
        group, bank = divmod(c.bank, std.geometry.banks_per_group)
        lines.append(line(c, names[c.command], group, bank))
    with opener(path, "wt", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")


def _csv_line(c: TraceCommand, name: str, group: int, bank: int) -> str:
    return f"{c.clock},{name},{c.channel},{c.rank},{group},{bank},{c.row},{c.column},0,0"


def _blank_line(c: TraceCommand, name: str, group: int, bank: int) -> str:
    place = f"{c.channel:>3} {c.rank:>3} {group:>3} {bank:>3}"
    return f"{c.clock:<18} {name:<20} {place} {c.row:>#8x} {c.column:>#8x}"


_CSV_HEADER = "clock,command,Channel,Rank,BankGroup,Bank,Row,Column,type,source"
_CSV_NAMES = {name: name for name in _RAMULATOR2.values()} | {
    "PRE": "PREpb", "PREA": "PREab", "REF": "REFab",
}  # fmt: skip
#: Style -> our command names with the simulator's, and what writes a line.
STYLES: dict[str, tuple[dict[str, str], Callable[[TraceCommand, str, int, int], str]]] = {
    "ramulator2": (_CSV_NAMES, _csv_line),
    "dramsim3": ({ours: theirs for theirs, ours in _DRAMSIM3.items()}, _blank_line),
}
