"""Verilog + C++ shim -> shared library with the compiled model, cached by content.

Speed comes from a few choices, measured on 128 bank units (8192 x 64 bit, 4 FP16 multipliers and
4 FP32 adders each, enabled one cycle in eight; g++ 12, one thread, other work on the machine):

| build of the 128 instances               | C++     | CPU time to build | kcycle/s |
|------------------------------------------|---------|-------------------|----------|
| everything inlined                       | 29 MB   | 135 s             | 62       |
| `no_inline`                              | 28 MB   | 44 s              | 89       |
| `hier_block`                             | 1.5 MB  | 16 s              | 34       |
| `no_inline`, `-fno-dfg-scoped`           | 13 MB   | 28 s              | 115      |
| + inputs of the unit kept (public)       | 0.9 MB  | 12 s              | 190      |
| + a latch-based clock gate per 16 units  | 0.9 MB  | 12 s              | 455      |

(The chips of the `pim` engine gate the clock of their banks, hw/pim/chip.py.)

Verilator merges the code of equal instances only if the text of their functions is equal. The
scoped data-flow pass gives each instance its own temporaries, and wire elimination replaces an
input port by the expression the parent drives it with; both are kept out of the shared modules.
"""

from __future__ import annotations

import ctypes
import functools
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bankside.cache import cache_entry, content_hash, file_hash
from bankside.errors import ToolError
from bankside.sim.rtl.tools import find_cxx, find_verilator, run_tool, tool_version

__all__ = ["build_library", "library_path", "shared_modules", "vlt_text"]

HEADER = Path(__file__).with_name("bankside_shim.h")
# `-O1` loses a quarter of the speed; `-O3` and `-march=native` gain nothing that can be measured.
CXXFLAGS = ("-O2",)
VERILATOR_FLAGS = ("-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-timing",
                   "--no-assert", "-fno-dfg-scoped", "-DBANKSIDE_ZEROED")  # fmt: skip
# Code that runs once, at construction: clearing large memories has to become `memset`, the rest is
# not worth optimising. Not -O0, whose copies of inline functions the linker may choose for all.
_COLD = ("-O1", "-ftree-loop-distribute-patterns")
RUNTIME = ("verilated.cpp", "verilated_threads.cpp")
TRACE_RUNTIME = ("verilated_vcd_c.cpp",)
_STANDARD = ("-std=c++17", "-fPIC", "-pthread", "-w")

_MODULE = re.compile(r"^module (\\\S+ |\w+)\s*\(.*?^endmodule", re.MULTILINE | re.DOTALL)
_INPUT = re.compile(r"^  input (?:\[\d+:\d+\] )?(\w+);$", re.MULTILINE)
_CELL = re.compile(r"^  (\w+) (?:\\\S+ |\w+) \($", re.MULTILINE)


def build_library(
    verilog: Path,
    top: str,
    shim: Path,
    *,
    shared: Sequence[str] | None = None,
    memories: Iterable[str] = (),
    cxxflags: Sequence[str] = (),
    verilator_flags: Sequence[str] = (),
    vlt: str | None = None,
    jobs: int = 2,
    trace: bool = False,
) -> ctypes.CDLL:
    """Compile `verilog` and `shim` (which includes "V<top>.h" and "bankside_shim.h") and load both.

    Parameters
    ----------
    shared : modules whose instances share one compiled body; by default those with at least four
        instances that are large enough to gain from it (`shared_modules`).
    memories : "module.memory" names that the shim reaches through `bankside::Memory`.
    cxxflags, verilator_flags : added to `CXXFLAGS` and `VERILATOR_FLAGS`.
    vlt : further Verilator configuration lines.
    trace : build in VCD writing, for `Model::start_trace`; costs speed even when it is off.

    Raises
    ------
    ToolError: a tool is missing or failed, with the end of its log.
    """
    path = library_path(
        verilog, top, shim, shared=shared, memories=memories, cxxflags=cxxflags,
        verilator_flags=verilator_flags, vlt=vlt, jobs=jobs, trace=trace,
    )  # fmt: skip
    return ctypes.CDLL(str(path))


def library_path(
    verilog: Path,
    top: str,
    shim: Path,
    *,
    shared: Sequence[str] | None = None,
    memories: Iterable[str] = (),
    cxxflags: Sequence[str] = (),
    verilator_flags: Sequence[str] = (),
    vlt: str | None = None,
    jobs: int = 2,
    trace: bool = False,
) -> Path:
    """As `build_library`, but return the file of the library without loading it."""
    text = verilog.read_text()
    shared = shared_modules(text, top) if shared is None else shared
    config = vlt_text(text, shared, memories) + (vlt or "")
    flags = [*VERILATOR_FLAGS, *verilator_flags, *(["--trace-vcd"] if trace else [])]
    cxxflags = (*CXXFLAGS, *cxxflags)
    defines = ["-DVL_TIME_CONTEXT", f"-DVM_TRACE={int(trace)}"]
    shim_flags = (*cxxflags, f"-DBANKSIDE_RISING_ONLY={int(rising_edges_only(text))}",
                  "-include", f"V{top}___024root.h")  # fmt: skip
    key = {
        "verilog": content_hash({"text": text}),
        "top": top,
        "shim": file_hash(shim),
        "header": file_hash(HEADER),
        "config": config,
        "flags": [*flags, "|", *shim_flags, *_COLD, *_STANDARD, *defines],
        "tools": [find_verilator().version, tool_version(find_cxx())],
        **further_headers(shim),
    }
    runtime = runtime_objects([*RUNTIME, *(TRACE_RUNTIME if trace else ())], defines)
    with cache_entry("verilator", key) as entry:
        if not entry.hit:
            start = time.monotonic()
            say(f"compiling {top} for simulation ...")
            verilate(verilog, top, config, flags, entry.path, f"V{top}")
            units = [*translation_units(entry.path, cxxflags, jobs), (shim, shim_flags)]
            objects = compile_units(units, entry.path, defines, jobs)
            library = entry.path / f"{top}.so"
            command: list[object] = [find_cxx(), "-shared", "-pthread", "-o", library]
            run_tool([*command, *objects, *runtime], f"link the model of {top}")
            _remove_intermediate(entry.path, keep=f"{top}.so")
            say(f"compiled {top} in {time.monotonic() - start:.0f} s")
    return entry.path / f"{top}.so"


def further_headers(shim: Path) -> dict[str, str]:
    """Hashes of the headers of this folder that `shim` or `HEADER` includes, in turn, by name."""
    found: dict[str, str] = {}
    left = [shim, HEADER]
    while left:
        names = re.findall(r'^#include "(\w+\.h)"', left.pop().read_text(), re.MULTILINE)
        for path in (HEADER.with_name(name) for name in names if name not in found):
            if path.exists():
                found[path.name] = file_hash(path)
                left.append(path)
    return found


def shared_modules(verilog: str, top: str, instances: int = 4, lines: int = 60) -> list[str]:
    """Modules below `top` that pay to compile once: many instances and a large body with registers.

    `verilog` is text as `to_verilog` writes it. A small or purely combinational module is better
    inlined, where the compiler sees through it; so is one with a single place in a body that is
    shared already.
    """
    bodies = {match[1].strip(): match[0] for match in _MODULE.finditer(verilog)}
    if top not in bodies:  # Verilog of another hand; its modules can be named explicitly
        return []
    cells = {name: Counter(c for c in _CELL.findall(text) if c in bodies)
             for name, text in bodies.items()}  # fmt: skip
    counts: Counter[str] = Counter()

    def count(name: str, times: int) -> None:
        counts[name] += times
        for child, number in cells[name].items():
            count(child, times * number)

    @functools.cache
    def inside(name: str) -> str:
        return bodies[name] + "".join(inside(child) for child in cells[name])

    count(top, 1)
    repeated = {child for found in cells.values() for child, number in found.items() if number > 1}
    return [
        name
        for name in bodies
        if name in repeated
        and counts[name] >= instances
        and inside(name).count("\n") >= lines
        and "@(posedge" in inside(name)
    ]


def rising_edges_only(verilog: str) -> bool:
    """Tell whether `clk` does nothing in `verilog` but trigger registers at its rising edge."""
    uses = r"@\(posedge clk\)|\.clk\(clk\)|^  (?:input|wire) clk;$|^module [^;]*;$"
    rest = re.sub(uses, "", verilog, flags=re.MULTILINE)
    return not re.search(r"(?<![\w$.])clk(?![\w$])", rest)


def vlt_text(verilog: str, shared: Iterable[str], memories: Iterable[str] = ()) -> str:
    """Verilator configuration that shares the body of `shared` and exposes `memories`."""
    bodies = {match[1].strip(): match[0] for match in _MODULE.finditer(verilog)}
    lines = ["`verilator_config"]
    for module in shared:
        if module not in bodies:
            raise ToolError(f"no module {module!r} to share; there are: {', '.join(bodies)}")
        lines.append(f'no_inline -module "{module}"')
        inputs = [port for port in _INPUT.findall(bodies[module]) if port != "clk"]
        lines += [f'public_flat_rd -module "{module}" -var "{port}"' for port in inputs]
    for name in memories:
        module, _, memory = name.partition(".")
        declaration = rf"^  reg .*\b{re.escape(memory)} \[\d+:0\];"
        if not re.search(declaration, bodies.get(module, ""), re.MULTILINE):
            raise ToolError(
                f"no memory {name!r} in the Verilog; expected 'module.memory' with the names "
                f"given to the Unit and to m.submodules"
            )
        lines.append(f'public_flat_rw -module "{module}" -var "{memory}"')
    return "\n".join(lines) + "\n"


def verilate(
    verilog: Path, top: str, config: str, flags: Sequence[str], folder: Path, prefix: str
) -> None:
    """Write the C++ of `verilog` with class `prefix` into `folder`."""
    control = folder / "control.vlt"
    control.write_text(config)
    command = [
        find_verilator().binary, "--cc", "--top-module", top, "--prefix", prefix,
        "-Mdir", folder, "-Wno-fatal", "-Wno-lint", "-Wno-style", *flags, control, verilog,
    ]  # fmt: skip
    run_tool(command, f"convert {verilog.name} to C++ with Verilator")


def translation_units(
    folder: Path, cxxflags: Sequence[str], jobs: int
) -> list[tuple[Path, tuple[str, ...]]]:
    """Join the generated sources into few units; the headers cost a second in each."""
    sources = sorted(folder.glob("*.cpp"), key=lambda path: -path.stat().st_size)
    slow = [s for s in sources if "Slow" in s.name or "Syms" in s.name or "Trace" in s.name]
    fast = [s for s in sources if s not in slow]
    units = []
    for kind, members, flags in (("fast", fast, tuple(cxxflags)), ("slow", slow, _COLD)):
        total = sum(s.stat().st_size for s in members)
        groups = min(len(members), max(1, min(4 * jobs, total // 400_000)))
        for index in range(groups):
            unit = folder / f"unit_{kind}_{index}.cc"
            unit.write_text("".join(f'#include "{s.name}"\n' for s in members[index::groups]))
            units.append((unit, flags))
    return units


def compile_units(
    units: Sequence[tuple[Path, tuple[str, ...]]],
    folder: Path,
    defines: Sequence[str],
    jobs: int,
) -> list[Path]:
    """Compile (source, flags) pairs into objects in `folder`, `jobs` at a time."""
    include = find_verilator().include
    paths = [f"-I{p}" for p in (folder, include, include / "vltstd", HEADER.parent)]

    def one(item: tuple[Path, tuple[str, ...]]) -> Path:
        source, flags = item
        target = folder / f"{source.stem}.o"
        command = [find_cxx(), *_STANDARD, *defines, *flags, *paths, "-c", source, "-o", target]
        run_tool(command, f"compile {source.name}")
        return target

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, units))


def runtime_objects(sources: Sequence[str], defines: Sequence[str]) -> list[Path]:
    """Objects of Verilator's own runtime `sources`, compiled once for all models."""
    verilator = find_verilator()
    key = {
        "sources": list(sources),
        "flags": [*_STANDARD, *defines],
        "tools": [verilator.version, tool_version(find_cxx())],
    }
    with cache_entry("verilator-runtime", key) as entry:
        if not entry.hit:
            say("compiling the runtime of Verilator ...")
            units = [(verilator.include / source, ("-O2",)) for source in sources]
            compile_units(units, entry.path, defines, 2)
    return [entry.path / f"{Path(source).stem}.o" for source in sources]


def _remove_intermediate(folder: Path, keep: str) -> None:
    for path in folder.iterdir():
        if path.name not in (keep, "control.vlt"):
            path.unlink()


def say(text: str) -> None:
    """Report the progress of something that takes seconds, outside of standard output."""
    print(f"bankside: {text}", file=sys.stderr, flush=True)
