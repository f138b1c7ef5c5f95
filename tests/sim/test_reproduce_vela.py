"""`bankside reproduce vela`: the estimates as published, our cycles in RTL, both profiles."""

import csv
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.isa.machines import load_machine
from bankside.mapping.lower_npu.compiled import compile_graph
from bankside.mapping.lower_npu.single import fully_connected
from bankside.sim import reproduce_vela
from bankside.sim.reproduce_vela import (
    PRODUCT,
    TOKEN_LAYERS,
    mac_bound,
    measure,
    random_inputs,
    reproduce,
    vela,
)
from bankside.sim.rtl.cocotb_runner import missing_simulator
from bankside.sim.rtl.npu import NpuRtl

TABLE = Path(os.environ.get("BANKSIDE_REF", Path(__file__).parents[3] / "shared" / "ref"))
TABLE = TABLE / "npu" / "vela_cycles.csv"
ROWS = [(layer, macs) for layer, row in vela().items() for macs in row]
needs_verilator = pytest.mark.skipif(
    bool(missing_simulator("verilator")), reason=missing_simulator("verilator") or "-"
)


#: Pieces of FC 1x768x768 that fit the weight buffer: 16 channels each.
OPERATIONS = 48


def group_of(machine: str) -> int:
    return load_machine(machine).group(False)


def decoder_cycles(machine: str, tiles: int) -> int:
    """Of one row and 8-bit codes: headers, the first tile, a wait at every second tile."""
    decode = group_of(machine) * 32 // 8
    return tiles * (decode + 1) + decode + 6 + (tiles - 1) // 2


@pytest.mark.skipif(not TABLE.exists(), reason=f"{TABLE} is not there; set BANKSIDE_REF")
def test_estimates_are_those_of_the_table() -> None:
    with TABLE.open() as file:
        rows = [row for row in csv.DictReader(file) if row["estimator"] == "regor"]
    assert len(rows) == len(ROWS) == 12
    for row in rows:
        assert vela()[row["layer"]][int(row["macs_per_cycle"])] == int(row["npu_cycles"])
        bound = mac_bound(row["layer"], int(row["macs_per_cycle"]))
        assert bound == (float(row["util_npu"]) >= reproduce_vela.MAC_BOUND)


def test_cells(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["reproduce", "vela", "--json", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert len(result["cells"]) == 12 and result["mac_bound_cells"] == 5
    assert result["mac_bound_worst"] < 0.15
    assert all(cell["assumption"] for cell in result["cells"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["vela.json", "vela.md"]
    assert (tmp_path / "vela.md").read_text().count("\n") == 2 + 12
    shown = CliRunner().invoke(main, ["reproduce", "vela"]).output
    assert "one row of activations: 86,185, 83,451, 83,449 cycles" in shown


def test_the_plateau_is_the_decoder() -> None:
    """Same cycles for 32, 128 and 256 MACs, but for what smaller tiles cost and save."""
    plateau = reproduce()["plateau"]
    cycles, decoding = plateau["cycles"], plateau["decoding"]
    assert cycles["npu_u55_128"] - cycles["npu_u55_256"] <= 8
    assert decoding["npu_u55_128"] == decoding["npu_u55_256"]
    for machine, found in decoding.items():
        tiles = 768 // group_of(machine) * 24
        assert found == OPERATIONS * decoder_cycles(machine, tiles // OPERATIONS)
    # Beside the decoder: headers of 8 bytes in the first piece, whose transfer nothing hides.
    rest = {machine: cycles[machine] - decoding[machine] for machine in cycles}
    headers = (192 - 96) * 24 // OPERATIONS
    assert rest["npu_u55_32"] - rest["npu_u55_256"] == headers
    assert all(abs(found / 76987 - 1) < 0.15 for found in cycles.values())
    # Without the decoder the layer takes its multiplications only.
    assert cycles["npu_u55_256"] > 30 * 768 * 768 / 256


def test_another_decoder_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        layer: {macs: 2 * cycles for macs, cycles in row.items()} for layer, row in vela().items()
    }
    monkeypatch.setattr(reproduce_vela, "vela", lambda: wrong)
    result = reproduce()
    assert result["mac_bound_cells"] == 0 and result["mac_bound_worst"] is None
    assert all(cell["ratio"] < 0.6 for cell in result["cells"])


# --- in RTL -------------------------------------------------------------------------------------


@needs_verilator
@pytest.mark.parametrize("layer", TOKEN_LAYERS)
def test_the_wide_port_needs_an_eighth_of_the_cycles_in_rtl(layer: str) -> None:
    narrow, wide = (measure(layer, f"npu_{name}_256", NpuRtl) for name in ("u55", "llm"))
    assert narrow.cycles >= 8 * wide.cycles
    for found in (narrow, wide):
        assert found == measure(layer, found.machine)


@needs_verilator
@pytest.mark.parametrize("name", ["npu_u55_32", "npu_u55_256"])
def test_what_a_tile_costs_in_rtl(name: str) -> None:
    """The number of tiles counts, not how they are divided into groups."""
    machine = load_machine(name)
    engine, group = NpuRtl(machine), group_of(name)
    for steps, groups in [
        (1, 1),
        (2, 1),
        (3, 1),
        (8, 1),
        (24, 1),
        (12, 2),
        (6, 4),
        (3, 8),
        (2, 12),
    ]:
        compiled = compile_graph(fully_connected(32 * steps, group * groups), machine)
        assert compiled.report.layers[0].operations == 1
        found = engine.run(compiled.bind(random_inputs(compiled.graph))).counters
        assert found["mac"] + found["weights"] == decoder_cycles(name, steps * groups)


@needs_verilator
@pytest.mark.parametrize("macs", [32, 128, 256])
def test_the_plateau_in_rtl(macs: int) -> None:
    found = measure(TOKEN_LAYERS[0], f"npu_u55_{macs}", NpuRtl)
    assert found == measure(TOKEN_LAYERS[0], found.machine)
    assert abs(found.cycles / vela()[TOKEN_LAYERS[0]][macs] - 1) < 0.15


@needs_verilator
def test_products_use_nine_tenths_of_the_multipliers_in_rtl() -> None:
    found = measure(PRODUCT, "npu_llm_256", NpuRtl)
    assert found.macs_bound == 256**3 // 256 and 0.9 <= found.utilisation < 1
    assert found == measure(PRODUCT, "npu_llm_256")


@needs_verilator
@pytest.mark.slow
@pytest.mark.parametrize(("layer", "macs"), ROWS)
def test_estimates_in_rtl(layer: str, macs: int) -> None:
    found = measure(layer, f"npu_u55_{macs}", NpuRtl)
    assert found == measure(layer, f"npu_u55_{macs}")
    if mac_bound(layer, macs) or layer in TOKEN_LAYERS:
        assert abs(found.cycles / vela()[layer][macs] - 1) < 0.15
