"""Generated documentation and C header: fresh, complete, and right where a compiler can tell."""

import random
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from bankside.errors import ConfigError
from bankside.isa import emit
from bankside.isa.emit_c import c_header
from bankside.isa.spec import load_spec

PIM = load_spec("pim")
ROOT = Path(__file__).parents[2]


def region(name: str, body: str = "") -> str:
    begin, end = (f"<!-- {word} bankside docs: {name} -->" for word in ("BEGIN", "END"))
    return f"{begin}\n{body}{end}"


# --- documentation ------------------------------------------------------------------------------


def test_documentation_is_fresh(run_cli):
    done = run_cli("docs", "--check")
    assert done.returncode == 0, f"run `bankside docs`:\n{done.stdout}{done.stderr}"


def test_regions_are_replaced_and_nothing_else():
    known = {"a": lambda: "new a\n", "b": lambda: "new b\n"}
    text = f"before\n{region('a', 'old')}\nbetween\n{region('b')}\nafter"
    fresh, names = emit.update(text, "f", known)
    assert names == ["a", "b"]
    new = [region(name, f"new {name}\n") for name in names]
    assert fresh == f"before\n{new[0]}\nbetween\n{new[1]}\nafter"
    assert emit.update(fresh, "f", known)[0] == fresh


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (region("c"), "f: no table 'c'; choose from: a, b"),
        (region("a").replace("END bankside docs: a", "END bankside docs: b"),
         "f: the region a has no end of its own; add its END line"),
        ("<!-- BEGIN bankside docs: a -->\n",
         "f: a region has no end of its own; add its END line"),
        ("<!-- BEGIN bankside docs: a -->\n" + region("b"),
         "f: the region a has no end of its own; add its END line"),
    ],
)  # fmt: skip
def test_broken_regions_are_refused(text, message):
    with pytest.raises(ConfigError) as error:
        emit.update(text, "f", {"a": str, "b": str})
    assert str(error.value) == message


def test_stale_and_missing_tables_are_noticed(tmp_path, monkeypatch):
    known = {"a": lambda: "new\n", "b": lambda: "x\n"}
    monkeypatch.setattr(emit, "tables", lambda: known)
    path = tmp_path / "doc.md"
    path.write_text(region("a", "old\n"))
    assert emit.refresh([path], write=False) == ([path], ["b"])
    assert "old" in path.read_text()
    assert emit.refresh([path], write=True) == ([path], ["b"])
    assert path.read_text() == region("a", "new\n")
    assert emit.refresh([path], write=False) == ([], ["b"])


def test_exit_code_says_stale(monkeypatch, tmp_path):
    (tmp_path / "README.md").write_text(region("a", "old\n"))
    monkeypatch.setattr(emit, "tables", lambda: {"a": lambda: "new\n"})
    monkeypatch.setattr(emit, "documents", lambda: [tmp_path / "README.md"])
    from click.testing import CliRunner

    check = CliRunner().invoke(emit.command, ["--check"])
    assert check.exit_code == 1 and "stale: README.md" in check.output
    assert CliRunner().invoke(emit.command, []).exit_code == 0
    assert CliRunner().invoke(emit.command, ["--check"]).exit_code == 0


def test_tables_name_everything():
    fields = emit.field_table(PIM)
    for command in PIM.commands.values():
        assert f"`{command.name}`" in emit.command_table(PIM)
        for operand in command.fields:
            assert f"`{operand.name}`" in fields and operand.doc in fields
    assert all(f"`{reason}`" in emit.stall_table(PIM) for reason in PIM.stalls)
    for family, standards in emit._families().items():
        rows = emit.dram_constraints(family).splitlines()[2:]
        assert len(rows) == len(standards[0].constraints)
        for standard in standards:
            assert [c.text for c in standard.constraints] == [
                c.text for c in standards[0].constraints
            ], "one table per family needs the same rows in every grade"


def test_command_list_is_that_of_the_help(run_cli):
    lines = run_cli("--help").stdout.split("Commands:")[1].splitlines()
    listed = [line.split()[0] for line in lines if line.strip()]
    text = (ROOT / "docs" / "reference.md").read_text()
    assert all(f"`bankside {name}`" in text for name in listed) and "docs" in listed


def test_cli_table_needs_no_import_of_the_command_line():
    @click.group()
    def root() -> None:
        pass

    @root.command()
    def show() -> None:
        """Show the table."""
        click.echo(emit.cli_table())

    from click.testing import CliRunner

    assert "| `bankside show` | Show the table. |" in CliRunner().invoke(root, ["show"]).output


# --- C header -----------------------------------------------------------------------------------

COMPILERS = [name for name in ("gcc", "g++") if shutil.which(name)]


def compile_c(compiler: str, source: Path, *flags: str) -> subprocess.CompletedProcess:
    standard = "-std=c++17" if compiler == "g++" else "-std=c99"
    command = [compiler, standard, "-Wall", "-Wextra", "-Werror", "-pedantic", *flags, str(source)]
    return subprocess.run(command, capture_output=True, text=True)


def cases() -> list[tuple[str, dict[str, int]]]:
    """Every command with its smallest, largest and random operands."""
    rng, found = random.Random(4), []
    for name, command in PIM.commands.items():
        found += [
            (name, {f.name: choose(f) for f in command.fields})
            for choose in (
                lambda f: f.minimum,
                lambda f: f.maximum,
                lambda f: rng.randint(f.minimum, f.maximum),
            )
        ]
    return found


@pytest.mark.skipif(not COMPILERS, reason="no C compiler")
@pytest.mark.parametrize("compiler", COMPILERS)
def test_header_encodes_like_python(tmp_path, compiler):
    (tmp_path / "bankside_pim.h").write_text(c_header(PIM))
    suffix = "cpp" if compiler == "g++" else "c"
    lines = []
    for name, operands in cases():
        arguments = ", ".join(f"{value}u" for value in operands.values())
        lines.append(f'    printf("%016llx\\n", (unsigned long long)'
                     f"bankside_pim_{name.lower()}({arguments}));")  # fmt: skip
    lines.append('    printf("%d %d %d\\n", BANKSIDE_PIM_OP_MAC, BANKSIDE_PIM_ENGINE_RANK,'
                 " BANKSIDE_PIM_LAYOUT_HEAD);")  # fmt: skip
    source = tmp_path / f"t.{suffix}"
    head = '#include <stdio.h>\n#include "bankside_pim.h"\n#include "bankside_pim.h"\n'
    source.write_text("\n".join([head, "int main(void)", "{", *lines, "    return 0;", "}", ""]))
    done = compile_c(compiler, source, "-o", str(tmp_path / "t"))
    assert done.returncode == 0, done.stderr
    run = subprocess.run([tmp_path / "t"], capture_output=True, text=True)
    printed = run.stdout.splitlines()
    expected = [f"{PIM.encode(name, **operands):016x}" for name, operands in cases()]
    assert printed == [*expected, "20 4 2"]


@pytest.mark.skipif(not COMPILERS, reason="no C compiler")
def test_a_wrong_header_does_not_compile(tmp_path):
    header = tmp_path / "bankside_pim.h"
    header.write_text(c_header(PIM).replace("uint64_t count", "uint64_t counts", 1))
    assert compile_c(COMPILERS[0], header, "-fsyntax-only").returncode != 0


def test_headers_are_written_on_request(run_cli, tmp_path):
    done = run_cli("docs", "--check", "--out", tmp_path)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "bankside_pim.h").read_text() == c_header(PIM)
