"""`bankside reproduce vela`: the estimates as published, our cycles in RTL, both profiles."""

import csv
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.sim import reproduce_vela
from bankside.sim.reproduce_vela import PRODUCT, TOKEN_LAYERS, mac_bound, measure, reproduce, vela
from bankside.sim.rtl.cocotb_runner import missing_simulator
from bankside.sim.rtl.npu import NpuRtl

TABLE = Path(os.environ.get("BANKSIDE_REF", Path(__file__).parents[3] / "shared" / "ref"))
TABLE = TABLE / "npu" / "vela_cycles.csv"
ROWS = [(layer, macs) for layer, row in vela().items() for macs in row]
needs_verilator = pytest.mark.skipif(
    bool(missing_simulator("verilator")), reason=missing_simulator("verilator") or "-"
)


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
    """Same cycles for 32, 128 and 256 MACs, but for the headers of smaller tiles."""
    plateau = reproduce()["plateau"]
    cycles, decoding = plateau["cycles"], plateau["decoding"]
    assert cycles["npu_u55_128"] - cycles["npu_u55_256"] <= 8
    assert decoding["npu_u55_128"] == decoding["npu_u55_256"]
    # Of 8 bytes: 192 groups of 4 channels and 24 tiles, or half as many; one wait for each group.
    more = decoding["npu_u55_32"] - decoding["npu_u55_256"]
    assert more == (192 - 96) * 24 + (192 - 96) * 4
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
