"""Build an exported component for a simulator and run a cocotb bench on it.

The model is built here, not by cocotb's own make flow, which compiles Verilator's runtime anew for
every bench; running is left to `cocotb_tools.runner`.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from bankside.cache import build_root, cache_entry, content_hash
from bankside.errors import ConfigError, ToolError
from bankside.sim.elaborate import START_REGISTER, to_verilog
from bankside.sim.rtl.tools import find_cxx, find_iverilog, find_verilator, run_tool, tool_version
from bankside.sim.rtl.verilate import (
    RUNTIME,
    TRACE_RUNTIME,
    compile_units,
    runtime_objects,
    say,
    translation_units,
    verilate,
)

if TYPE_CHECKING:
    from amaranth.lib.wiring import Component

__all__ = ["SIMULATORS", "Bench", "BenchFailure", "BenchResult", "missing_simulator", "run_bench"]

SIMULATORS = ("verilator", "icarus")
TIMESCALE = ("1ns", "1ps")


@dataclass(frozen=True)
class Bench:
    """How `bankside sim` runs a unit; bench files list theirs in `UNITS: dict[str, Bench]`.

    `component()` makes the unit, `module` is the file with the tests (its stem; by default the file
    with the entry), `env` goes to the tests, `internals` as for `run_bench`.
    """

    component: Callable[[], Component]
    module: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    internals: bool = False


class BenchFailure(AssertionError):
    """At least one test of a bench failed."""


@dataclass(frozen=True)
class BenchResult:
    """Outcome of a bench: counts, names of the failed tests, and how to repeat it."""

    name: str
    simulator: str
    tests: int
    failures: int
    failed: tuple[str, ...]
    messages: tuple[str, ...]
    seed: int
    log: str
    waves: Path | None = None

    def summary(self) -> str:
        """Text for people: what failed, the end of the log, the seed."""
        if not self.failures:
            return f"{self.name} on {self.simulator}: {self.tests} tests passed, seed {self.seed}"
        lines = [f"{self.name} on {self.simulator}: {self.failures} of {self.tests} tests failed"]
        lines += [f"  {n}: {m}" for n, m in zip(self.failed, self.messages, strict=True)]
        tail = self.log.strip().splitlines()[-30:]
        return "\n".join([*lines, f"repeat with seed {self.seed}", "end of the log:", *tail])


def missing_simulator(simulator: str) -> str:
    """Why `simulator` cannot run here, or an empty text (for `pytest.mark.skipif`)."""
    try:
        find_iverilog() if simulator == "icarus" else find_verilator()
    except ToolError as error:
        return str(error)
    return ""


def run_bench(
    component: Component,
    name: str,
    test_module: str | Path,
    *,
    simulator: str = "verilator",
    build_args: Sequence[str] = (),
    waves: bool = False,
    seed: int | None = None,
    extra_env: Mapping[str, str] | None = None,
    test_filter: str | None = None,
    internals: bool = True,
    check: bool = True,
) -> BenchResult:
    """Export `component` as top `name` and run the cocotb tests of `test_module` on it.

    Parameters
    ----------
    test_module : module name, or file (its folder is then importable inside the bench).
    build_args : further arguments of the simulator's compiler.
    waves : record everything; the file is `result.waves` (VCD from Verilator, FST from Icarus).
    seed : of the bench's random numbers; a fresh one by default, told in the result.
    test_filter : regular expression; only tests whose name matches are run.
    internals : let the bench reach signals below the top (Verilator; costs build time and speed).
    check : raise `BenchFailure` if a test fails. A known-bad twin passes False and looks itself.

    Raises
    ------
    ToolError: the simulator is missing or broke down, or the module has no tests.
    """
    if simulator not in SIMULATORS:
        raise ConfigError(f"no simulator {simulator!r}; choose one of {', '.join(SIMULATORS)}")
    verilog = to_verilog(component, name)
    build = _build_verilator if simulator == "verilator" else _build_icarus
    model = build(verilog, name, tuple(build_args), waves, internals)
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    runs = build_root() / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-{simulator}-", dir=runs))
    result = _run(
        name, test_module, simulator, model, folder, waves, seed, extra_env or {}, test_filter
    )
    if not waves and not (check and result.failures):
        shutil.rmtree(folder, ignore_errors=True)
    if check and result.failures:
        raise BenchFailure(result.summary())
    return result


def _run(
    name: str,
    test_module: str | Path,
    simulator: str,
    model: Path,
    folder: Path,
    waves: bool,
    seed: int,
    extra_env: Mapping[str, str],
    test_filter: str | None,
) -> BenchResult:
    from cocotb_tools.runner import get_runner

    module, search = str(test_module), []
    if isinstance(test_module, Path):
        module, search = test_module.stem, [str(test_module.resolve().parent)]
    log_file, results = folder / "log.txt", folder / "results.xml"
    wave_file = folder / ("dump.vcd" if simulator == "verilator" else f"{name}.fst")
    runner = get_runner(simulator)
    plusargs = [f"+dumpfile_path={wave_file}"] if simulator == "icarus" and waves else []
    with _environment(search):
        try:
            runner.test(
                test_module=module, hdl_toplevel=name, hdl_toplevel_lang="verilog",
                build_dir=model, test_dir=folder, results_xml=str(results), log_file=log_file,
                seed=seed, waves=waves, extra_env=dict(extra_env), test_filter=test_filter,
                plusargs=plusargs,
            )  # fmt: skip
        except SystemExit:
            pass  # the runner's way to report failed tests; the results tell which
    log = log_file.read_text(errors="replace") if log_file.exists() else ""
    cases = _cases(results, module, log)
    failed = [(n, message) for n, message in cases if message is not None]
    return BenchResult(
        name, simulator, len(cases), len(failed), tuple(n for n, _ in failed),
        tuple(m for _, m in failed), seed, log, wave_file if waves else None,
    )  # fmt: skip


def _cases(results: Path, module: str, log: str) -> list[tuple[str, str | None]]:
    """(test, None or failure message) of each test that ran."""
    if not results.exists():
        tail = "\n  ".join(log.strip().splitlines()[-25:])
        raise ToolError(f"the simulation of {module!r} broke down without results:\n  {tail}")
    cases = []
    for case in ElementTree.parse(results).getroot().iter("testcase"):
        if case.find("skipped") is not None:
            continue
        bad = next((e for e in case if e.tag in ("failure", "error")), None)
        message = None
        if bad is not None:
            message = bad.get("error_msg") or bad.get("message") or (bad.text or "").strip()
        cases.append((case.get("name", "?"), message))
    if not cases:
        raise ToolError(f"{module!r} ran no test; expected functions marked @cocotb.test()")
    return cases


@contextmanager
def _environment(search: Sequence[str]) -> Iterator[None]:
    """What the runner takes from this process: module search path; tests of its own are hidden."""
    path, current = list(sys.path), os.environ.pop("PYTEST_CURRENT_TEST", None)
    sys.path[:0] = search
    try:
        yield
    finally:
        sys.path[:] = path
        if current is not None:
            os.environ["PYTEST_CURRENT_TEST"] = current


def _build_verilator(
    verilog: Path, top: str, build_args: tuple[str, ...], waves: bool, internals: bool
) -> Path:
    """Folder with the executable `top`, in which cocotb drives the model through VPI."""
    from cocotb_tools import config

    main = Path(config.share_dir) / "lib" / "verilator" / "verilator.cpp"
    flags = ["--vpi", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-timing",
             "--timescale", "/".join(TIMESCALE), "-DBANKSIDE_ZEROED", *build_args]  # fmt: skip
    flags += ["--public-flat-rw"] if internals else []
    flags += ["--trace-vcd"] if waves else []
    control = f'`verilator_config\npublic_flat_rw -module "{top}" -port "*"\n'
    defines = [f"-DVM_TRACE={int(waves)}", f"-DVM_TRACE_VCD={int(waves)}", "-DVM_COVERAGE=0",
               "-DVM_SC=0"]  # fmt: skip
    key = {
        "verilog": content_hash({"text": verilog.read_text()}),
        "top": top,
        "flags": [*flags, *defines, control],
        "libraries": str(config.libs_dir),
        "tools": [find_verilator().version, tool_version(find_cxx()), version("cocotb")],
    }
    # No VL_TIME_CONTEXT: cocotb's main function keeps the time itself, in sc_time_stamp.
    sources = [*RUNTIME, "verilated_vpi.cpp", *(TRACE_RUNTIME if waves else ())]
    runtime = runtime_objects(sources, defines)
    with cache_entry("bench-verilator", key) as entry:
        if not entry.hit:
            say(f"compiling {top} for its bench ...")
            verilate(verilog, top, control, flags, entry.path, "Vtop")
            units = [*translation_units(entry.path, ("-O1",), 2), (main, ("-O1",))]
            objects = compile_units(units, entry.path, defines, 2)
            libraries = config.libs_dir
            link = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-lcocotbvpi_verilator"]
            command = [find_cxx(), "-pthread", "-rdynamic", "-o", entry.path / top]
            run_tool([*command, *objects, *runtime, *link], f"link the bench of {top}")
            for path in entry.path.iterdir():
                if path.name != top:
                    path.unlink()
    return entry.path


def _build_icarus(
    verilog: Path, top: str, build_args: tuple[str, ...], waves: bool, internals: bool
) -> Path:
    """Folder with the compiled `sim.vvp`; Icarus always lets a bench reach every signal."""
    text = _awake(verilog.read_text())
    key = {
        "verilog": content_hash({"text": text}),
        "top": top,
        "args": [*build_args, "waves" if waves else ""],
        "tools": [tool_version(find_iverilog())],
    }
    with cache_entry("bench-icarus", key) as entry:
        if not entry.hit:
            source = entry.path / verilog.name
            source.write_text(text)
            files = [source]
            extra: list[str | Path] = []
            if waves:
                dump = entry.path / "dump.v"
                dump.write_text(_DUMP.format(top=top))
                files, extra = [source, dump], ["-s", "bankside_dump"]
            scale = entry.path / "timescale.f"
            scale.write_text("+timescale+{}/{}\n".format(*TIMESCALE))
            command = [find_iverilog(), "-g2012", "-o", entry.path / "sim.vvp", "-s", top]
            command += [*extra, "-f", scale, *build_args, *files]
            run_tool(command, f"compile {verilog.name} with Icarus Verilog")
    return entry.path


# Yosys puts a register that never changes into every process, so that its first value starts them.
_TRIGGER = re.compile(rf"^( +reg ({START_REGISTER}\d+) +)= 0;$", re.MULTILINE)
# A process of one assignment has no such trigger: it gets a twin that runs once.
_SINGLE = re.compile(r"^( +)always @\*\n( +\S[^\n]* = [^\n]*;)$", re.MULTILINE)


def _awake(verilog: str) -> str:
    """Verilog whose combinational processes run at time 0.

    Icarus sets initial values before processes wait for changes: without one more event, what
    depends on constants and initial values alone stays X until an input changes.
    """
    verilog = _TRIGGER.sub(r"\1= 0;\n  initial \2 <= 1;", verilog)
    return _SINGLE.sub(r"\1initial\n\2\n\1always @*\n\2", verilog)


_DUMP = """\
module bankside_dump();
  string path;
  initial if ($value$plusargs("dumpfile_path=%s", path)) begin
    $dumpfile(path);
    $dumpvars(0, {top});
  end
endmodule
"""
