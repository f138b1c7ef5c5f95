"""The table says what the assessment says, in CSV and HTML."""

import csv
import io
from html.parser import HTMLParser

import pytest

from bankside.fault_injection.blocks import BUCKETS
from bankside.fault_injection.fmeda import NOTES, rows, to_csv, to_html
from bankside.fault_injection.safety import (
    TARGETS,
    Assessment,
    BlockResult,
    RawRate,
    RawRates,
    StratumResult,
    assess,
)


@pytest.fixture
def assessment() -> Assessment:
    source = 'vendor "A", 16 nm <0.8 V>'
    rate = RawRate(fit_per_mbit=700.0, low=500.0, high=900.0, source=source)
    counts = {"SDC": 0, "masked": 900, "latent": 100}
    two = (StratumResult(10, {"SDC": 2, "masked": 8}, True), StratumResult(90, counts))
    results = [
        BlockResult("core.mac", "flop", 2000, (StratumResult(2e6, counts),), area=512.5),
        BlockResult("core.buf", "memory", 10**6, two, mechanism="secded"),
    ]
    return assess(results, RawRates(transient={"flop": rate, "memory": rate}), TARGETS["D"])


def test_csv_reads_back(assessment: Assessment) -> None:
    table = list(csv.reader(io.StringIO(to_csv(assessment))))
    split = table.index([])
    header, blocks = table[0], table[1:split]
    assert len(set(header)) == len(header) and all(len(row) == len(header) for row in blocks)
    for fit, row in zip(assessment.fits, blocks, strict=True):
        cells = dict(zip(header, row, strict=True))
        assert cells == next(r for r in rows(assessment) if r["block"] == fit.result.block)
        assert (cells["block"], int(cells["bits"])) == (fit.result.block, fit.result.bits)
        assert int(cells["masked"]) == fit.result.counts["masked"]
        assert cells["rate source"] == fit.rate.source
        assert float(cells["FIT, high"]) == pytest.approx(fit.total.high, rel=1e-5)
        safe = float(cells["FIT safe"]) + float(cells["FIT multi-point latent"])
        by_bucket = sum(fit.fit(bucket).estimate for bucket in BUCKETS)
        assert by_bucket == pytest.approx(fit.total.estimate)
        assert safe <= fit.total.estimate * (1 + 1e-5)
    metrics = {row[0]: row for row in table[split + 2 :]}
    for metric in assessment.metrics:
        assert float(metrics[metric.name][4]) == pytest.approx(metric.worst, rel=1e-5)
        assert metrics[metric.name][-1] == metric.verdict


def test_columns_of_buckets_differ(assessment: Assessment) -> None:
    """Guards against closures that all see the last bucket."""
    block = rows(assessment)[0]
    fit = assessment.fits[0]
    assert float(block["FIT safe"]) == pytest.approx(fit.fit("safe").estimate, rel=1e-5)
    assert float(block["FIT multi-point latent, high"]) == pytest.approx(
        fit.fit("latent").high, rel=1e-5
    )
    assert block["FIT safe"] != block["FIT multi-point latent"]
    assert (block["masked"], block["latent"], block["SDC"]) == ("900", "100", "0")


class Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_html_is_well_formed_and_complete(assessment: Assessment) -> None:
    text = to_html(assessment, "FMEDA of <x>")
    page = Cells()
    page.feed(text)
    assert page.open == []
    by_name = {row[0]: row for row in page.rows}
    for metric in assessment.metrics:
        assert by_name[metric.name][-1] == metric.verdict
    assert by_name["core.mac (flop, transient)"][4] == "< 0.30 %"
    assert by_name["flop"][-1] == assessment.fits[0].rate.source
    for note in (*NOTES, "FMEDA of &lt;x&gt;", TARGETS["D"].standing):
        assert note in text
    assert "<x>" not in text and "<0.8" not in text


def test_no_share_is_shown_as_nought(assessment: Assessment) -> None:
    page = Cells()
    page.feed(to_html(assessment))
    cells = [cell for row in page.rows for cell in row if "%" in cell]
    assert cells
    for cell in cells:
        assert not cell.startswith("0 %") and " 0 %" not in cell and "100 %" not in cell


def test_without_requirement_it_says_so(assessment: Assessment) -> None:
    results = [fit.result for fit in assessment.fits]
    rates = RawRates(transient={fit.result.kind: fit.rate for fit in assessment.fits})
    text = to_html(assess(results, rates, TARGETS["A"]))
    assert "ASIL A: no requirement" in text and "no quantitative requirement" in text
