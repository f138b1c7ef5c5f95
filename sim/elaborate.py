"""Amaranth component -> RTLIL -> Verilog or JSON, cached by content.

Equal components give equal text, and the text is the cache key, so a second call costs one
elaboration and no synthesis.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from bankside.cache import cache_entry, content_hash
from bankside.errors import ToolError
from bankside.hw.lib.unit import ExportPlatform

if TYPE_CHECKING:
    from amaranth.lib.wiring import Component

__all__ = ["to_json", "to_rtlil", "to_verilog"]

# `proc -nomux` keeps decision trees as `if` and `case`, which people can read and simulators
# evaluate one branch of; names and hierarchy stay because nothing here flattens or renames.
_PASSES = "hierarchy -check -top {top}; proc -nomux -norom; opt_clean; memory_collect"
_WRITE_VERILOG = "write_verilog -noattr -norename {output}"
_JSON_PASSES = "hierarchy -check -top {top}; proc; opt_expr; opt_clean; memory_collect"
_WRITE_JSON = "write_json {output}"

_MODULE = re.compile(r"^module \\(\S+)$", re.MULTILINE)
_MEMORY = re.compile(r"^  memory width (\d+) size (\d+) \\(\S+)$", re.MULTILINE)
_INIT_CELL = re.compile(r"^  cell \$meminit_v2 \S+\n(?:    .*\n)*?  end\n", re.MULTILINE)
_INIT_NAME = re.compile(r'parameter \\MEMID "\\\\(\S+)"')
_INIT_DATA = re.compile(r"connect \\DATA \d+'(\d*)")


def to_rtlil(component: Component, name: str) -> str:
    """RTLIL text of `component` as top module `name` with each distinct `Unit` in it once.

    Ports are `clk`, `rst` and every signature member as `member__submember`.
    """
    return ExportPlatform().convert(component, name)


def to_verilog(component: Component, name: str, *, cache: bool = True) -> Path:
    """File with the Verilog (2005) of `component`, top module `name`.

    `cache=False` makes it anew. Raises `ConfigError` for a component that cannot be exported and
    `ToolError` if synthesis fails.
    """
    text, zeroed = _without_zero_init(to_rtlil(component, name))

    def make(folder: Path) -> None:
        output = folder / f"{name}.v"
        _run_yosys(text, _PASSES, name, output, _WRITE_VERILOG)
        output.write_text(_with_zero_loops(output.read_text(), zeroed))

    recipe = [_PASSES, _WRITE_VERILOG, sorted(map(list, zeroed))]
    return _cached("verilog", text, recipe, make, cache) / f"{name}.v"


def to_json(component: Component, name: str, *, cache: bool = True) -> Path:
    """File with the word-level Yosys JSON netlist of `component`, top module `name`."""
    text = to_rtlil(component, name)

    def make(folder: Path) -> None:
        _run_yosys(text, _JSON_PASSES, name, folder / f"{name}.json", _WRITE_JSON)

    recipe = [_JSON_PASSES, _WRITE_JSON]
    return _cached("netlist", text, recipe, make, cache) / f"{name}.json"


def _cached(
    kind: str, text: str, recipe: list[object], make: Callable[[Path], None], reuse: bool
) -> Path:
    key = {
        "rtlil": content_hash({"text": text}),
        "recipe": recipe,
        "pyosys": _pyosys_version(),
        # A fresh number makes a fresh entry, which leaves files in use elsewhere alone.
        "again": "" if reuse else uuid.uuid4().hex,
    }
    with cache_entry(kind, key) as entry:
        if not entry.hit:
            make(entry.path)
    return entry.path


def _pyosys_version() -> str:
    try:
        return version("pyosys")
    except PackageNotFoundError as error:
        raise ToolError(
            "the Python package 'pyosys' (Yosys) is missing from this environment; "
            "install it: python -m pip install 'pyosys>=0.70'"
        ) from error


def _run_yosys(rtlil: str, passes: str, top: str, output: Path, write: str) -> None:
    """Run `passes` in a process of its own: Yosys ends its process on every error."""
    source = output.with_suffix(".il")
    script = output.with_suffix(".ys")
    source.write_text(rtlil)
    steps = [f"read_rtlil {source}", *passes.format(top=top).split("; ")]
    script.write_text("\n".join([*steps, write.format(output=output)]) + "\n")
    code = f"from pyosys import libyosys as y; y.Design().run_pass('script ' + {str(script)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode != 0 or not output.exists():
        log = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise ToolError(
            f"Yosys could not convert {top!r} (exit status {done.returncode}):\n"
            f"{textwrap.indent(log, '  ')}\nexpected a design that passes `hierarchy -check`"
        )
    source.unlink()
    script.unlink()


def _without_zero_init(rtlil: str) -> tuple[str, set[tuple[str, str]]]:
    """Drop the all-zero initial contents of memories; return them as (module, memory).

    Yosys would write one assignment per word, thousands of lines for one DRAM bank.
    """
    zeroed = set()
    parts = _MODULE.split(rtlil)
    for index in range(1, len(parts), 2):
        module, body = parts[index], parts[index + 1]
        for cell in _INIT_CELL.findall(body):
            data, memory = _INIT_DATA.search(cell), _INIT_NAME.search(cell)
            if data and memory and "1" not in data[1]:
                body = body.replace(cell, "")
                zeroed.add((module, memory[1]))
        parts[index] = f"module \\{module}"
        parts[index + 1] = body
    return "".join(parts), zeroed


def _with_zero_loops(verilog: str, zeroed: set[tuple[str, str]]) -> str:
    """Give each memory in `zeroed` its zero contents back, as a loop."""
    for module, memory in zeroed:
        start = verilog.index(f"module {_identifier(module)}(")
        declared = re.compile(
            rf"^  reg (\[\d+:0\] )?({re.escape(_identifier(memory))}) \[(\d+):0\];\n", re.MULTILINE
        ).search(verilog, start)
        if declared is None:  # the memory had no reader and is gone
            continue
        loop = (
            f"  integer \\{memory}$word ;\n"
            f"  initial for (\\{memory}$word = 0; \\{memory}$word <= {declared[3]};"
            f" \\{memory}$word = \\{memory}$word + 1) {declared[2]}[\\{memory}$word ] = 0;\n"
        )
        verilog = verilog[: declared.end()] + loop + verilog[declared.end() :]
    return verilog


def _identifier(name: str) -> str:
    """`name` as Yosys writes it: escaped unless it is a plain Verilog identifier."""
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else f"\\{name} "
