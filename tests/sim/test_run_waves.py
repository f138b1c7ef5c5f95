"""Save files for GTKWave: every signal that they show must be in the VCD."""

from pathlib import Path

import pytest

from bankside.config import HardwareConfig
from bankside.errors import ConfigError
from bankside.isa.machine import Machine
from bankside.sim.run_waves import groups, save_file
from bankside.sim.waves import gtkw_name, vcd_signals

MACHINE = Machine.of(HardwareConfig.load("pim_tiny_ddr4"))


def vcd(path: Path, names: list[str]) -> Path:
    """A VCD that declares the given paths below the top module, eight bits each, and no values."""
    above = ("TOP", "bankside_pim_top", "core")
    lines = ["$timescale 1ps $end", *(f"$scope module {name} $end" for name in above)]
    for code, name in enumerate(names):
        *scopes, leaf = name.split(".")
        lines += [f"$scope module {scope} $end" for scope in scopes]
        lines.append(f" $var wire 8 v{code} {leaf} [7:0] $end")
        lines += ["$upscope $end"] * len(scopes)
    lines += [*["$upscope $end"] * len(above), "$enddefinitions $end", "#0"]
    path.write_text("\n".join(lines))
    return path


def shown() -> list[str]:
    return [signal.path for group in groups(MACHINE).values() for signal in group]


def test_save_file_names_declared_signals(tmp_path: Path) -> None:
    path = vcd(tmp_path / "x.vcd", shown())
    text = save_file(path, MACHINE)
    declared = {gtkw_name(signal) for signal in vcd_signals(path)}
    # A line is "+{alias} path" or the path alone.
    lines = [line.split()[-1] for line in text.splitlines() if "TOP." in line]
    assert set(lines) == declared and len(lines) == len(shown())
    assert text.startswith('[dumpfile] "x.vcd"\n')
    assert text.count("@800200") == text.count("@1000200") == len(groups(MACHINE))


def test_missing_signal_is_refused(tmp_path: Path) -> None:
    path = vcd(tmp_path / "x.vcd", [name for name in shown() if name != "pc"])
    with pytest.raises(ConfigError, match="no signal TOP.bankside_pim_top.core.pc"):
        save_file(path, MACHINE)


def test_signals_of_nested_scopes(tmp_path: Path) -> None:
    path = tmp_path / "x.vcd"
    path.write_text(
        "$scope module a $end\n $var wire 1 ! clk $end\n $scope module b $end\n"
        "  $var reg 4 # count [3:0] $end\n $upscope $end\n $var wire 1 % q $end\n$upscope $end\n"
        "$enddefinitions $end\n$var wire 1 & late $end\n"
    )
    assert [gtkw_name(s) for s in vcd_signals(path)] == ["a.clk", "a.b.count[3:0]", "a.q"]
