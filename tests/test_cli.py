"""Command line: lazy sub-commands, exit codes, JSON output, doctor, provenance."""

import json
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bankside import cli, cli_support, doctor, provenance
from bankside.errors import ConfigError
from bankside.registry import Lazy, Registry

ROOT = Path(__file__).parents[1]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Stand in for the table of sub-commands: one works, one is absent, one is broken."""

    @click.command()
    @click.option("--mode", default="fine")
    @cli_support.common_options
    def probe(mode: str, as_json: bool, out: Path | None) -> None:
        if mode == "refuse":
            raise ConfigError("file.yaml:3: dram.rows: is 7; expected 8")
        if mode == "bug":
            raise KeyError("an error of ours")
        cli_support.emit({"mode": mode}, as_json=as_json, text="for people", out=out, name="probe")
        cli_support.finish(mode != "finding")

    registry: Registry = Registry("sub-command")
    registry.add("probe", probe)
    registry.add("absent", Lazy("bankside.sim.no_such_module:command"))
    registry.add("broken", Lazy("bankside.units:no_such_command"))
    monkeypatch.setattr(cli, "COMMANDS", registry)
    monkeypatch.setattr(cli, "SUMMARIES", dict.fromkeys(registry, "summary"))
    return registry


def test_exit_codes_and_streams(commands: Registry) -> None:
    runner = CliRunner()
    fine = runner.invoke(cli.main, ["probe"])
    assert (fine.exit_code, fine.stdout, fine.stderr) == (0, "for people\n", "")
    finding = runner.invoke(cli.main, ["probe", "--mode", "finding", "--json"])
    assert finding.exit_code == 1
    assert json.loads(finding.stdout) == {"mode": "finding"}
    refused = runner.invoke(cli.main, ["probe", "--mode", "refuse", "--json"])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == "bankside: error: file.yaml:3: dram.rows: is 7; expected 8\n"


def test_a_bug_is_not_disguised_as_bad_input(commands: Registry) -> None:
    result = CliRunner().invoke(cli.main, ["probe", "--mode", "bug"])
    assert isinstance(result.exception, KeyError)


def test_out_folder_gets_the_same_json(commands: Registry, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    result = CliRunner().invoke(cli.main, ["probe", "--json", "--out", str(out)])
    assert (out / "probe.json").read_text() == result.stdout
    assert [path.name for path in out.iterdir()] == ["probe.json"]


def test_out_folder_that_cannot_be_made(commands: Registry, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(cli.main, ["probe", "--out", str(tmp_path / "file" / "below")])
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


@pytest.mark.parametrize(
    ("name", "reason"),
    [("absent", "it is not part of this installation"), ("broken", "no such object")],
)
def test_unusable_sub_command(commands: Registry, name: str, reason: str) -> None:
    result = CliRunner().invoke(cli.main, [name])
    assert result.exit_code == 2
    assert f"sub-command '{name}' cannot be used" in result.stderr and reason in result.stderr


def test_help_lists_only_what_is_installed(commands: Registry) -> None:
    shown = CliRunner().invoke(cli.main, ["--help"]).stdout.partition("Commands:")[2].split()
    assert "probe" in shown and "broken" in shown
    assert "absent" not in shown


def test_unknown_sub_command_names_the_nearest() -> None:
    result = CliRunner().invoke(cli.main, ["agre"])
    assert result.exit_code == 2
    assert "no sub-command 'agre' (did you mean 'agree'?)" in result.stderr


def test_progress_is_silent_off_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with cli_support.progress("counting", 3) as advance:
        advance(1)
    assert capfd.readouterr() == ("", "")


def test_each_sub_command_has_a_summary() -> None:
    assert set(cli.SUMMARIES) == set(cli.COMMANDS)


def test_doctor_is_quick_and_json_only(run_cli) -> None:
    started = time.monotonic()
    done = run_cli("doctor", "--json")
    elapsed = time.monotonic() - started
    result = json.loads(done.stdout)
    assert done.returncode == (0 if result["ok"] else 1)
    assert {check["name"] for check in result["checks"]} >= {"g++", "make", "verilator", "pyosys"}
    assert elapsed < 5


def test_doctor_loads_no_heavy_library(run_cli) -> None:
    code = (
        "import sys, bankside.cli as c; c.COMMANDS.get('doctor');"
        "print([m for m in ('numpy', 'amaranth', 'matplotlib', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_doctor_names_the_fix_when_tools_are_missing(run_cli, tmp_path: Path) -> None:
    done = run_cli("doctor", "--json", env={"PATH": str(tmp_path), "BANKSIDE_BUILD": str(tmp_path)})
    assert done.returncode == 1
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["g++"]["status"] == checks["make"]["status"] == "missing"
    assert "apt install g++" in checks["g++"]["fix"]
    assert "apt install make" in checks["make"]["fix"]
    assert checks["iverilog"]["status"] == "optional"
    people = run_cli("doctor", env={"PATH": str(tmp_path), "BANKSIDE_BUILD": str(tmp_path)})
    assert "Missing: g++, make" in people.stdout


def test_doctor_notices_a_compiler_that_cannot_compile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "g++"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "g++ 99" && exit 0\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    check = doctor._compiler()
    assert (check.status, check.detail) == ("missing", "g++ 99: cannot compile C++17")


def test_doctor_notices_an_unwritable_build_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BANKSIDE_BUILD", str(tmp_path / "file" / "build"))
    check = doctor._build_folder()
    assert check.status == "missing"
    assert "BANKSIDE_BUILD" in check.fix


def test_doctor_notices_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "package_folder", lambda name: None)
    assert doctor._verilator().status == doctor._pyosys().status == "missing"
    assert doctor._python_package("no-such-package", "nothing").status == "missing"


def test_provenance_is_complete_and_repeatable() -> None:
    first = provenance.collect(config_hash="c", program_hash="p", seed=7)
    assert json.loads(json.dumps(first)) == first
    assert (first["config_hash"], first["program_hash"], first["seed"]) == ("c", "p", 7)
    assert first["tools"]["amaranth"].startswith("0.5")
    assert first == provenance.collect(config_hash="c", program_hash="p", seed=7)
    assert provenance.package_version("no-such-package") is None
    assert provenance.first_line("no-such-program") is None
    assert provenance.first_line("false") is None


def test_git_revision_is_that_of_the_checkout() -> None:
    revision = provenance.git_revision()
    if (ROOT / ".git").exists():
        assert revision is not None
        digits = revision.removesuffix("+changes")
        assert len(digits) == 40 and int(digits, 16) >= 0
    else:
        assert revision is None
