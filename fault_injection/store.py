"""Outcomes of a campaign, kept in SQLite batch by batch.

A batch is written in one transaction, together with the digest of what it holds: a process that is
killed leaves whole batches behind, and a damaged file is noticed before anything is counted.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.errors import BanksideError, ConfigError
from bankside.fault_injection.fault import Fault
from bankside.mapping.explore.store import ResultFile
from bankside.sim.faults import OUTCOME

__all__ = ["CampaignStore"]

_FIELDS = OUTCOME.names or ()
_COLUMNS = ", ".join(f'"{name}" INTEGER NOT NULL' for name in _FIELDS)
_NAMES = ", ".join(f'"{name}"' for name in _FIELDS)
_UNSIGNED = [name for name in _FIELDS if OUTCOME[name] == np.uint64]


class CampaignStore(ResultFile):
    """Faults and outcomes of one campaign.

    Args:
        path: of the file, made where it is missing.
        key: content hash of all that the results depend on.

    Raises:
        BanksideError: the file is none of these, is damaged, or belongs to another campaign. It is
            never changed then.
    """

    SCHEMA = 2
    TABLES = (
        """CREATE TABLE IF NOT EXISTS campaign (key TEXT PRIMARY KEY, description TEXT NOT NULL)
        WITHOUT ROWID""",
        # stage: 0 pilot and exhaustive strata, 1 the rest, 2 the referee's sample
        """CREATE TABLE IF NOT EXISTS batches (stage INTEGER, number INTEGER,
        faults INTEGER NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (stage, number))
        WITHOUT ROWID""",
        f"""CREATE TABLE IF NOT EXISTS results (stage INTEGER, number INTEGER, id INTEGER,
        fault TEXT NOT NULL, {_COLUMNS}, PRIMARY KEY (stage, number, id)) WITHOUT ROWID""",
        "CREATE INDEX IF NOT EXISTS by_id ON results (id)",
        """CREATE TABLE IF NOT EXISTS texts (kind TEXT, number INTEGER, text TEXT NOT NULL,
        digest TEXT NOT NULL, PRIMARY KEY (kind, number)) WITHOUT ROWID""",
    )

    def __init__(self, path: Path, key: str, description: Mapping[str, Any]) -> None:
        super().__init__(path)
        try:
            self._check(key, description)
        except sqlite3.Error as error:
            raise self.damaged(str(error)) from error
        except BaseException:
            self._db.close()
            raise

    def _check(self, key: str, description: Mapping[str, Any]) -> None:
        problems = [row[0] for row in self._db.execute("PRAGMA quick_check(1)")]
        if problems != ["ok"]:
            raise self.damaged(problems[0])
        found = self._db.execute("SELECT key FROM campaign").fetchone()
        if found is None:
            with self._db:
                row = (key, json.dumps(description))
                self._db.execute("INSERT OR IGNORE INTO campaign VALUES (?, ?)", row)
        elif found[0] != key:
            raise BanksideError(
                f"{self.path}: holds another campaign ({found[0][:12]}, not {key[:12]}): its "
                f"description, program, design or code was another one; choose another --store"
            )

    def damaged(self, reason: str) -> BanksideError:
        """The exception for a store whose contents cannot be right."""
        return BanksideError(
            f"{self.path}: damaged: {reason}; nothing was changed. Bring back a copy of it, or "
            f"move it away to start the campaign again"
        )

    def done(self, stage: int) -> set[int]:
        """Numbers of the batches that are finished."""
        rows = self._guarded("SELECT number FROM batches WHERE stage = ?", (stage,))
        return {row[0] for row in rows}

    def put(
        self, stage: int, number: int, ids: Sequence[int], faults: Sequence[str],
        outcomes: NDArray[np.void],
    ) -> None:  # fmt: skip
        """Keep a batch; the first one under a number stays."""
        rows = [
            (stage, number, i, fault, *values)
            for i, fault, values in zip(ids, faults, _signed(outcomes), strict=True)
        ]
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                marks = ", ".join("?" * (4 + len(_FIELDS)))
                self._db.executemany(f"INSERT OR IGNORE INTO results VALUES ({marks})", rows)
                row = (stage, number, len(rows), _digest([r[2:] for r in rows]))
                self._db.execute("INSERT OR IGNORE INTO batches VALUES (?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise self._full(error) from error

    def read(self, stage: int) -> tuple[NDArray[np.int64], list[str], NDArray[np.void]]:
        """Ids, faults (JSON) and outcomes of all finished batches of a stage, by id.

        Raises:
            BanksideError: a batch is not what was written.
        """
        whole: list[tuple[Any, ...]] = []
        batches = self._guarded(
            "SELECT number, faults, digest FROM batches WHERE stage = ? ORDER BY number", (stage,)
        )
        for number, count, digest in batches:
            rows = self._guarded(
                f"SELECT id, fault, {_NAMES} FROM results WHERE stage = ? AND number = ? "
                "ORDER BY id", (stage, number),
            )  # fmt: skip
            if len(rows) != count or _digest(sorted(rows)) != digest:
                raise self.damaged(f"batch {number} of stage {stage} is not what was written")
            whole += rows
        whole.sort(key=lambda row: row[0])
        return (
            np.array([row[0] for row in whole], np.int64),
            [row[1] for row in whole],
            _outcomes([row[2:] for row in whole]),
        )

    def put_text(self, kind: str, number: int, text: str) -> None:
        """Keep what else was found, under a kind and a number; the first one stays."""
        row = (kind, number, text, _digest([(kind, number, text)]))
        try:
            with self._db:
                self._db.execute("INSERT OR IGNORE INTO texts VALUES (?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise self._full(error) from error

    def texts(self, kind: str) -> dict[int, str]:
        """All texts of a kind by number. Raises BanksideError where one is not what was written."""
        rows = self._guarded(
            "SELECT number, text, digest FROM texts WHERE kind = ? ORDER BY number", (kind,)
        )
        for number, text, digest in rows:
            if _digest([(kind, number, text)]) != digest:
                raise self.damaged(f"text {number} of {kind!r} is not what was written")
        return {number: text for number, text, _ in rows}

    def _full(self, error: sqlite3.Error) -> BanksideError:
        return BanksideError(
            f"{self.path}: cannot be written: {error}; what is finished is kept: make room and "
            f"call again"
        )

    def fault(self, number: int) -> tuple[Fault, np.void]:
        """A finished fault by its id, and its outcome. Raises ConfigError where there is none."""
        rows = self._guarded(
            f"SELECT fault, {_NAMES} FROM results WHERE id = ? AND stage < 2", (number,)
        )
        if not rows:
            ends = self._guarded("SELECT MIN(id), MAX(id) FROM results WHERE stage < 2", ())[0]
            raise ConfigError(
                f"no fault {number} in {self.path}; "
                + (f"expected {ends[0]} to {ends[1]}" if ends[0] is not None else "it holds none")
            )
        return Fault.from_json(rows[0][0]), _outcomes([rows[0][1:]])[0]

    def _guarded(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self.damaged(str(error)) from error


def _signed(outcomes: NDArray[np.void]) -> list[tuple[int, ...]]:
    """Rows for SQLite, whose integers are signed."""
    return [
        tuple(v - (1 << 64) if v >= 1 << 63 else v for v in map(int, row))
        for row in outcomes.tolist()
    ]


def _outcomes(rows: Sequence[tuple[int, ...]]) -> NDArray[np.void]:
    out = np.zeros(len(rows), OUTCOME)
    for place, name in enumerate(_FIELDS):
        column = np.array([row[place] for row in rows], np.int64)
        out[name] = column.view(np.uint64) if name in _UNSIGNED else column
    return out


def _digest(rows: Sequence[tuple[Any, ...]]) -> str:
    text = json.dumps(sorted(rows), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
