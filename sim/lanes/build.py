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
_SOURCES = ("lanes.h", "runtime.h", "runtime.c")
_GENERATORS = ("netlist", "flatten", "schedule", "guards", "order", "segment", "bits", "shifts",
               "cells", "activity", "functions", "effects", "listing", "places", "simplify",
               "emit", "build")  # fmt: skip
#: `-O1` is 10 % slower, `-O3` no faster; contraction and aliasing do not matter to integers.
FLAGS = ("-O2", "-march=native", "-fPIC", "-w", "-fno-strict-aliasing")


def build_lanes(
    netlist: Path,
    *,
    nets: bool = False,
    bench: Sequence[Path] = (),
    defines: Sequence[str] = (),
) -> tuple[ctypes.CDLL, Design]:
    """The library of a netlist (`bankside.sim.elaborate.to_json`) and the places in it.

    Parameters
    ----------
    nets : outputs of cells can be forced.
    bench : C++ files compiled with it, the first one; further ones are headers it includes.
    defines : compiler options of the bench.

    Raises
    ------
    ToolError: no compiler, or a design that the lane engine has no code for.
    """
    key = {
        "netlist": file_hash(netlist), "nets": nets, "flags": list(FLAGS), "defines": list(defines),
        "sources": [file_hash(_FOLDER / name) for name in _SOURCES],
        "generators": [file_hash(_FOLDER / f"{name}.py") for name in _GENERATORS],
        "bench": [file_hash(path) for path in bench],
        "tools": [tool_version(find_cxx()), _machine()],
    }  # fmt: skip
    with cache_entry("lanes", key) as entry:
        if not entry.hit:
            start = time.monotonic()
            design = emit(load(netlist), nets=nets)
            _compile(design, entry.path, bench, defines)
            stored = asdict(design) | {"text": ""}
            (entry.path / "places.json").write_text(json.dumps(stored))
            say(f"compiled {netlist.stem} in lanes in {time.monotonic() - start:.0f} s")
    stored = json.loads((entry.path / "places.json").read_text())
    stored["places"] = tuple(
        Place(**{**place, "init": tuple(place["init"])}) for place in stored["places"]
    )
    return ctypes.CDLL(str(entry.path / "lanes.so")), Design(**stored)


def _machine() -> str:
    """The instructions that this machine has: code for them does not run everywhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2] for line in lines if line.startswith("flags")), "unknown")


def _compile(design: Design, folder: Path, bench: Sequence[Path], defines: Sequence[str]) -> None:
    source = folder / "design.c"
    source.write_text(design.text)
    compiler, include = find_cxx(), f"-I{_FOLDER}"
    objects: list[object] = []
    # C++ has vector types too, but not everything that C has; both files are C.
    for path in (source, _FOLDER / "runtime.c"):
        target = folder / f"{path.stem}.o"
        run_tool(
            [compiler, "-x", "c", *FLAGS, include, "-c", path, "-o", target], f"compile {path.name}"
        )
        objects.append(target)
    for path in bench[:1]:
        target = folder / f"{path.stem}.o"
        flags = [
            "-std=c++17",
            *FLAGS,
            include,
            f"-I{_FOLDER.parent / 'rtl'}",
            f"-I{folder}",
            *defines,
        ]
        run_tool([compiler, *flags, "-c", path, "-o", target], f"compile {path.name}")
        objects.append(target)
    run_tool([compiler, "-shared", "-o", folder / "lanes.so", *objects], "link the lanes")
    for leftover in objects:
        Path(str(leftover)).unlink()
