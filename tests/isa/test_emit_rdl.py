"""SystemRDL of the host registers: read back by a compiler, it is the map of the register file."""

from pathlib import Path

import pytest

from bankside.isa.emit import refresh_whole
from bankside.isa.emit_rdl import npu_rdl, rdl
from bankside.isa.npu_registers import (
    READ_WRITE,
    TABLE,
    HostField,
    HostRegister,
    addresses,
    registers,
)
from bankside.isa.spec import load_spec

ROOT = Path(__file__).parents[2]
systemrdl = pytest.importorskip("systemrdl", reason="systemrdl-compiler is not installed")


def read_back(text: str, folder: Path) -> dict[str, tuple]:
    """Register path -> (byte address, {field: (lsb, width, software may read, may write)})."""
    from systemrdl import RDLCompiler
    from systemrdl.node import RegNode

    path = folder / "map.rdl"
    path.write_text(text)
    compiler = RDLCompiler()
    compiler.compile_file(str(path))
    found = {}
    for node in compiler.elaborate().top.descendants(unroll=True):
        if isinstance(node, RegNode):
            fields = {
                f.inst_name: (f.lsb, f.width, f.is_sw_readable, f.is_sw_writable)
                for f in node.fields()
            }
            name = node.get_path().partition(".")[2].replace("[", "").replace("]", "")
            found[name] = (node.absolute_address, fields)
    return found


def test_the_compiler_reads_the_table_back(tmp_path):
    expected = {
        name: (
            address,
            {f.name: (f.lsb, f.width, "r" in reg.access, "w" in reg.access) for f in reg.fields},
        )
        for name, address, reg in registers()
    }
    assert read_back(npu_rdl(), tmp_path) == expected
    assert len(expected) == 5 + 2 * 8 + len(load_spec("npu").stalls)


def test_addresses_are_those_of_the_contract():
    found = addresses()
    assert [found[n] for n in ("control", "status", "qbase", "qsize", "cycles")] == [
        0x00, 0x08, 0x10, 0x18, 0x20,
    ]  # fmt: skip
    assert [found[f"region{i}.base"] for i in range(8)] == [0x40 + 16 * i for i in range(8)]
    assert [found[f"region{i}.size"] for i in range(8)] == [0x48 + 16 * i for i in range(8)]
    stalls = load_spec("npu").stalls
    assert [found[f"counters.{s}"] for s in stalls] == [0x100 + 8 * i for i in range(len(stalls))]


def test_status_and_control_bits_are_those_of_the_contract():
    bits = {
        field.name: (field.lsb, field.width)
        for entry in TABLE[:2]
        for field in entry.fields
    }  # fmt: skip
    assert bits == {
        "start": (0, 1), "clear": (1, 1), "running": (0, 1), "done": (1, 1), "fault": (2, 1),
        "interrupt": (3, 1), "fault_code": (8, 8), "interrupt_code": (16, 16), "position": (32, 32),
    }  # fmt: skip


def test_the_file_is_fresh():
    assert (ROOT / "hw/npu/registers.rdl").read_text() == npu_rdl(), "run `bankside docs`"


def test_stale_and_missing_files_are_found_and_written(tmp_path):
    kept, stale, missing = (tmp_path / name for name in ("kept", "stale", "missing"))
    kept.write_text("a")
    stale.write_text("b")
    texts = {kept: "a", stale: "c", missing: "d"}
    assert refresh_whole(texts, write=False) == [stale, missing] and not missing.exists()
    assert refresh_whole(texts, write=True) == [stale, missing]
    assert refresh_whole(texts, write=False) == [] and stale.read_text() == "c"


def test_the_compiler_refuses_registers_that_overlap(tmp_path):
    """Known bad: so a wrong address in the table would be found."""
    from systemrdl import RDLCompileError

    fields = (HostField("value", 0, 64, "value"),)
    pair = [HostRegister(name, at, READ_WRITE, "a", fields) for name, at in (("a", 0), ("b", 4))]
    with pytest.raises(RDLCompileError):
        read_back(rdl("bad", "bad", pair), tmp_path)
