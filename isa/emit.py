"""`bankside docs`: tables of the documentation, generated from what the machines are built from.

A region `<!-- BEGIN bankside docs: NAME -->` .. `<!-- END bankside docs: NAME -->` in README.md or
docs/*.md is replaced by the table NAME. To add a table: one function here and one line in `TABLES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import click

from bankside.cache import atomic_write
from bankside.cli_support import common_options, emit, finish
from bankside.config import HardwareConfig, preset_names
from bankside.config_array import ArrayHardware
from bankside.config_npu import NpuHardware
from bankside.errors import ConfigError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.dram.standard import STALL_TAGS, DramStandard
from bankside.isa.dram.table import load_standard, standard_names
from bankside.isa.emit_c import c_header
from bankside.isa.emit_peakrdl import write_registers
from bankside.isa.emit_rdl import npu_rdl
from bankside.isa.machine import Machine
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.spec import Spec, load_spec, spec_names

_REGION = re.compile(
    r"(<!-- BEGIN bankside docs: (?P<name>[\w.-]+) -->\n)(?P<body>.*?)"
    r"(<!-- END bankside docs: (?P<end>[\w.-]+) -->)",
    re.DOTALL,
)


def markdown(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *[list(map(str, row)) for row in rows]]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


# --- command sets -----------------------------------------------------------------------------


def command_table(spec: Spec) -> str:
    """Opcodes, engines, what the commands do."""
    rows = (
        (f"`{c.name}`", f"{c.opcode:#04x}", c.engine, c.doc) for c in spec.commands.values()
    )
    return markdown(("command", "opcode", "engine", "what it does"), rows)


def field_table(spec: Spec) -> str:
    """Bits of every operand; bits that are not listed are reserved and must be 0."""
    everywhere = (f"{spec.opcode.lsb}+{spec.opcode.width}", "`opcode`", "", "command")
    rows = [("all", *everywhere)]
    shared: dict[str, str] = {}
    for command in spec.commands.values():
        for operand in command.fields:
            values = ", ".join(f"{n} = {v}" for n, v in operand.values) or ", ".join(operand.flags)
            values = values or f"{operand.minimum}..{operand.maximum}"
            row = (f"{operand.lsb}+{operand.width}", f"`{operand.name}`", values, operand.doc)
            if operand.flags:
                shared[operand.name] = f"| all but control | {' | '.join(row)} |\n"
            else:
                rows.append((f"`{command.name}`", *row))
    table = markdown(("command", "bits (lsb+width)", "operand", "values", "meaning"), rows)
    return table + "".join(shared.values())


def space_table(spec: Spec) -> str:
    """Shared words and, where the specification says it, who touches them."""
    if not any(c.accesses for c in spec.commands.values()):
        rows = [(f"`{name}`", f"`{e['size']}`", e["doc"]) for name, e in spec.spaces.items()]
        return markdown(("space", "words", "what it is"), rows)
    rows = []
    for name, entry in spec.spaces.items():
        touching = [
            (access.write, f"`{c.name}`")
            for c in spec.commands.values()
            for access in c.accesses
            if access.space == name
        ]
        users = [", ".join(dict.fromkeys(n for w, n in touching if w == kind)) or "none"
                 for kind in (False, True)]  # fmt: skip
        rows.append((f"`{name}`", f"`{entry['size']}`", entry["doc"], *users))
    return markdown(("space", "words", "what it is", "read by", "written by"), rows)


def stall_table(spec: Spec) -> str:
    """Stall reasons in the order of the counters."""
    rows = ((index, f"`{name}`") for index, name in enumerate(spec.stalls))
    return markdown(("counter", "stall reason"), rows)


# --- DRAM -------------------------------------------------------------------------------------


def _families() -> dict[str, list[DramStandard]]:
    families: dict[str, list[DramStandard]] = {}
    for name in standard_names():
        standard = load_standard(name)
        families.setdefault(standard.family, []).append(standard)
    return families


def dram_parameters() -> str:
    """Geometry, clock and parameters of every standard."""
    standards = [load_standard(name) for name in standard_names()]
    rows: list[tuple[object, ...]] = [
        ("clock period, ps", *(s.tck_ps for s in standards)),
        ("bank groups x banks", *(f"{s.geometry.bank_groups} x {s.geometry.banks_per_group}"
                                  for s in standards)),
        ("bursts per row", *(s.geometry.columns for s in standards)),
        ("rows", *(s.geometry.rows for s in standards)),
    ]  # fmt: skip
    names = dict.fromkeys(name for s in standards for name in s.params)
    rows += [(f"`{name}`", *(s.params.get(name, "") for s in standards)) for name in names]
    return markdown(("", *(f"`{s.name}`" for s in standards)), rows)


def dram_constraints(family: str) -> str:
    """Every row of a family's table: who waits for whom, how long, counted as what."""
    standards = _families()[family]
    rows = []
    for row in standards[0].constraints:
        others = [s.constraints[row.index].latency for s in standards]
        last = f"{row.window}-th last" if row.window > 1 else ""
        rows.append((row.index, row.level, " ".join(row.preceding), " ".join(row.following), last,
                     f"`{row.text}`", *others, STALL_TAGS[row.stall]))  # fmt: skip
    head = ("row", "in one", "after", "comes", "counted from the", "cycles",
            *(f"`{s.name}`" for s in standards), "category")  # fmt: skip
    return markdown(head, rows)


# --- machines and command line ----------------------------------------------------------------


def preset_table() -> str:
    """Hardware descriptions that come with the package."""
    rows = []
    for name in preset_names("pim"):
        machine = Machine.of(HardwareConfig.load(name))
        dram = machine.config.dram
        rows.append((f"`{name}`", f"`{dram.standard}`", machine.chips,
                     f"{machine.groups} x {machine.banks_per_group}", machine.columns, machine.rows,
                     machine.lanes))  # fmt: skip
    head = ("preset", "standard", "chips", "bank groups x banks", "bursts per row", "rows",
            "query lanes")  # fmt: skip
    return markdown(head, rows)


def array_preset_table() -> str:
    """Machines of the `array` engine that come with the package."""
    rows = []
    for name in preset_names("array"):
        machine = ArrayMachine.of(ArrayHardware.load(name))
        array, memory = machine.config.array, machine.config.memory
        rows.append((f"`{name}`", f"{machine.rows} x {machine.columns}", array.bus_bytes,
                     array.score_registers, f"{array.row_words} / {array.column_words}",
                     machine.return_cycles, memory.read_latency_cycles,
                     memory.beat_cycles))  # fmt: skip
    head = ("preset", "rows x columns", "bus bytes", "score registers", "row / column bank words",
            "return cycles", "memory latency", "cycles per beat")  # fmt: skip
    return markdown(head, rows)


def npu_preset_table() -> str:
    """Machines of the `npu` engine that come with the package."""
    rows = []
    for name in preset_names("npu"):
        machine = NpuMachine.of(NpuHardware.load(name))
        npu = machine.config.npu
        rows.append((f"`{name}`", machine.macs, npu.profile, machine.bus_bytes,
                     machine.weight_port_bytes, npu.shared_words * WORD_BYTES // 1024,
                     npu.weight_bytes // 1024))  # fmt: skip
    head = ("preset", "MACs per cycle", "profile", "data port, bytes", "weight port, bytes",
            "shared buffer, KiB", "weight buffer, KiB")  # fmt: skip
    return markdown(head, rows)


def cli_table() -> str:
    """Sub-commands, as `bankside --help` lists them."""
    root = click.get_current_context().find_root()
    formatter = click.HelpFormatter(width=200)
    root.command.format_commands(root, formatter)
    lines = (line.split(None, 1) for line in formatter.getvalue().splitlines()[1:])
    return markdown(("command", "what it does"), ((f"`bankside {n}`", t) for n, t in lines))


def tables() -> dict[str, Callable[[], str]]:
    """Every table by name."""
    found: dict[str, Callable[[], str]] = {
        "cli": cli_table, "presets": preset_table, "presets.array": array_preset_table,
        "presets.npu": npu_preset_table,
        "dram.parameters": dram_parameters,
    }  # fmt: skip
    for family in _families():
        found[f"dram.{family}"] = lambda family=family: dram_constraints(family)
    kinds = {"commands": command_table, "fields": field_table, "spaces": space_table,
             "stalls": stall_table}  # fmt: skip
    for engine in spec_names():
        for kind, make in kinds.items():
            found[f"{engine}.{kind}"] = lambda make=make, spec=engine: make(load_spec(spec))
    return found


# --- files ------------------------------------------------------------------------------------


def update(text: str, where: str, known: Mapping[str, Callable[[], str]]) -> tuple[str, list[str]]:
    """`text` with fresh regions, and the names of its regions.

    Raises ConfigError on an unknown name, a region without end or inside another one.
    """
    names: list[str] = []

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in known:
            raise ConfigError(f"{where}: no table {name!r}; choose from: {', '.join(known)}")
        if match["end"] != name or "<!-- BEGIN bankside docs" in match["body"]:
            raise ConfigError(f"{where}: the region {name} has no end of its own; add its END line")
        names.append(name)
        return f"{match[1]}{known[name]()}{match[4]}"

    fresh = _REGION.sub(replace, text)
    if fresh.count("<!-- BEGIN bankside docs") != len(names):
        raise ConfigError(f"{where}: a region has no end of its own; add its END line")
    return fresh, names


def refresh(files: Iterable[Path], *, write: bool) -> tuple[list[Path], list[str]]:
    """Files whose regions are stale (rewritten when `write`), and the tables that no file shows."""
    known, stale, shown = tables(), [], set()
    for path in files:
        text = path.read_text(encoding="utf-8")
        fresh, names = update(text, str(path), known)
        shown.update(names)
        if fresh != text:
            stale.append(path)
            if write:
                atomic_write(path, fresh)
    return stale, [name for name in known if name not in shown]


def refresh_whole(texts: Mapping[Path, str], *, write: bool) -> list[Path]:
    """Generated files that are missing or stale (rewritten when `write`)."""
    stale = []
    for path, text in texts.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if write:
                atomic_write(path, text)
    return stale


def documents() -> list[Path]:
    """README.md and docs/*.md of the source checkout."""
    root = Path(__file__).resolve().parents[1]
    files = [root / "README.md", *sorted(root.glob("docs/*.md"))]
    if not (root / "docs").is_dir():
        raise ConfigError(f"{root} has no folder docs; run this in a source checkout")
    return [path for path in files if path.is_file()]


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; exit code 1 when a table is stale.")
@click.option(
    "--registers",
    is_flag=True,
    help="With --out: the npu's host registers as SystemRDL, C header and HTML (extra rdl).",
)
@common_options
def command(check: bool, registers: bool, as_json: bool, out: Path | None) -> None:
    """Write the generated tables into README.md and docs/, and the SystemRDL of the host registers;
    with --out, C headers of the commands, too.
    """
    if registers and out is None:
        raise ConfigError("--registers writes files; say where with --out DIR")
    files = documents()
    stale, missing = refresh(files, write=not check)
    root = files[0].parent
    stale += refresh_whole({root / "hw" / "npu" / "registers.rdl": npu_rdl()}, write=not check)
    names = [str(path.relative_to(root)) for path in stale]
    headers, written = [], []
    for engine in spec_names() if out is not None else ():
        headers.append(str(atomic_write(out / f"bankside_{engine}.h", c_header(load_spec(engine)))))
    if registers and out is not None:
        written = list(map(str, write_registers(npu_rdl(), "bankside_npu_registers", out)))
    result = {"stale": names, "missing": missing, "checked": check, "headers": headers}
    result["registers"] = written
    emit(result, as_json=as_json, text=_text(names, missing, check), out=out, name="docs")
    finish(not missing and not (check and names))


def _text(stale: list[str], missing: list[str], check: bool) -> str:
    verb = "stale" if check else "updated"
    lines = [f"{verb}: {name}" for name in stale] or ["every table is fresh"]
    lines += [f"no document shows {name}; add its BEGIN and END lines" for name in missing]
    if check and stale:
        lines.append("write them with `bankside docs`")
    return "\n".join(lines)
