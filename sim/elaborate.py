"""Amaranth component -> RTLIL -> Verilog or JSON, cached by content.

Equal components give equal text, and the text is the cache key; components of this package are
found by their parameters and its sources, without elaboration. (Code that patches a class of this
package at run time must therefore pass `cache=False`; a subclass of its own needs nothing.)
"""

from __future__ import annotations

import functools
import gc
import re
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from bankside.cache import build_root, cache_entry, content_hash, file_hash
from bankside.errors import ConfigError, ToolError
from bankside.hw.lib.fingerprint import fingerprint
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
# Registers that the writer adds so that processes without inputs run once; the colon in their name
# makes GTKWave refuse the whole waveform.
_ADDED = re.compile(r"\\\$auto\$verilog_backend\.cc:\d+:dump_module\$(\d+) ")
#: What those registers are called instead, followed by a number.
START_REGISTER = "bankside_start_"
# Yosys marks what it computes with signs by `$signed`. A net that is declared so as well is
# extended with its sign where the netlist has zeros, as in `net >> amount` of a wider result.
_SIGNED = re.compile(r"^(  (?:(?:input|output) )?(?:wire|reg|input|output)) signed ", re.MULTILINE)
# A field of a structure, `signal.field`; viewers would take the dot for a level of hierarchy.
_FIELD = re.compile(r"\\(\w+)\.(\w+) ")

# `stream`, `wiring`, `data`: how the signatures and layouts of Amaranth show themselves.
_KNOWN_PACKAGES = {"bankside", "amaranth", "stream", "wiring", "data"}
_MODULE = re.compile(r"^module \\(\S+)$", re.MULTILINE)
_MEMORY = re.compile(r"^  memory width (\d+) size (\d+) \\(\S+)$", re.MULTILINE)
_INIT_CELL = re.compile(r"^  cell \$meminit_v2 \S+\n(?:    .*\n)*?  end\n", re.MULTILINE)
_INIT_NAME = re.compile(r'parameter \\MEMID "\\\\(\S+)"')
_INIT_DATA = re.compile(r"connect \\DATA \d+'(\d*)")


def to_rtlil(component: Component, name: str) -> str:
    """RTLIL text of `component` as top module `name` with each distinct `Unit` in it once.

    Ports are `clk`, `rst` and every signature member as `member__submember`.
    """
    collecting = gc.isenabled()
    gc.disable()  # thousands of objects that all live to the end: looking for cycles is a loss
    try:
        return ExportPlatform().convert(component, name)
    finally:
        if collecting:
            gc.enable()


def to_verilog(component: Component, name: str, *, cache: bool = True) -> Path:
    """File with the Verilog (2005) of `component`, top module `name`.

    `cache=False` makes it anew. Raises `ConfigError` for a component that cannot be exported and
    `ToolError` if synthesis fails.
    """

    def make(rtlil: str, output: Path) -> None:
        text, zeroed = _without_zero_init(rtlil)
        _run_yosys(text, _PASSES, name, output, _WRITE_VERILOG)
        output.write_text(_plain_names(_with_zero_loops(output.read_text(), zeroed)))

    return _export("verilog", component, name, ".v", [_PASSES, _WRITE_VERILOG], make, cache)


def _plain_names(verilog: str) -> str:
    """`verilog` with plain identifiers for added registers and for fields of structures, and nets
    without a sign.
    """
    verilog = _SIGNED.sub(r"\1 ", verilog)
    return _FIELD.sub(r"\1__\2 ", _ADDED.sub(rf"{START_REGISTER}\1", verilog))


def to_json(component: Component, name: str, *, cache: bool = True) -> Path:
    """File with the word-level Yosys JSON netlist of `component`, top module `name`."""

    def make(rtlil: str, output: Path) -> None:
        _run_yosys(rtlil, _JSON_PASSES, name, output, _WRITE_JSON)

    return _export("netlist", component, name, ".json", [_JSON_PASSES, _WRITE_JSON], make, cache)


def _export(
    kind: str,
    component: Component,
    name: str,
    suffix: str,
    recipe: list[str],
    make: Callable[[str, Path], None],
    reuse: bool,
) -> Path:
    """The file of `component`, by its RTLIL; by its parameters alone where that is safe."""
    # The text is also worked on here, so this file is part of the recipe.
    tools = {"recipe": recipe, "pyosys": _pyosys_version(), "export": file_hash(Path(__file__))}
    parameters = _parameters(component) if reuse else None
    if parameters is None:
        return _from_rtlil(kind, to_rtlil(component, name), name + suffix, tools, make, reuse)
    # Elaborating a whole rank takes seconds. An entry here only points to the entry of its RTLIL,
    # so that an edit which changes no RTL costs no synthesis and no compilation.
    key = {"name": name, "parameters": parameters, "sources": _sources_hash(), **tools}
    with cache_entry(f"{kind}-by-parameters", key) as entry:
        if not entry.hit:
            text = to_rtlil(component, name)
            target = _from_rtlil(kind, text, name + suffix, tools, make, True)
            (entry.path / "target").write_text(target.parent.name)
        target = build_root() / kind / (entry.path / "target").read_text() / (name + suffix)
    if target.exists():
        return target
    return _from_rtlil(kind, to_rtlil(component, name), name + suffix, tools, make, True)


def _from_rtlil(
    kind: str,
    text: str,
    file: str,
    tools: dict[str, object],
    make: Callable[[str, Path], None],
    reuse: bool,
) -> Path:
    # A fresh number makes a fresh entry, which leaves files in use elsewhere alone.
    again = "" if reuse else uuid.uuid4().hex
    key = {"rtlil": content_hash({"text": text}), "again": again, **tools}
    with cache_entry(kind, key) as entry:
        if not entry.hit:
            make(text, entry.path / file)
    return entry.path / file


def _parameters(component: Component) -> str | None:
    """Hash of the fingerprint, or None if code outside of the hashed sources has a part in it."""
    try:
        text = fingerprint(component)
    except ConfigError:
        return None
    names = re.findall(r"([A-Za-z_][\w.<>]*)(?:@\d+)?\(", text)
    if {name.partition(".")[0] for name in names if "." in name} <= _KNOWN_PACKAGES:
        return content_hash({"text": text})
    return None


@functools.cache
def _sources_hash() -> str:
    """Hash of everything in this package that elaboration may depend on."""
    import bankside

    root = Path(bankside.__file__).parent
    files = [*root.glob("*.py")]
    for folder in ("hw", "isa"):
        files += [p for p in (root / folder).rglob("*") if p.suffix in (".py", ".yaml")]
    hashes = {str(path.relative_to(root)): file_hash(path) for path in files}
    return content_hash({"files": hashes, "amaranth": version("amaranth")})


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
    """Give each memory in `zeroed` its zero contents back, as a loop.

    A simulator that clears memories by itself is told so by defining BANKSIDE_ZEROED, which makes
    the construction of a model with many of them much faster.
    """
    for module, memory in zeroed:
        start = verilog.index(f"module {_identifier(module)}(")
        declared = re.compile(
            rf"^  reg (\[\d+:0\] )?({re.escape(_identifier(memory))}) \[(\d+):0\];\n", re.MULTILINE
        ).search(verilog, start)
        if declared is None:  # the memory had no reader and is gone
            continue
        loop = (
            f"`ifndef BANKSIDE_ZEROED\n"
            f"  integer \\{memory}$word ;\n"
            f"  initial for (\\{memory}$word = 0; \\{memory}$word <= {declared[3]};"
            f" \\{memory}$word = \\{memory}$word + 1) {declared[2]}[\\{memory}$word ] = 0;\n"
            f"`endif\n"
        )
        verilog = verilog[: declared.end()] + loop + verilog[declared.end() :]
    return verilog


def _identifier(name: str) -> str:
    """`name` as Yosys writes it: escaped unless it is a plain Verilog identifier."""
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else f"\\{name} "
