"""Build cache: complete or absent, whatever happens to the builder."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bankside.cache import MANIFEST, atomic_write, build_root, cache_entry, content_hash, file_hash
from bankside.errors import BanksideError, ConfigError

ROOT = Path(__file__).parents[1]
KEY = {"config": "abc", "version": 1}


@pytest.fixture(autouse=True)
def _own_build_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BANKSIDE_BUILD", str(tmp_path / "build"))


def build(text: str = "hello") -> tuple[bool, Path]:
    """Ask for the entry of KEY, filling it when new; return (was it there, its folder)."""
    with cache_entry("text", KEY) as entry:
        if not entry.hit:
            (entry.path / "sub").mkdir()
            (entry.path / "sub" / "file.txt").write_text(text)
    return entry.hit, entry.path


def everything(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_second_use_is_a_hit() -> None:
    hit, path = build("one")
    assert not hit
    assert path == build_root() / "text" / content_hash(KEY)[:16]
    assert build("two") == (True, path)
    assert (path / "sub" / "file.txt").read_text() == "one"
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest == {"kind": "text", "key": KEY, "files": {"sub/file.txt": 3}}


def test_other_key_is_another_entry() -> None:
    _, path = build()
    with cache_entry("text", KEY | {"version": 2}) as entry:
        assert not entry.hit
    assert entry.path != path


def test_exception_leaves_nothing() -> None:
    with pytest.raises(ZeroDivisionError), cache_entry("text", KEY) as entry:
        (entry.path / "half").write_text("x")
        raise ZeroDivisionError
    assert everything(build_root() / "text") == []
    assert build()[0] is False


@pytest.mark.parametrize("damage", ["remove", "truncate", "manifest", "manifest type"])
def test_damaged_entry_is_built_again(damage: str) -> None:
    _, path = build("intact")
    if damage == "remove":
        (path / "sub" / "file.txt").unlink()
    elif damage == "truncate":
        (path / "sub" / "file.txt").write_text("int")
    elif damage == "manifest":
        (path / MANIFEST).write_text('{"files": ')
    else:
        (path / MANIFEST).write_text("[]")
    assert build("again")[0] is False
    assert (path / "sub" / "file.txt").read_text() == "again"
    assert build()[0] is True


_BUILDER = """
import sys, time
from bankside.cache import cache_entry
with cache_entry("text", {"config": "abc", "version": 1}) as entry:
    if not entry.hit:
        (entry.path / "file.txt").write_text("half")
        print("building", flush=True)
        time.sleep(float(sys.argv[1]))
        (entry.path / "file.txt").write_text("whole")
print("hit" if entry.hit else "built", flush=True)
"""


def start(seconds: float) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", _BUILDER, str(seconds)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_kill_minus_nine_leaves_no_entry_and_no_rubbish() -> None:
    with start(60) as victim:
        assert victim.stdout.readline() == "building\n"
        os.kill(victim.pid, signal.SIGKILL)
    folder = build_root() / "text"
    assert len(everything(folder)) == 1  # the victim's half-built folder
    hit, path = build()
    assert not hit
    assert everything(folder) == [path.name]


def test_two_processes_build_once() -> None:
    with start(0.5) as first:
        assert first.stdout.readline() == "building\n"
        began = time.monotonic()
        with start(0) as second:
            assert second.stdout.read() == "hit\n"
        assert first.stdout.read() == "built\n"
        assert time.monotonic() - began > 0.1
    text = (build_root() / "text" / content_hash(KEY)[:16] / "file.txt").read_text()
    assert text == "whole"


def test_key_must_be_plain_data() -> None:
    assert content_hash({"a": 1, "b": [2]}) == content_hash({"b": [2], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": "1"})
    for value in (object(), float("nan"), b"bytes"):
        with pytest.raises(ConfigError, match="cache key is not plain JSON data"):
            content_hash({"a": value})


def test_build_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BANKSIDE_BUILD", str(tmp_path / "file" / "build"))
    with pytest.raises(BanksideError, match="set BANKSIDE_BUILD"), cache_entry("text", KEY):
        pass


def test_atomic_write(tmp_path: Path) -> None:
    path = atomic_write(tmp_path / "a" / "file.txt", "text")
    assert path.read_text() == "text"
    atomic_write(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    plain = tmp_path / "plain"
    plain.write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert everything(path.parent) == ["file.txt"]
    assert file_hash(path) == "b413f47d13ee2fe6c845b2ee141af81de858df4ec549a58b7970bb96645bc8d2"


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = atomic_write(tmp_path / "file.txt", "old")

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BanksideError, match="file.txt: cannot be written: No space left"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert everything(tmp_path) == ["file.txt"]
