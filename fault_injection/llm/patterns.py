"""Error patterns: how the result of one operation differs from the fault-free one, per fault.

One JSON object a line; what they stand for in front, where a campaign recorded them.
Ref: docs/llm_faults.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from bankside.cache import atomic_write
from bankside.errors import ConfigError
from bankside.schema import Section, key_problem

M = TypeVar("M", bound=Section)
Engine = Literal["npu", "array", "pim"]
Op = Literal["gemm", "attention"]


class Tile(Section):
    """Part of the result of an operation: first row (token) and column, size."""

    row: int = Field(ge=0)
    column: int = Field(ge=0)
    rows: int = Field(ge=1)
    columns: int = Field(ge=1)


class ErrorPattern(Section):
    """What one fault did to one tile.

    Attributes:
        fault: its name in the campaign. control: it changed schedule, addresses or data movement,
            so that the tile does not hold all of its effect; such patterns are never replayed.
        bits: width of a result: 8, 16 (integers), 16 for FP16.
        elements: (row, column) within the tile of each wrong result.
        xor: inverted bits of each; or delta: difference of each (integers only, clamped).
        weight: possible faults that it stands for, in any unit; patterns are drawn in proportion.
        number: id in the campaign. role: of the site. outside: bytes of what the run delivered that
            differ outside of the tile.
    """

    fault: str = Field(min_length=1)
    engine: Engine
    op: Op
    tile: Tile
    bits: Literal[8, 16]
    elements: list[tuple[int, int]] = []
    xor: list[int] | None = None
    delta: list[int] | None = None
    control: bool = False
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    number: int | None = Field(default=None, ge=0)
    role: str = ""
    outside: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.control:
            return self
        if (self.xor is None) == (self.delta is None):
            raise key_problem("xor", "give either xor or delta")
        if self.delta is not None and self.engine != "npu":
            raise key_problem("delta", f"has no meaning for FP16 of {self.engine}; give xor")
        numbers = self.xor if self.xor is not None else self.delta or []
        if not self.elements or len(numbers) != len(self.elements):
            raise key_problem(
                "elements", f"are {len(self.elements)} for {len(numbers)} numbers; expected as many"
            )
        if len(set(self.elements)) < len(self.elements):
            raise key_problem("elements", "name a result twice")
        for row, column in self.elements:
            if not (0 <= row < self.tile.rows and 0 <= column < self.tile.columns):
                raise key_problem("elements", f"[{row}, {column}] lies outside of the tile")
        if self.xor is not None and not all(0 < x < 1 << self.bits for x in self.xor):
            raise key_problem("xor", f"has masks outside of 1 to {(1 << self.bits) - 1}")
        return self

    @property
    def top_bit(self) -> int:
        """Highest inverted bit; of a difference: that of the largest magnitude."""
        numbers = self.xor if self.xor is not None else [abs(d) for d in self.delta or []]
        return max(max(numbers).bit_length() - 1, 0)

    def apply(self, result: NDArray, row: int, column: int) -> NDArray:
        """A copy of integers [rows, columns] with the pattern's tile at (`row`, `column`).

        FP16 results are given and returned as their bits.
        """
        found = result.copy()
        where = np.array(self.elements).T + np.array([[row], [column]])
        old = found[where[0], where[1]].astype(np.int64)
        half = 1 << (self.bits - 1)
        if self.delta is not None:
            new = np.clip(old + np.array(self.delta), -half, half - 1)
        else:
            new = (old & 2 * half - 1) ^ np.array(self.xor)
            if np.issubdtype(found.dtype, np.signedinteger):
                new = (new + half) % (2 * half) - half
        found[where[0], where[1]] = new.astype(found.dtype)
        return found


#: Where the effect of a fault is; a pattern holds all of that of the first part.
PARTS = {
    "tile": "in the result of the operation alone: a replay stands for it",
    "outside": "also, or only, elsewhere in what the run delivers",
    "unread": "in padding of the result, which nobody reads, alone",
    "control": "the site steers (role control or configuration), whatever it changed this time",
    "hang": "the run does not end",
    "stopped": "an alarm, or an error of the machine itself",
}


class Represented(Section):
    """What patterns stand for.

    Attributes:
        share: of the faults with an effect (or of their rate), those whose effect a tile holds.
        source: where the number comes from.
        low, high: its interval of `level`.
    """

    share: float = Field(ge=0, le=1)
    source: str = Field(min_length=1)
    low: float | None = Field(default=None, ge=0, le=1)
    high: float | None = Field(default=None, ge=0, le=1)
    level: float | None = Field(default=None, gt=0, lt=1)


class Recording(Section):
    """The campaign behind a file of patterns.

    Attributes:
        campaign: its key. name: of description or design. model: of the faults.
        workload: of the description.
        faults: injected. effective: ended in SDC, hang or detected-uncorrected; effective_share:
            of all possible faults.
        parts: where the effect of these is: share of the possible ones by `PARTS`, sum 1.
        counts: the same in injected faults.
        represented: share of `tile`; None: no fault had an effect.
    """

    campaign: str
    name: str
    machine: str
    workload: dict[str, Any]
    model: str
    faults: int = Field(ge=0)
    effective: int = Field(ge=0)
    effective_share: float = Field(ge=0, le=1)
    parts: dict[str, float]
    counts: dict[str, int]
    represented: Represented | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("parts", "counts"):
            if set(getattr(self, key)) != set(PARTS):
                raise key_problem(key, f"expected the keys {', '.join(PARTS)}")
        if sum(self.counts.values()) != self.effective:
            raise key_problem("counts", f"do not sum to the {self.effective} effective faults")
        return self


def difference(
    fault: str, engine: Engine, op: Op, tile: Tile, golden: NDArray, faulty: NDArray, bits: int,
    *, change: Literal["xor", "delta"] = "xor", **more: Any,
) -> ErrorPattern | None:  # fmt: skip
    """Pattern of a tile from results without and with the fault; None where they are equal.

    golden, faulty: [tile rows, tile columns], integers of `bits` or the bits of FP16. change: what
    is kept of each wrong number. more: further attributes.
    """
    mask = (golden.astype(np.int64) ^ faulty.astype(np.int64)) & ((1 << bits) - 1)
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    numbers = mask if change == "xor" else faulty.astype(np.int64) - golden.astype(np.int64)
    return ErrorPattern(
        fault=fault, engine=engine, op=op, tile=tile, bits=bits,
        elements=list(zip(rows.tolist(), columns.tolist(), strict=True)),
        **{change: numbers[rows, columns].tolist()}, **more,
    )  # fmt: skip


# --- files ----------------------------------------------------------------------------------------
_HEADER = "recording"


def line_of(pattern: ErrorPattern) -> str:
    """A line of a file, with its end."""
    return pattern.model_dump_json(exclude_defaults=True) + "\n"


def file_text(lines: Iterable[str], recording: Recording | None = None) -> str:
    """A file of lines of patterns."""
    head = [] if recording is None else [json.dumps({_HEADER: recording.model_dump()}) + "\n"]
    return "".join([*head, *lines])


def write_patterns(
    path: Path, patterns: Iterable[ErrorPattern], recording: Recording | None = None
) -> None:
    """One line per pattern, behind that of the campaign; the file is there whole or not at all."""
    atomic_write(path, file_text(map(line_of, patterns), recording))


def read_recorded(path: Path) -> tuple[list[ErrorPattern], Recording | None]:
    """Patterns of a file, and the campaign that recorded them; None: somebody else made them.

    Raises ConfigError with file, line and key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"patterns {path}: {error}; expected a text file with one JSON object a line"
        ) from error
    recording = None
    if lines and lines[0].startswith(f'{{"{_HEADER}"'):
        recording = _parse(f"{path}:1", lines[0], _Header).recording
        lines[0] = ""
    found = [
        _parse(f"{path}:{i}", line, ErrorPattern) for i, line in enumerate(lines, 1) if line.strip()
    ]
    if not found:
        raise ConfigError(f"patterns {path}: holds none; record some, or give another file")
    if recording is not None:
        _check_whole(path, found, recording)
    return found, recording


def _check_whole(path: Path, found: Sequence[ErrorPattern], recording: Recording) -> None:
    """Nobody has taken out or added patterns: the share would be that of others."""
    counts = recording.counts
    for control, parts in ((False, ("tile",)), (True, ("outside", "control"))):
        number, wanted = sum(p.control is control for p in found), sum(counts[p] for p in parts)
        if number != wanted:
            raise ConfigError(
                f"patterns {path}: {number} patterns with control {control}, but its campaign "
                f"recorded {wanted}; record it again, or take out line 1 and give `represented` "
                f"yourself"
            )


def read_patterns(path: Path) -> list[ErrorPattern]:
    """Patterns of a file. ConfigError with file, line and key."""
    return read_recorded(path)[0]


class _Header(Section):
    recording: Recording


def _parse(where: str, line: str, model: type[M]) -> M:
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, [*problem["loc"], problem.get("ctx", {}).get("key", "")]))
        what = "an error pattern" if model is ErrorPattern else "the line of a campaign"
        fields = (Recording if model is _Header else model).model_fields
        raise ConfigError(
            f"{where}: {key.strip('.') or 'line'}: {problem['msg']}; expected {what} with the keys "
            f"{', '.join(fields)}"
        ) from error
