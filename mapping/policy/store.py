"""Numbers that took a while to compute, kept in a file for each thing they belong to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from bankside.cache import atomic_write, build_root, content_hash, file_hash


class Store:
    """`folder` of the build cache: one file per `key`, which names all that the numbers depend on.

    A file that cannot be read counts as empty.
    """

    def __init__(self, folder: str, key: dict[str, Any]) -> None:
        self._path: Path = build_root() / folder / f"{content_hash(key)[:24]}.json"
        try:
            self._known: dict[str, float] = json.loads(self._path.read_text())
        except (OSError, ValueError):
            self._known = {}

    def get(self, key: str, compute: Callable[[], float]) -> float:
        """A number that is known, else computed and kept."""
        if (known := self._known.get(key)) is None:
            known = self._known[key] = compute()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self._path, json.dumps(self._known).encode())
        return known


def code_of(packages: Iterable[ModuleType], modules: Iterable[ModuleType | str]) -> list[str]:
    """Hashes of all Python and YAML files of packages, and of modules (or files)."""
    folders = [Path(package.__path__[0]) for package in packages]
    files = [path for folder in folders for path in sorted(folder.rglob("*.[py][ya]*"))]
    single = [m if isinstance(m, str) else m.__file__ or "" for m in modules]
    return [file_hash(path) for path in (*files, *single)]
