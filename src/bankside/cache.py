"""Build cache: generated things lie under `build/`, named by the hash of what they come from.

An entry appears complete or not at all, whatever happens to the process that makes it; two
processes that want the same entry build it once.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bankside.errors import BanksideError, ConfigError

MANIFEST = "manifest.json"


def build_root() -> Path:
    """Return $BANKSIDE_BUILD, else `build` in the source checkout, else `build` right here."""
    if chosen := os.environ.get("BANKSIDE_BUILD"):
        return Path(chosen).absolute()
    checkout = Path(__file__).resolve().parents[2]
    base = checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()
    return base / "build"


def content_hash(key: Mapping[str, object]) -> str:
    """Return 64 hexadecimal digits for a JSON-like mapping; the order of its keys does not matter.

    Raises:
        ConfigError: a value is not plain data, so its hash would differ from run to run.
    """
    try:
        text = json.dumps(key, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"cache key is not plain JSON data: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, for use in a cache key."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def atomic_write(path: str | Path, data: str | bytes) -> Path:
    """Write a file so that it never exists half-written; missing folders are made.

    Raises:
        BanksideError: the place cannot be written.
    """
    path = Path(path)
    raw = data.encode() if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            try:
                file.write(raw)
                file.flush()
                # A temporary file is private by default; the result shall be as readable as any
                # other file.
                os.chmod(temporary, 0o666 & ~_umask())
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise BanksideError(
            f"{path}: cannot be written: {error.strerror}; choose another folder"
        ) from error
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@dataclass
class CacheEntry:
    """One folder of the cache.

    Attributes:
        path: where to write while building, the finished folder otherwise (and after the `with`
            block).
        hit: the entry was there already; nothing has to be built.
        digest: hash of the key.
    """

    path: Path
    hit: bool
    digest: str


def _complete(folder: Path) -> bool:
    """Tell whether a folder still holds every file of its manifest in its full size."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _seal(folder: Path, kind: str, key: Mapping[str, object]) -> None:
    """Write the manifest: what the entry was made from, and the size of each file in bytes."""
    files = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"kind": kind, "key": dict(key), "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock. The kernel frees it when the process dies, however it dies."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def cache_entry(kind: str, key: Mapping[str, object]) -> Iterator[CacheEntry]:
    """Give the folder that belongs to a key, to be filled where it is new.

    ::

        with cache_entry("verilog", {"config": config.content_hash}) as entry:
            if not entry.hit:
                (entry.path / "top.v").write_text(...)
        top = entry.path / "top.v"

    While building, `entry.path` is a temporary folder that is renamed at the end of the block, so
    what is written must not contain its path. An exception inside the block leaves nothing behind.
    Entries of the same key must not be nested.

    Args:
        kind: what the entry holds, a folder name ("verilog", "verilator").
        key: everything the content depends on, as plain JSON data: configuration, sources, tool
            versions.
    """
    digest = content_hash(key)
    home = build_root() / kind
    final = home / digest[:16]
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BanksideError(
            f"{home}: cannot make the build folder: {error.strerror}; "
            "set BANKSIDE_BUILD to a writable one"
        ) from error
    if _complete(final):
        yield CacheEntry(final, True, digest)
        return
    with _locked(home / f".{digest[:16]}.lock"):
        if _complete(final):  # another process built it while this one waited
            yield CacheEntry(final, True, digest)
            return
        # The lock is ours: whatever lies here is of a process that was killed.
        for stale in home.glob(f".{digest[:16]}.tmp-*"):
            shutil.rmtree(stale, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".{digest[:16]}.tmp-", dir=home))
        try:
            os.chmod(work, 0o777 & ~_umask())
            entry = CacheEntry(work, False, digest)
            yield entry
            _seal(work, kind, key)
            shutil.rmtree(final, ignore_errors=True)
            os.rename(work, final)
            entry.path = final
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
