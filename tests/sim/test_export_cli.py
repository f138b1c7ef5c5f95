"""`bankside verilog` and `bankside waves`."""

import json

import pytest
from click.testing import CliRunner

from bankside.sim.elaborate_cli import command as verilog
from bankside.sim.waves import vcd_signals
from bankside.sim.waves_cli import command as waves


@pytest.mark.parametrize(
    ("preset", "top", "port"),
    [
        ("pim_tiny_ddr4", "bankside_pim_top", ("start", "in", 1)),
        ("array_4x4", "bankside_array_top", ("m_axi_rdata", "in", 64)),
    ],
)
def test_verilog_of_a_preset(tmp_path, preset, top, port):
    done = CliRunner().invoke(verilog, ["--preset", preset, "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    text = (tmp_path / f"{top}.v").read_text()
    assert result["file"] == str(tmp_path / f"{top}.v")
    assert result["lines"] == text.count("\n")
    name, direction, bits = port
    assert result["ports"][name] == {"direction": direction, "bits": bits}
    assert f"module {result['top']}(" in text


@pytest.mark.parametrize("kind,start", [("rtlil", "attribute"), ("json", "{")])
def test_other_formats(kind, start, tmp_path):
    arguments = ["--preset", "pim_tiny_ddr4", "--format", kind, "--out", str(tmp_path), "--json"]
    done = CliRunner().invoke(verilog, arguments)
    with open(json.loads(done.stdout)["file"]) as file:
        assert file.read(len(start)) == start


def test_unknown_preset(tmp_path):
    done = CliRunner().invoke(verilog, ["--preset", "pim_tny_ddr4", "--out", str(tmp_path / "x")])
    assert done.exit_code == 2 and "pim_tiny_ddr4" in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["pim_tiny_ddr4", "array_4x4", "npu_u55_32"])
def test_waves_of_a_random_program(tmp_path, machine):
    arguments = ["--machine", machine, "--first", "20", "--last", "60", "--out", str(tmp_path)]
    arguments.append("--json")
    done = CliRunner().invoke(waves, arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    vcd = tmp_path / f"{machine}.vcd"
    times = [int(ln[1:]) for ln in vcd.read_text().splitlines() if ln.startswith("#")]
    assert result["vcd"] == str(vcd)
    assert times[-1] - times[0] == 10 * 40 + 5, "41 cycles, rising edge to falling edge"
    assert any(signal.name.startswith("cycle") for signal in vcd_signals(vcd))
    assert f'[dumpfile] "{machine}.vcd"' in (tmp_path / f"{machine}.gtkw").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "window,text",
    [(["--first", "9", "--last", "3"], "0 <= first <= last"),
     (["--first", "900000", "--last", "900001"], "before the window starts")],
)  # fmt: skip
def test_windows_outside_of_the_program(window, text, tmp_path):
    done = CliRunner().invoke(waves, [*window, "--out", str(tmp_path)])
    assert done.exit_code == 2 and text in done.stderr
    assert list(tmp_path.iterdir()) == []
