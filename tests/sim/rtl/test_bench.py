"""The benches of the machines bear any machine: no access out of bounds, no endless wait."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bankside.errors import ToolError
from bankside.sim.rtl.tools import find_cxx, run_tool

HEADERS = Path(__file__).parents[3] / "sim" / "rtl"
FUZZ = Path(__file__).parents[1] / "shims" / "bench_fuzz.cpp"
MACROS = {"BUS_BITS": 64, "BURSTS": 4, "REASONS": 3, "STATUS": 8, "CYCLES": 16, "COUNTERS": 64,
          "STATUS_FAULT": 4, "STATUS_DONE": 2, "TRACE_RUNNING": 0}  # fmt: skip


SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def outcome(folder: Path, headers: Path = HEADERS) -> subprocess.CompletedProcess[str]:
    """Of the fuzzer under sanitizers, skipped where g++ has none."""
    target = folder / "fuzz"
    macros = (f"-D{name}={value}" for name, value in MACROS.items())
    try:
        run_tool(
            [find_cxx(), "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", *SANITIZERS, *macros,
             f"-I{headers}", FUZZ, "-o", target],
            "compile the bench",
        )  # fmt: skip
    except ToolError as error:
        if "cannot find" not in str(error):
            raise
        pytest.skip("g++ has no sanitizers here")
    # Leaks need ptrace, which containers may forbid.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([target], capture_output=True, text=True, env=environment, timeout=300)


def test_faulty_machines(tmp_path):
    done = outcome(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    beats, waited, _ = map(int, done.stdout.split())
    assert beats > 100_000  # it served them, too
    assert waited > 4096  # and gave up where no answer came


@pytest.mark.parametrize(
    "guard,without",
    [
        (
            "now >= next && !addresses.empty() && !responses.full()",
            "now >= next && !responses.full()",
        ),
        ("return !bursts.full();", "return true;"),
        ("return address < size_ && count <= size_ - address;", "return address + count <= size_;"),
    ],
)
def test_benches_without_a_guard_are_found_out(tmp_path, guard, without):
    headers = tmp_path / "headers"
    shutil.copytree(HEADERS, headers, ignore=shutil.ignore_patterns("__pycache__"))
    bench = headers / "axi_bench.h"
    text = bench.read_text()
    assert guard in text
    bench.write_text(text.replace(guard, without))
    assert outcome(tmp_path, headers).returncode != 0
