"""The `bankside` command. A sub-command's module is imported only when that sub-command is used."""

import importlib.util
from typing import Any

import click

from bankside.cli_support import BadInput
from bankside.errors import BanksideError
from bankside.provenance import package_version
from bankside.registry import Lazy, Registry, nearest

# To add a sub-command: one line here, and a click command in the module it names.
COMMANDS: Registry[click.Command] = Registry("sub-command")
SUMMARIES: dict[str, str] = {}
for _name, _target, _summary in (
    (
        "doctor",
        "bankside.doctor:command",
        "Say what works on this machine and how to get the rest.",
    ),
    ("run", "bankside.sim.run_cli:command", "Run an experiment from a YAML file."),
    (
        "agree",
        "bankside.sim.agree:command",
        "Compare RTL, golden and timing model on random programs.",
    ),
    ("sim", "bankside.sim.rtl.sim_cli:command", "Run the bench of one hardware unit."),
    (
        "map",
        "bankside.mapping.map_cli:command",
        "Map a language model on a machine, operator by operator.",
    ),
    ("serve", "bankside.mapping.serving.cli:command", "Serve a request trace on a mapped model."),
    (
        "explore",
        "bankside.mapping.explore.cli:command",
        "Search a space of machines and mappings.",
    ),
    (
        "inject",
        "bankside.fault_injection.cli:command",
        "Inject soft errors into a design or a language model.",
    ),
    ("asm", "bankside.isa.asm_cli:asm", "Assemble a program."),
    ("disasm", "bankside.isa.asm_cli:disasm", "Print a program as text."),
    ("dram", "bankside.sim.dram_cli:command", "Check DRAM command streams; run a host memory."),
    ("waves", "bankside.sim.waves_cli:command", "Record a waveform of a window of a run."),
    ("report", "bankside.sim.report_cli:command", "Make an HTML report of a result."),
    (
        "verilog",
        "bankside.sim.elaborate_cli:command",
        "Export the Verilog of a hardware description.",
    ),
    (
        "cascade",
        "bankside.mapping.cascade.cli:command",
        "Passes, buffers, traffic and operations of a cascade of Einsums.",
    ),
    (
        "schedule",
        "bankside.mapping.schedule_cli:command",
        "Show the schedule of a binding on an array machine.",
    ),
    (
        "allocate",
        "bankside.mapping.scheduling.cli:command",
        "Order and addresses of operators on a scratchpad.",
    ),
    (
        "calibrate",
        "bankside.mapping.gpu.calibrate_cli:command",
        "Fit the GPU model to measured operator times.",
    ),
    ("docs", "bankside.isa.emit:command", "Write the generated tables into the documentation."),
    ("reproduce", "bankside.sim.reproduce:command", "Recompute the results of a publication."),
    ("bench", "bankside.sim.bench.cli:command", "Measure speed and accuracy."),
):
    COMMANDS.add(_name, Lazy(_target))
    SUMMARIES[_name] = _summary


def _installed(name: str) -> bool:
    """Tell whether the module of a sub-command is there, without importing that module."""
    entry = COMMANDS.entry(name)
    if not isinstance(entry, Lazy):
        return True
    try:
        return importlib.util.find_spec(entry.module) is not None
    except ModuleNotFoundError:
        return False


class LazyGroup(click.Group):
    """Group whose sub-commands come from `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        try:
            return COMMANDS.get(cmd_name)
        except BanksideError as error:
            raise BadInput(f"sub-command {cmd_name!r} cannot be used: {error}") from error

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            known = ", ".join(COMMANDS)
            raise click.UsageError(
                f"no sub-command {args[0]!r}{nearest(args[0], COMMANDS)}; choose from: {known}", ctx
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Summaries come from the table: help must not import every module.
        rows = [(name, SUMMARIES[name]) for name in COMMANDS if _installed(name)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BanksideError as error:
            raise BadInput(str(error)) from error


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_version("bankside") or "unknown", prog_name="bankside")
def main() -> None:
    """Hardware for large language models: RTL that runs and models that agree with it.

    Exit codes: 0 fine, 1 something was found (a mismatch, a missing tool), 2 the input cannot be
    used.
    """
