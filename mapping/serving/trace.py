"""Request traces: when requests arrive, lengths of prompts and answers; readers of public schemas.

Ref: Azure LLM inference trace (Splitwise, ISCA 2024), Mooncake (FAST 2025), BurstGPT, ShareGPT
lengths as in LLMServingSim.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.registry import Registry

Row = tuple[float, int, int, tuple[int, ...]]
"""Arrival in seconds, prompt tokens, answer tokens, prefix blocks."""


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests in order of arrival.

    Attributes
    ----------
    name: where they come from.
    arrival_s: [n] seconds, from 0 on, not falling.
    inputs, outputs: [n] tokens of prompt and answer, at least 1.
    prefixes: per request identifiers of blocks of `prefix_tokens` prompt tokens, equal where the
        keys and values can be shared; empty tuples where nothing is known.
    """

    name: str
    arrival_s: NDArray[np.float64]
    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]
    prefixes: tuple[tuple[int, ...], ...] = ()
    prefix_tokens: int = 512

    def __len__(self) -> int:
        return len(self.arrival_s)

    def head(self, count: int) -> Trace:
        """The first requests."""
        return replace(
            self, arrival_s=self.arrival_s[:count], inputs=self.inputs[:count],
            outputs=self.outputs[:count], prefixes=self.prefixes[:count],
        )  # fmt: skip

    def faster(self, factor: float) -> Trace:
        """The same requests at `factor` times the rate."""
        return replace(self, arrival_s=self.arrival_s / factor)

    def statistics(self) -> dict[str, float]:
        """Mean, median, 90th percentile and maximum of the lengths; requests, span, rate."""
        found: dict[str, float] = {"requests": len(self), "span_s": float(self.arrival_s[-1])}
        for name, values in (("input", self.inputs), ("output", self.outputs)):
            found |= {
                f"{name}_mean": float(values.mean()),
                f"{name}_median": float(np.median(values)),
                f"{name}_p90": float(np.quantile(values, 0.9)),
                f"{name}_max": float(values.max()),
            }
        return found


def make_trace(name: str, rows: Sequence[Row], prefix_tokens: int = 512) -> Trace:
    """A trace of rows in any order; arrivals are counted from the first."""
    ordered = sorted(rows, key=lambda row: row[0])
    arrival = np.array([row[0] for row in ordered])
    known = any(row[3] for row in ordered)
    return Trace(
        name,
        arrival - arrival[0],
        np.array([row[1] for row in ordered], np.int64),
        np.array([row[2] for row in ordered], np.int64),
        tuple(row[3] for row in ordered) if known else (),
        prefix_tokens,
    )


# --- schemas ------------------------------------------------------------------------------------


def _azure(row: Mapping[str, str]) -> Row:
    # The last digits are hundreds of nanoseconds, which datetime does not read.
    date, _, fraction = row["TIMESTAMP"].partition(".")
    seconds = datetime.fromisoformat(date).timestamp() + float(f"0.{fraction or 0}")
    return seconds, int(row["ContextTokens"]), int(row["GeneratedTokens"]), ()


def _lengths(row: Mapping[str, str]) -> Row:
    return int(row["arrival_time_ns"]) / 1e9, int(row["input_toks"]), int(row["output_toks"]), ()


def _burst(row: Mapping[str, str]) -> Row:
    return float(row["Timestamp"]), int(row["Request tokens"]), int(row["Response tokens"]), ()


def _plain(row: Mapping[str, str]) -> Row:
    return float(row["arrival_s"]), int(row["input_tokens"]), int(row["output_tokens"]), ()


@dataclass(frozen=True)
class Schema:
    """A kind of CSV file: its columns, and what a row says."""

    columns: frozenset[str]
    row: Callable[[Mapping[str, str]], Row]


#: Name -> schema of a CSV file; to add one, a line here.
SCHEMAS: Registry[Schema] = Registry("trace schema")
for _name, _columns, _row in (
    ("azure", ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), _azure),
    ("sharegpt_lengths", ("arrival_time_ns", "input_toks", "output_toks"), _lengths),
    ("burstgpt", ("Timestamp", "Request tokens", "Response tokens"), _burst),
    ("plain", ("arrival_s", "input_tokens", "output_tokens"), _plain),
):
    SCHEMAS.add(_name, Schema(frozenset(_columns), _row))


def load_trace(path: Path, requests: int | None = None) -> Trace:
    """Read a trace; the schema follows from the columns of a CSV file, `.jsonl` is Mooncake's.

    requests: read no more than the first ones. Rows without an answer are left out where the
    schema has them (BurstGPT: failed requests).

    Raises ConfigError with file and line: no such file, unknown columns, a row that is not numbers,
    no request at all.
    """
    read = _mooncake_rows if path.suffix == ".jsonl" else _csv_rows
    rows: list[Row] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in read(file, path):
                if requests is not None and len(rows) >= requests:
                    break
                rows.append(row)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text; expected a CSV or JSONL trace") from error
    if not rows:
        raise ConfigError(f"{path}: no request; expected at least one row below the header")
    return make_trace(path.stem, rows)


def _csv_rows(file, path: Path) -> Iterator[Row]:
    reader = csv.DictReader(file)
    columns = frozenset(reader.fieldnames or ())
    schema = next((s for s in map(SCHEMAS.get, SCHEMAS) if s.columns <= columns), None)
    if schema is None:
        known = "; ".join(f"{name}: {', '.join(sorted(SCHEMAS.get(name).columns))}"
                          for name in SCHEMAS)  # fmt: skip
        raise ConfigError(
            f"{path}:1: columns {', '.join(sorted(columns)) or 'none'}; expected those of a known "
            f"schema ({known})"
        )
    for row in reader:
        try:
            yield from _checked(schema.row(row), f"{path}:{reader.line_num}")
        except (ValueError, TypeError) as error:
            shown = ", ".join(str(row.get(name)) for name in sorted(schema.columns))
            raise ConfigError(
                f"{path}:{reader.line_num}: {shown}: not a request; expected numbers in "
                f"{', '.join(sorted(schema.columns))}"
            ) from error


def _mooncake_rows(file, path: Path) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            data = json.loads(line)
            row = (
                float(data["timestamp"]) / 1e3, int(data["input_length"]),
                int(data["output_length"]), tuple(map(int, data.get("hash_ids", ()))),
            )  # fmt: skip
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{where}: not a request; expected JSON with timestamp (ms), input_length, "
                f"output_length, hash_ids"
            ) from error
        yield from _checked(row, where)


def _checked(row: Row, where: str) -> Iterator[Row]:
    if row[1] < 0 or row[2] < 0 or not np.isfinite(row[0]):
        raise ConfigError(f"{where}: {row[1]} prompt and {row[2]} answer tokens; expected >= 0")
    # A request that failed has no answer, one of nothing but an image no prompt.
    if row[1] and row[2]:
        yield row
