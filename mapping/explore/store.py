"""Results of evaluations, kept in SQLite as soon as they are there.

A result is written once, under the hash of all it depends on. That is the whole state of an
exploration: the search itself is computed again from results, so a process may die anywhere.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, Self

from bankside.errors import BanksideError
from bankside.mapping.explore.evaluate import Outcome

_TABLE = """
CREATE TABLE IF NOT EXISTS results (
    key TEXT PRIMARY KEY,      -- Space.key
    point TEXT NOT NULL,       -- JSON: parameter -> value
    status TEXT NOT NULL,      -- ok, infeasible, failed
    metrics TEXT NOT NULL,     -- JSON: metric -> number
    reason TEXT NOT NULL
) WITHOUT ROWID
"""


class ResultFile:
    """SQLite file of results; several processes may use it at once.

    Attributes:
        SCHEMA: version of the tables. TABLES: statements that make them.

    Raises:
        BanksideError: the file is none of these.
    """

    SCHEMA = 1
    TABLES: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60)
            self._open()
        except (sqlite3.Error, OSError) as error:
            raise BanksideError(
                f"{path}: cannot be used as a store of results: {error}; choose another file"
            ) from error

    def _open(self) -> None:
        """Write-ahead log: a reader never waits, a killed writer leaves nothing half done."""
        self._db.execute("PRAGMA journal_mode=WAL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version not in (0, self.SCHEMA):
            raise sqlite3.DatabaseError(
                f"written by another version ({version}, not {self.SCHEMA})"
            )
        if version == self.SCHEMA:
            return
        with self._db:
            for table in self.TABLES:
                self._db.execute(table)
            self._db.execute(f"PRAGMA user_version={self.SCHEMA}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()


class Store(ResultFile):
    """Results of points."""

    TABLES = (_TABLE,)

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM results").fetchone()[0])

    def get(self, key: str) -> Outcome | None:
        """The result under a key, None: there is none yet."""
        query = "SELECT status, metrics, reason FROM results WHERE key = ?"
        row = self._db.execute(query, (key,)).fetchone()
        return None if row is None else Outcome(row[0], json.loads(row[1]), row[2])

    def put(self, key: str, point: dict[str, Any], outcome: Outcome) -> None:
        """Keep a result; the first one under a key stays."""
        row = (key, json.dumps(point), outcome.status, json.dumps(outcome.metrics), outcome.reason)
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?, ?)", row)
