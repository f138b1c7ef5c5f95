"""Shape of the project: links, contents of the wheel, layering, lint, size of files."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "bankside"
LINKED = ("hw", "sim", "isa", "mapping", "fault_injection")
CODE_FOLDERS = ("src", "tests", "examples", "benchmarks", *LINKED)


def source_files(folder: Path, follow: bool = True) -> Iterator[Path]:
    """Yield the files below a folder, without what Python and editors leave there."""
    for base, folders, names in os.walk(folder, followlinks=follow):
        folders[:] = sorted(f for f in folders if f != "__pycache__" and ".egg-info" not in f)
        for name in sorted(names):
            if not name.endswith((".pyc", ".swp", "~")):
                yield Path(base) / name


def python_files() -> list[Path]:
    """Return every Python file of the project once, those of the package through its links."""
    rest = (source_files(ROOT / folder) for folder in ("tests", "examples", "benchmarks"))
    return [p for files in (source_files(PACKAGE), *rest) for p in files if p.suffix == ".py"]


# --- links and wheel --------------------------------------------------------------------------


@pytest.mark.parametrize("name", LINKED)
def test_links(name: str) -> None:
    link = PACKAGE / name
    assert link.is_symlink(), (
        f"{link} is not a symbolic link; check the project out with "
        "`git config core.symlinks true` (on Windows: developer mode or WSL)"
    )
    assert os.readlink(link) == f"../../{name}"
    assert link.resolve() == (ROOT / name).resolve() and link.is_dir()


def test_every_package_folder_has_an_init() -> None:
    folders = {path.parent for path in source_files(PACKAGE) if path.suffix == ".py"}
    assert not [str(f) for f in folders if not (f / "__init__.py").is_file()]


def build(hook: str, folder: Path, out: Path) -> Path:
    """Call a build hook of setuptools in a folder, without network; return the file it makes."""
    code = f"import setuptools.build_meta as b, sys; print(b.{hook}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(out)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.strip().splitlines()[-1]


def setuptools_is_new_enough() -> bool:
    try:
        return int(version("setuptools").partition(".")[0]) >= 77
    except PackageNotFoundError:
        return False


@pytest.mark.skipif(not setuptools_is_new_enough(), reason="needs setuptools>=77 installed")
def test_wheel_holds_every_source_file(tmp_path: Path) -> None:
    """By way of the source archive, where other back ends silently drop what is linked."""
    tree, out = tmp_path / "tree", tmp_path / "out"
    for name in (*LINKED, "src"):
        left_out = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.swp", "*~")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    out.mkdir()
    # Its suffix is not in package-data, so the comparison below has to notice it.
    (tree / "hw" / "probe.unlisted").write_text("")
    with tarfile.open(build("build_sdist", tree, out)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    with zipfile.ZipFile(build("build_wheel", unpacked, out)) as wheel:
        packed = {name for name in wheel.namelist() if name.startswith("bankside/")}
    source = tree / "src"
    sources = {str(path.relative_to(source)) for path in source_files(source / "bankside")}
    missing = sources - packed - {"bankside/hw/probe.unlisted"}
    assert missing == set(), "add their suffix to package-data in pyproject.toml"
    assert "bankside/hw/probe.unlisted" not in packed
    assert packed - sources == set()


# --- layering ---------------------------------------------------------------------------------

CORE = {"bankside", "bankside.cache", "bankside.cli_support", "bankside.config", "bankside.errors",
        "bankside.provenance", "bankside.registry", "bankside.schema", "bankside.strict_yaml",
        "bankside.units"}  # fmt: skip
FRONT = {"bankside.__main__", "bankside.cli", "bankside.doctor"}
# (modules, what they may import of bankside); the first line that matches counts.
INTERNAL_RULES = (
    (r"bankside\.isa(\..+)?", r"bankside\.isa"),
    (r"bankside\.hw(\..+)?", r"bankside\.(isa|hw)"),
    (r"bankside\.sim\.(golden|timing)(\..+)?", r"bankside\.(isa|sim(?!\.(rtl|lanes|elaborate)))"),
    (r"bankside\.sim\.memory(\..+)?", r"bankside\.(isa|sim\.(memory|rtl\.tools))"),
    (r"bankside\.sim(\.(rtl|lanes|bench)\..+|\.[^.]+)?", r"bankside\.(isa|hw|sim|mapping)"),
    (r"bankside\.mapping(\..+)?", r"bankside\.(isa|mapping|sim(?!\.(rtl|lanes)))"),
    (r"bankside\.fault_injection(\..+)?", r"bankside\.(isa|hw|sim|mapping|fault_injection)"),
)
# library: where it may be imported
EXTERNAL_RULES = {
    "amaranth": r"bankside\.(hw(\..+)?|isa\.layout|sim\.(rtl|lanes)(\..+)?|sim\.elaborate\w*)",
    "matplotlib": r"bankside\.sim\.(report\w*|plots)",
    "cocotb": r"bankside\.sim\.rtl(\..+)?",
    "cocotb_tools": r"bankside\.sim\.rtl(\..+)?",
    "cocotbext": r"bankside\.sim\.rtl(\..+)?",
    "torch": r"(?!)",
    "hypothesis": r"(?!)",
    "pytest": r"(?!)",
}


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of each import, wherever in the file it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            # `from bankside import hw` names a module as much as `import bankside.hw` does.
            whole = prefix in ("bankside", "bankside.sim")
            names = [f"{prefix}.{alias.name}" for alias in node.names] if whole else [prefix]
            yield from ((node.lineno, name) for name in names)


def may_import(module: str, name: str) -> bool:
    """Tell whether a module of the package may import a dotted name."""
    top = name.partition(".")[0]
    if name.startswith("."):
        return False  # relative imports hide the layer
    if top in EXTERNAL_RULES:
        return re.fullmatch(EXTERNAL_RULES[top], module) is not None
    if top != "bankside" or module in FRONT:
        return True
    is_core = name in CORE or name.count(".") == 1 and not (PACKAGE / name[9:]).exists()
    if is_core or module in CORE:
        return is_core and name not in FRONT
    allowed = next((may for who, may in INTERNAL_RULES if re.fullmatch(who, module)), r"(?!)")
    return re.match(allowed + r"(\.|$)", name) is not None


def violations(module: str, source: str) -> list[str]:
    """Return "line: name" of each import that the layering forbids."""
    return [f"{line}: {name}" for line, name in imports(source) if not may_import(module, name)]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_layering() -> None:
    found = {
        str(path.relative_to(ROOT)): bad
        for path in source_files(PACKAGE)
        if path.suffix == ".py" and (bad := violations(module_name(path), path.read_text()))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("bankside.config", "from bankside.isa.spec import Spec"),
        ("bankside.registry", "import bankside.sim.engine"),
        ("bankside.units", "from bankside import hw"),
        ("bankside.cache", "from bankside.cli import main"),
        ("bankside.isa.spec", "from bankside.hw.pim import unit"),
        ("bankside.isa.spec", "from amaranth import Module"),
        ("bankside.isa.asm", "from bankside.sim.engine import Engine"),
        ("bankside.hw.pim.unit", "from bankside.sim.golden.pim import run"),
        ("bankside.hw.pim.unit", "from bankside import mapping"),
        ("bankside.hw.pim.unit", "    from bankside.mapping import lower"),
        ("bankside.hw.pim.unit", "from . import ports"),
        ("bankside.sim.golden.pim", "from bankside.hw.arith import fp16"),
        ("bankside.sim.golden.pim", "from bankside.sim.rtl.engine import RtlEngine"),
        ("bankside.sim.timing.pim", "from bankside.sim import elaborate"),
        ("bankside.sim.timing.pim", "import amaranth.lib.data"),
        ("bankside.sim.timing.pim", "from bankside.mapping import lower"),
        ("bankside.sim.agree", "import matplotlib.pyplot as plt"),
        ("bankside.sim.agree", "from cocotb.triggers import Timer"),
        ("bankside.sim.agree", "from bankside.fault_injection import campaign"),
        ("bankside.sim.memory.model", "import bankside.sim.rtl.dram_device"),
        ("bankside.mapping.lower", "import bankside.hw.pim.rank"),
        ("bankside.mapping.lower", "from bankside.sim.rtl import engine"),
        ("bankside.mapping.llm.train", "import torch"),
    ],
)
def test_layering_notices(module: str, line: str) -> None:
    assert violations(module, f"if True:\n    {line.strip()}\n") != []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("bankside.config", "from bankside.registry import Registry"),
        ("bankside.isa.layout", "from amaranth.lib import data"),
        ("bankside.isa.spec", "from bankside.strict_yaml import load_yaml"),
        ("bankside.hw.pim.unit", "from bankside.isa.numerics import FP16"),
        ("bankside.sim.golden.pim", "from bankside.sim.engine import Result"),
        ("bankside.sim.elaborate", "from bankside.hw.pim.rank import Rank"),
        ("bankside.sim.rtl.engine", "from bankside.hw.pim.rank import Rank"),
        ("bankside.sim.rtl.bench", "import cocotb"),
        ("bankside.sim.report_plots", "import matplotlib"),
        ("bankside.sim.memory.kernel", "from bankside.sim.rtl.tools import find_cxx"),
        ("bankside.mapping.policy.x", "from bankside.sim.memory.transfer import transfer_seconds"),
        ("bankside.mapping.lower", "from bankside.sim.timing.pim import cycles"),
        ("bankside.fault_injection.sites", "from bankside.hw.pim.rank import Rank"),
        ("bankside.cli", "import bankside.sim.agree"),
    ],
)
def test_layering_allows(module: str, line: str) -> None:
    assert violations(module, line) == []


# --- text -------------------------------------------------------------------------------------


def test_ruff_is_clean() -> None:
    pytest.importorskip("ruff")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "from hw.pim import unit",
        "import sim.golden",
        "from amaranth.hdl import Record",
        "import os",
    ],
)
def test_ruff_notices(line: str) -> None:
    """The rules that this project adds do match something."""
    pytest.importorskip("ruff")
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--no-cache",
        "--stdin-filename",
        "hw/x.py",
        "-",
    ]
    done = subprocess.run(command, cwd=ROOT, input=line + "\n", capture_output=True, text=True)
    expected = "F401" if line == "import os" else "TID251"
    assert done.returncode == 1 and expected in done.stdout


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in python_files()}
    assert {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > 500} == {}


# Folders of somebody's machine: they make a file useless everywhere else.
MACHINE_PATH = re.compile(r"(?<![\w.$}~/-])/(work|tmp|home|root|Users)/\w")


def project_texts() -> Iterator[Path]:
    """Yield the project's own text files, each once."""
    yield from (p for p in ROOT.iterdir() if p.suffix in (".md", ".toml") or p.name == "Makefile")
    for folder in (*CODE_FOLDERS, "docs", ".ci"):
        for path in source_files(ROOT / folder, follow=False):
            if path.suffix not in (".safetensors", ".png", ".npz"):
                yield path


def test_no_paths_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in project_texts()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


def test_machine_paths_are_noticed() -> None:
    for folder in ("work", "tmp", "home"):
        assert MACHINE_PATH.search(f'path = "/{folder}/someone/x"')
    for fine in (
        "build/tmp/x",
        "https://example.org/home/x",
        "~/work/x",
        "$HOME/work/x",
        "/dev/null",
    ):
        assert not MACHINE_PATH.search(fine)
