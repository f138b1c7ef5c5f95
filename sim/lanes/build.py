"""Netlist -> shared library with the design in lanes, cached by content."""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bankside.cache import cache_entry, file_hash
from bankside.sim.lanes.emit import emit
from bankside.sim.lanes.flatten import load
from bankside.sim.lanes.places import Design, Place
from bankside.sim.rtl.tools import find_cxx, run_tool, tool_version
from bankside.sim.rtl.verilate import say

_FOLDER = Path(__file__).parent
_HEADERS = ("lanes.h", "runtime.h")
_GENERATORS = ("netlist", "flatten", "schedule", "guards", "order", "segment", "bits", "shifts",
               "cells", "activity", "functions", "effects", "listing", "places", "simplify",
               "emit", "build")  # fmt: skip
#: `-O1` is 10 % slower, `-O3` no faster; contraction and aliasing do not matter to integers.
FLAGS = ("-O2", "-march=native", "-fPIC", "-w", "-fno-strict-aliasing")


def design_of(netlist: Path, *, nets: bool = False) -> tuple[Design, Path]:
    """The places of a netlist (`bankside.sim.elaborate.to_json`) and its compiled functions, an
    object file that every library of the design is linked from.

    nets : outputs of cells can be forced.

    Raises
    ------
    ToolError: no compiler, or a design that the lane engine has no code for.
    """
    key = {
        "netlist": file_hash(netlist), "nets": nets, "flags": list(FLAGS),
        "headers": [file_hash(_FOLDER / name) for name in _HEADERS],
        "generators": [file_hash(_FOLDER / f"{name}.py") for name in _GENERATORS],
        "tools": _tools(),
    }  # fmt: skip
    with cache_entry("lanes-design", key) as entry:
        if not entry.hit:
            start = time.monotonic()
            design = emit(load(netlist), nets=nets)
            source = entry.path / "design.c"
            source.write_text(design.text)
            _compile_c(source, entry.path / "design.o")
            stored = asdict(design) | {"text": ""}
            (entry.path / "places.json").write_text(json.dumps(stored))
            say(f"compiled {netlist.stem} in lanes in {time.monotonic() - start:.0f} s")
    stored = json.loads((entry.path / "places.json").read_text())
    stored["places"] = tuple(
        Place(**{**place, "init": tuple(place["init"])}) for place in stored["places"]
    )
    return Design(**stored), entry.path / "design.o"


def build_lanes(
    netlist: Path,
    *,
    nets: bool = False,
    bench: Sequence[Path] = (),
    defines: Sequence[str] = (),
) -> tuple[ctypes.CDLL, Design]:
    """The library of a netlist and the places in it. The design itself is compiled once, whatever
    it is linked with.

    Parameters
    ----------
    nets : outputs of cells can be forced.
    bench : C++ files compiled with it, the first one; further ones are headers it includes.
    defines : compiler options of the bench.

    Raises
    ------
    ToolError: no compiler, or a design that the lane engine has no code for.
    """
    design, functions = design_of(netlist, nets=nets)
    key = {
        "design": functions.parent.name, "flags": list(FLAGS), "defines": list(defines),
        "sources": [file_hash(_FOLDER / name) for name in (*_HEADERS, "runtime.c", "build.py")],
        "bench": [file_hash(path) for path in bench], "tools": _tools(),
    }  # fmt: skip
    with cache_entry("lanes", key) as entry:
        if not entry.hit:
            _link(functions, entry.path, bench[:1], defines)
    return ctypes.CDLL(str(entry.path / "lanes.so")), design


def _tools() -> list[str]:
    return [tool_version(find_cxx()), _machine()]


def _machine() -> str:
    """The instructions that this machine has: code for them does not run everywhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2] for line in lines if line.startswith("flags")), "unknown")


def _compile_c(source: Path, target: Path) -> None:
    # C++ has vector types too, but not everything that C has.
    run_tool(
        [find_cxx(), "-x", "c", *FLAGS, f"-I{_FOLDER}", "-c", source, "-o", target],
        f"compile {source.name}",
    )


def _link(functions: Path, folder: Path, bench: Sequence[Path], defines: Sequence[str]) -> None:
    """`lanes.so` in `folder`: the design, what runs it, what drives it."""
    runtime = folder / "runtime.o"
    _compile_c(_FOLDER / "runtime.c", runtime)
    made = [runtime]
    includes = (f"-I{_FOLDER}", f"-I{_FOLDER.parent / 'rtl'}", f"-I{folder}")
    for path in bench:
        target = folder / f"{path.stem}.o"
        run_tool(
            [find_cxx(), "-std=c++17", *FLAGS, *includes, *defines, "-c", path, "-o", target],
            f"compile {path.name}",
        )
        made.append(target)
    run_tool([find_cxx(), "-shared", "-o", folder / "lanes.so", functions, *made], "link the lanes")
    for leftover in made:
        leftover.unlink()
