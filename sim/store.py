"""Generated files under `build/`, one folder per content hash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["entry"]


def entry(
    kind: str, key: Mapping[str, object], make: Callable[[Path], None], *, reuse: bool = True
) -> Path:
    """Folder `build/<kind>/<hash of key>`, filled by `make(folder)` unless it is there already.

    It appears at once and complete: an interrupted or failing `make` leaves nothing behind.
    """
    root = Path(os.environ.get("BANKSIDE_BUILD", "build")).resolve() / kind
    text = json.dumps(key, sort_keys=True)
    folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]
    if folder.exists() and reuse:
        return folder
    root.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="new-", dir=root))
    try:
        make(work)
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder
