"""What is compiled when: a design once, whatever drives it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.hdl import ClockDomain, ClockSignal, ResetSignal, Signal

from bankside.errors import ToolError
from bankside.sim.elaborate import to_json
from bankside.sim.lanes import build
from bankside.sim.lanes.build import build_lanes, design_of

sys.path.insert(0, str(Path(__file__).parent))

from random_design import RandomDesign  # noqa: E402
from random_units import RandomUnits  # noqa: E402


@pytest.fixture
def compiled(monkeypatch, tmp_path) -> list[str]:
    """Steps of the builds of a test, which begin with an empty cache."""
    steps: list[str] = []
    run = build.run_tool

    def noted(command, what: str) -> str:
        steps.append(what)
        return run(command, what)

    monkeypatch.setattr(build, "run_tool", noted)
    monkeypatch.setenv("BANKSIDE_BUILD", str(tmp_path / "build"))
    return steps


def bench(folder: Path, value: int) -> Path:
    path = folder / "bench.cpp"
    path.write_text(
        '#include "lanes.h"\n#include "runtime.h"\n'
        f'extern "C" uint64_t answer() {{ return {value} + (bankside_q_bytes > 0); }}\n'
    )
    return path


def test_a_design_is_compiled_once(compiled, tmp_path) -> None:
    netlist = to_json(RandomDesign(0), "bankside_random")
    places = design_of(netlist)[0]
    assert compiled == ["compile design.c"]
    build_lanes(netlist)
    library, design = build_lanes(netlist, bench=[bench(tmp_path, 41)])
    assert library.answer() == 42 and design == places
    library, _ = build_lanes(netlist, bench=[bench(tmp_path, 6)])
    assert library.answer() == 7
    ends = ["compile runtime.c", "link the lanes"]
    benches = ["compile runtime.c", "compile bench.cpp", "link the lanes"]
    assert compiled == ["compile design.c", *ends, *benches, *benches]


def test_what_is_there_is_not_compiled_again(compiled, tmp_path) -> None:
    netlist = to_json(RandomDesign(0), "bankside_random")
    first = build_lanes(netlist, bench=[bench(tmp_path, 1)])
    del compiled[:]
    assert build_lanes(netlist, bench=[bench(tmp_path, 1)])[1] == first[1]
    assert not compiled
    assert any(place.kind == "net" for place in build_lanes(netlist, nets=True)[1].places)
    assert compiled[0] == "compile design.c"


def test_the_code_of_a_design_is_always_the_same() -> None:
    """Whatever order Python has its sets in."""
    netlist = to_json(RandomUnits(0), "bankside_units")
    script = (
        "import sys; from pathlib import Path; from bankside.sim.lanes.emit import emit\n"
        "from bankside.sim.lanes.flatten import load\n"
        "sys.stdout.write(emit(load(Path(sys.argv[1])), nets=True).text)"
    )
    texts = [
        subprocess.run(
            [sys.executable, "-c", script, str(netlist)], check=True, text=True,
            capture_output=True, env={**os.environ, "PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in (1, 2, 3)
    ]  # fmt: skip
    assert len(texts[0]) > 10_000 and texts[0] == texts[1] == texts[2]


class GateWithLogic(RandomUnits):
    """Its clock runs where a register of the falling edge is zero."""

    @staticmethod
    def _gate(m, active, platform) -> None:
        m.domains.bank = ClockDomain("bank", local=True)
        m.domains.falling = ClockDomain("falling", clk_edge="neg", reset_less=True, local=True)
        stopped = Signal()
        m.d.falling += stopped.eq(~(active | ResetSignal("sync")))
        m.d.comb += [
            ClockSignal("falling").eq(ClockSignal("sync")),
            ClockSignal("bank").eq(ClockSignal("sync") & ~stopped),
            ResetSignal("bank").eq(ResetSignal("sync")),
        ]


def test_a_gate_with_logic_is_refused() -> None:
    """Its register is there half a cycle before the lanes would look at it."""
    with pytest.raises(ToolError, match="clock gate has logic behind .*falling edge; expected"):
        design_of(to_json(GateWithLogic(0), "bankside_units"))
