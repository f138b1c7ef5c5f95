"""C header and HTML that PeakRDL makes of the register map: they say what the table says."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bankside.errors import ToolError
from bankside.isa import emit_peakrdl
from bankside.isa.emit_peakrdl import write_registers
from bankside.isa.emit_rdl import npu_rdl
from bankside.isa.npu_registers import REGISTER_BYTES, TABLE, HostRegister, registers

NAME = "bankside_npu_registers"
PARTS = ("systemrdl", "peakrdl_cheader", "peakrdl_html")
needs_peakrdl = pytest.mark.skipif(
    any(importlib.util.find_spec(part) is None for part in PARTS),
    reason="PeakRDL is not installed; install the extra: pip install -e .[rdl]",
)
COMPILERS = [path for path in map(shutil.which, ("cc", "g++")) if path]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    return write_registers(npu_rdl(), NAME, tmp_path_factory.mktemp("registers"))


# --- C header -----------------------------------------------------------------------------------


def assertions() -> list[str]:
    """What the table says, as C expressions that must hold."""
    found = []
    for name, address, register in registers():
        member = re.sub(r"^(region)(\d+)", r"\1[\2]", name)
        found.append(f"offsetof(bankside_npu_t, {member}) == {address:#x}")
        found.append(f"sizeof(((bankside_npu_t *)0)->{member}) == {REGISTER_BYTES}")
        prefix = "BANKSIDE_NPU__" + re.sub(r"\d*\.", "__", name).upper()
        for field in register.fields:
            mask = ((1 << field.width) - 1) << field.lsb
            macro = f"{prefix}__{field.name.upper()}"
            found.append(f"{macro}_bm == {mask:#x}ull")
            found += [f"{macro}_bp == {field.lsb}", f"{macro}_bw == {field.width}"]
    return found


def compiled(compiler: str, header: Path, text: str, claims: list[str]) -> str:
    """Messages of a compiler that reads the header, here `text`, and checks the claims."""
    folder = header.parent / Path(compiler).name
    folder.mkdir(exist_ok=True)
    (folder / header.name).write_text(text)
    source = folder / "claims.c"
    lines = ["#include <stddef.h>", f'#include "{header.name}"']
    lines += [f'static_assert({claim}, "{claim}");' for claim in claims]
    source.write_text("\n".join([*lines, ""]))
    flags = ["-x", "c++"] if compiler.endswith("++") else ["-std=gnu11"]
    command = [compiler, *flags, "-Wall", "-Werror", "-fsyntax-only", str(source)]
    return subprocess.run(command, capture_output=True, text=True).stderr


@needs_peakrdl
@pytest.mark.skipif(not COMPILERS, reason="no C compiler")
@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_header_has_the_offsets_and_fields_of_the_table(compiler, files):
    claims = assertions()
    assert len(claims) == 2 * 32 + 3 * (31 + 8)
    assert compiled(compiler, files[1], files[1].read_text(), claims) == ""


@needs_peakrdl
@pytest.mark.skipif(not COMPILERS, reason="no C compiler")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("uint64_t qbase;\n    uint64_t qsize;", "uint64_t qsize;\n    uint64_t qbase;"),
        ("FAULT_CODE_bp 8", "FAULT_CODE_bp 9"),
        ("region[8]", "region[4]"),
    ],
)
def test_a_header_that_says_something_else_is_found(old, new, files):
    text = files[1].read_text()
    assert text.count(old) == 1
    assert "static assertion failed" in compiled(
        COMPILERS[0], files[1], text.replace(old, new), assertions()
    )


# --- HTML ---------------------------------------------------------------------------------------


@needs_peakrdl
def test_the_pages_have_the_offsets_fields_and_descriptions_of_the_table(files):
    folder = files[2].parent
    assert "bankside_npu" in (folder / "data/data_index.js").read_text()
    nodes = json.loads((folder / "data/ral-data-0.json").read_text())
    shown = {}
    for node in nodes:
        if "fields" in node:
            above = nodes[node["parent"]]
            path = f"{above['name']}.{node['name']}" if node["parent"] else node["name"]
            shown[path] = (
                int(node["offset"], 16) + int(above["offset"], 16),
                [(f["name"], f["lsb"], f["msb"] - f["lsb"] + 1) for f in node["fields"]],
            )
    assert shown == {
        re.sub(r"^region0", "region", name): (
            address,
            [(f.name, f.lsb, f.width) for f in register.fields],
        )
        for name, address, register in registers()
        if not re.match(r"region[1-9]", name)
    }
    pages = "".join(page.read_text() for page in (folder / "content").glob("*.html"))
    for entry in TABLE:
        for register in [entry] if isinstance(entry, HostRegister) else entry.registers:
            assert register.doc in pages
            assert all(field.doc in pages for field in register.fields)


# --- command ------------------------------------------------------------------------------------


@needs_peakrdl
def test_the_command_writes_all_three(run_cli, files, tmp_path):
    done = run_cli("docs", "--check", "--registers", "--json", "--out", tmp_path)
    assert done.returncode < 2, done.stderr  # 1: a table is stale, which is another test's matter
    written = [Path(path) for path in json.loads(done.stdout)["registers"]]
    assert [path.relative_to(tmp_path) for path in written] == [
        path.relative_to(files[0].parent) for path in files
    ]
    # The pages tell when they were made.
    assert [path.read_text() for path in written[:2]] == [path.read_text() for path in files[:2]]


def test_the_command_needs_a_folder(run_cli):
    done = run_cli("docs", "--check", "--registers")
    assert done.returncode == 2 and "say where with --out DIR" in done.stderr


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(emit_peakrdl._PACKAGES, "no_such_module", "no-such-package")
    with pytest.raises(ToolError, match="no-such-package not installed.*bankside.rdl."):
        write_registers(npu_rdl(), NAME, tmp_path)


@needs_peakrdl
def test_what_the_compiler_refuses_is_shown(tmp_path):
    with pytest.raises(ToolError, match=r"map.rdl: the SystemRDL compiler refuses it:\n.*qbase"):
        write_registers(npu_rdl().replace("qbase @ 0x10", "qbase @ 0x8"), "map", tmp_path)
