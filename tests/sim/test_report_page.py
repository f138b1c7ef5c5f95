"""The HTML report: complete, self-contained, safe with any text, and honest about mismatches."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from bankside.cli import main
from bankside.errors import ConfigError
from bankside.sim import plots, report

DESCRIPTION = """
model: gpt_mha
machine: dimm_pim_ddr4
prompt: "a <script>alert(1)</script> & "
new_tokens: 3
executions: [golden, timing]
full_machine: {contexts: [2048, 8192], variant_context: 2048, variants: [base, no_refresh]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report")
    (path / "job.yaml").write_text(DESCRIPTION)
    done = CliRunner().invoke(main, ["run", str(path / "job.yaml"), "--out", str(path / "out")])
    assert done.exit_code == 0, (done.stderr, done.exception)
    return path / "out"


class Outline(HTMLParser):
    """Titles, tags that stay open, and everything that a browser would load."""

    VOID = ("meta", "br", "path", "use")

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.titles: list[str] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and value and not value.startswith("#"):
                self.loaded.append(value)
            if name == "id" and value:
                self.ids.append(value)
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] == "h2":
            self.titles.append(data)


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    assert parser.stack == []
    return parser


def test_page_is_complete_and_self_contained(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    found = outline(page)
    assert found.titles == [
        "Generated text", "Where the cycles went", "Cycles per attention call",
        "One attention call, cycle by cycle", "Bandwidth against the peak", "The full machine",
        "What is not modelled", "Files of this run", "Provenance",
    ]  # fmt: skip
    assert found.loaded == [] and "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert len(found.ids) == len(set(found.ids)), "two plots share an identifier"
    assert page.count("<svg ") == 7


def test_text_cannot_become_markup(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert outline(page).scripts == 0
    assert "a &lt;script&gt;alert(1)&lt;/script&gt; &amp; " in page


def test_figures_are_those_of_the_result(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    result = json.loads((folder / "result.json").read_text())
    for cycles in result["stalls"].values():
        share = 100 * cycles / result["cycles"]
        assert f"{cycles:,} ({share:.1f} %)" in page
    assert f"{result['cycles']:,} memory-clock cycles" in page
    for point in result["full_machine"]["points"]:
        assert f"{point['tbps']:.2f} ({100 * point['utilisation']:.0f} %)" in page
    assert "not compared" in page


@pytest.mark.parametrize(
    ("changes", "shown", "hidden"),
    [
        ({"bits_compared": 9, "bit_mismatches": 0}, "9 programs, every bit", "differ<"),
        ({"bits_compared": 9, "bit_mismatches": 2}, "2 differ", "programs, every bit"),
        ({"differences": ["layer 1: <b>"]}, "<li>layer 1: &lt;b&gt;</li>", "layer 1: <b>"),
    ],
)
def test_verdicts(folder: Path, changes: dict, shown: str, hidden: str) -> None:
    result = json.loads((folder / "result.json").read_text())
    page = report.render(folder, result | changes)
    assert shown in page and hidden not in page


def test_report_makes_the_same_page_again(folder: Path, tmp_path: Path) -> None:
    first = (folder / "report.html").read_bytes()
    for source in (folder, folder / "result.json"):
        arguments = ["report", str(source), "--json", "--out", str(tmp_path)]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.stderr
        assert Path(json.loads(done.stdout)["report"]).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_report_without_the_optional_files(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes((folder / "result.json").read_bytes())
    done = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert done.exit_code == 0, done.stderr
    titles = outline((tmp_path / "report.html").read_text()).titles
    assert "Cycles per attention call" not in titles and "Where the cycles went" in titles


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "not JSON"),
        ("[1]", "not the result of `bankside run`"),
        ('{"kind": "agree"}', "not the result of `bankside run`"),
        ('{"kind": "run"}', "KeyError at 'machine_facts'; it was written by another version"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    done = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert done.exit_code == 2 and message in done.stderr, done.stderr
    assert not (tmp_path / "report.html").exists()


def test_damaged_part_is_refused(folder: Path, tmp_path: Path) -> None:
    result = json.loads((folder / "result.json").read_text())
    (tmp_path / "calls.json").write_text("{")
    with pytest.raises(ConfigError, match="calls.json: not JSON"):
        report.render(tmp_path, result)


def test_every_reason_and_command_has_a_colour(folder: Path) -> None:
    from bankside.isa.spec import load_spec

    spec = load_spec("pim")
    assert set(plots.REASONS) == set(spec.stalls)
    engine_commands = {c.name for c in spec.commands.values() if c.engine != "control"}
    assert set(plots.MACROS) == engine_commands
    assert len({colour for colour, _ in plots.REASONS.values()}) == len(plots.REASONS)
