# amaranth: UnusedElaboratable=no
"""Library units as exported Verilog under cocotb; each bench notices its bad twins."""

import json
import sys
from pathlib import Path

import pytest
from amaranth.hdl import Mux, Signal
from click.testing import CliRunner

from bankside.errors import ConfigError, ToolError
from bankside.hw.lib.delay import DelayLine
from bankside.hw.lib.queue import Queue
from bankside.sim.rtl import sim_cli
from bankside.sim.rtl.cocotb_runner import (
    SIMULATORS,
    BenchFailure,
    BenchResult,
    missing_simulator,
    run_bench,
)

BENCHES = Path(__file__).parent / "benches"
sys.path.insert(0, str(BENCHES))

from twins import Twin, late, sometimes  # noqa: E402

SEED = 5
# A twin needs no g++ where Icarus is installed, which saves seconds each.
TWIN_SIMULATOR = "verilator" if missing_simulator("icarus") else "icarus"
simulators = pytest.mark.parametrize("simulator", SIMULATORS)


def withdrawn(m, value, unit):
    """A `valid` that goes away while it waits."""
    count = Signal(2)
    m.d.sync += count.eq(count + 1)
    return Mux(unit.o.ready, value, value & count[1])


def drifting(m, value, unit):
    """A payload that changes while it waits."""
    count = Signal(8)
    m.d.sync += count.eq(count + 1)
    return Mux(unit.o.ready, value, value ^ count)


def bench(component, name: str, file: str, simulator: str, env: dict[str, str]) -> BenchResult:
    if reason := missing_simulator(simulator):
        pytest.skip(reason)
    return run_bench(
        component, name, BENCHES / file, simulator=simulator, seed=SEED, extra_env=env, check=False
    )


def queue(component, simulator: str) -> BenchResult:
    return bench(component, "bankside_queue", "lib_queue.py", simulator, {"QUEUE_DEPTH": "4"})


@simulators
def test_queue(simulator):
    result = queue(Queue(8, 4), simulator)
    assert result.tests == 2 and not result.failures, result.summary()


@pytest.mark.parametrize(
    "port,change,failed,text",
    [
        ("o__valid", withdrawn, "order_under_stalls", "valid withdrawn before ready"),
        ("o__payload", drifting, "order_under_stalls", "payload changed from"),
        ("o__payload", late, "exact_in_every_cycle", "cycle "),
        ("i__ready", sometimes, "exact_in_every_cycle", "expected"),
        ("level", late, "exact_in_every_cycle", "expected"),
    ],
)
def test_queue_bench_notices(port, change, failed, text):
    result = queue(Twin(Queue(8, 4), port, change), TWIN_SIMULATOR)
    assert failed in result.failed, result.summary()
    assert text in result.messages[result.failed.index(failed)]


def test_queue_of_another_depth_is_noticed():
    assert queue(Queue(8, 5), TWIN_SIMULATOR).failed == ("exact_in_every_cycle",)


@simulators
@pytest.mark.parametrize("depth", [0, 1, 7])
def test_delay_line(simulator, depth):
    env = {"DELAY": str(depth)}
    result = bench(DelayLine(16, depth), "bankside_delay", "lib_delay.py", simulator, env)
    assert result.tests == 1 and not result.failures, result.summary()


@pytest.mark.parametrize("change", [late, sometimes])
@pytest.mark.parametrize("port", ["o_valid", "o_payload", "busy"])
def test_delay_bench_notices(port, change):
    twin = Twin(DelayLine(16, 3), port, change)
    result = bench(twin, "bankside_delay", "lib_delay.py", TWIN_SIMULATOR, {"DELAY": "3"})
    assert result.failed == ("exact",)


def test_a_failing_bench_raises_with_its_seed():
    with pytest.raises(BenchFailure, match=r"(?s)1 of 2 tests failed.*repeat with seed 5"):
        run_bench(
            Queue(8, 5), "bankside_queue", BENCHES / "lib_queue.py", seed=SEED,
            extra_env={"QUEUE_DEPTH": "4"},
        )  # fmt: skip


@simulators
def test_waves(simulator):
    if reason := missing_simulator(simulator):
        pytest.skip(reason)
    result = run_bench(
        DelayLine(16, 1), "bankside_delay", BENCHES / "lib_delay.py", simulator=simulator,
        seed=SEED, waves=True, extra_env={"DELAY": "1"},
    )  # fmt: skip
    assert result.waves and result.waves.stat().st_size > 500


def test_same_seed_same_traffic():
    logs = []
    for seed in (1, 1, 2):
        result = run_bench(
            Queue(8, 5), "bankside_queue", BENCHES / "lib_queue.py", seed=seed, check=False,
            extra_env={"QUEUE_DEPTH": "4"},
        )  # fmt: skip
        logs.append(result.messages)
    assert logs[0] == logs[1] != logs[2]


def test_a_bench_without_tests_is_no_success(tmp_path):
    (tmp_path / "no_tests_here.py").write_text("import cocotb\n")
    with pytest.raises(ToolError, match="no_tests_here"):
        run_bench(DelayLine(16, 1), "bankside_delay", tmp_path / "no_tests_here.py")


def test_a_bench_that_cannot_be_imported_is_no_success(tmp_path):
    (tmp_path / "broken_bench.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(ToolError, match="(?s)broken_bench.*nowhere_to_be_found"):
        run_bench(DelayLine(16, 1), "bankside_delay", tmp_path / "broken_bench.py")


def test_unknown_simulator():
    with pytest.raises(ConfigError, match="no simulator 'questa'; choose one of verilator, icarus"):
        run_bench(DelayLine(16, 1), "bankside_delay", "x", simulator="questa")


def test_missing_simulator_says_why(monkeypatch):
    assert missing_simulator("verilator") == ""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "apt install iverilog" in missing_simulator("icarus")


BENCH_TEXT = """\
import cocotb
from bankside.hw.lib.delay import DelayLine
from bankside.sim.rtl.cocotb_runner import Bench
UNITS = {{"{}": Bench(lambda: DelayLine(16, 1))}}
"""


def sim(*arguments: str):
    return CliRunner().invoke(sim_cli.command, arguments)


def test_every_bench_table_has_its_file():
    found = sim_cli.discover()
    assert {"queue", "delay1"} <= set(found)
    for name, (_, path) in found.items():
        assert path.is_file(), f"{name}: no file {path}"


def test_command(tmp_path):
    done = sim("--unit", "delay1", "--seed", "3", "--waves", "--json", "--out", str(tmp_path))
    result = json.loads(done.stdout)
    assert (done.exit_code, result["tests"], result["failures"]) == (0, 1, 0)
    assert {p.suffix for p in tmp_path.iterdir()} == {".vcd", ".gtkw", ".json"}


def test_command_lists_units():
    assert "queue" in json.loads(sim("--json").stdout)["units"]


def test_command_refuses_unknown_units():
    done = sim("--unit", "quueue")
    assert done.exit_code == 2
    assert "no bench for unit 'quueue' (did you mean 'queue'?)" in done.stderr


def test_command_fails_with_its_bench(tmp_path, monkeypatch):
    (tmp_path / "bad.py").write_text(
        BENCH_TEXT.format("bad")
        + "@cocotb.test()\nasync def never(dut):\n    assert dut.clk.value == 7\n"
    )
    monkeypatch.setattr(sim_cli, "discover", lambda: discovered(tmp_path))
    done = sim("--unit", "bad")
    assert done.exit_code == 1 and "1 of 1 tests failed" in done.stdout


discovered = sim_cli.discover


def test_one_name_in_two_files_is_refused(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(BENCH_TEXT.format("same"))
    with pytest.raises(ConfigError, match="'same' is in one.py and in two.py"):
        sim_cli.discover(tmp_path)


def test_no_checkout(tmp_path):
    with pytest.raises(ToolError, match="part of the source checkout"):
        sim_cli.discover(tmp_path / "nothing")


def test_loading_benches_leaves_the_path_alone():
    before = list(sys.path)
    sim_cli.discover()
    assert sys.path == before
