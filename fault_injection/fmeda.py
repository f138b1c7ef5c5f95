"""The FMEDA table of an assessment: rows, CSV, HTML. Ref: ISO 26262-5 annex E."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

from bankside.fault_injection.blocks import BUCKETS, BlockFit
from bankside.fault_injection.classes import CLASSES, FAILURES
from bankside.fault_injection.safety import Assessment, Metric
from bankside.fault_injection.statistics import rate
from bankside.fault_injection.strata import Bound
from bankside.sim.html import e, page, paragraph, section, table

__all__ = ["NOTES", "rows", "to_csv", "to_html"]

_WORDS = {
    "safe": "safe",
    "single_point": "single-point",
    "residual": "residual",
    "detected": "multi-point detected",
    "perceived": "multi-point perceived",
    "latent": "multi-point latent",
}
NOTES = (
    "Evidence for an analysis, not a certificate.",
    "Raw rates, duty and the factors of hardened cells are given by the user, not measured.",
    "Bounds of dangerous and latent faults hold for all blocks together, others each on its own.",
    "FIT bounds multiply the interval of the raw rate and of the share.",
    "Counted as detected: faults that raise an alarm. That the system reacts in time is assumed.",
)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _bound(name: str, get: Callable[[BlockFit], Bound]) -> dict[str, Callable[[BlockFit], str]]:
    """Columns for an estimate and both bounds."""
    return {
        name: lambda fit: _number(get(fit).estimate),
        f"{name}, low": lambda fit: _number(get(fit).low),
        f"{name}, high": lambda fit: _number(get(fit).high),
    }


def _columns() -> dict[str, Callable[[BlockFit], str]]:
    columns: dict[str, Callable[[BlockFit], str]] = {
        "block": lambda fit: fit.result.block,
        "sites": lambda fit: fit.result.kind,
        "faults": lambda fit: fit.result.mode,
        "mechanism": lambda fit: fit.result.mechanism,
        "bits": lambda fit: str(fit.result.bits),
        "area": lambda fit: _number(fit.result.area),
        "duty": lambda fit: _number(fit.result.duty),
        "rate factor": lambda fit: _number(fit.result.rate_factor),
        "injections": lambda fit: str(fit.result.injections),
        **{str(c): (lambda fit, c=c: str(fit.result.counts[c])) for c in CLASSES},
        **_bound("FIT per bit", lambda fit: fit.rate.per_bit),
        "rate source": lambda fit: fit.rate.source,
        **_bound("FIT", lambda fit: fit.total),
        **_bound("AVF", lambda fit: fit.avf),
    }
    for bucket in BUCKETS:
        columns |= _bound(f"FIT {_WORDS[bucket]}", lambda fit, bucket=bucket: fit.fit(bucket))
    columns["diagnostic coverage"] = lambda fit: _number(fit.coverage)
    return columns


def rows(assessment: Assessment) -> list[dict[str, str]]:
    """One row per block, column name -> text; FIT and shares to six digits, empty: not known."""
    columns = _columns()
    return [{name: get(fit) for name, get in columns.items()} for fit in assessment.fits]


def _metric_row(metric: Metric) -> list[str]:
    asked = "none" if metric.target is None else _number(metric.target)
    values = (metric.estimate, metric.low, metric.high, metric.worst)
    return [metric.name, *map(_number, values), asked, str(metric.verdict or "no requirement")]


_METRIC_HEADER = ("metric", "estimate", "low", "high", "worst case", "target", "verdict")


def to_csv(assessment: Assessment) -> str:
    """The blocks, an empty line, the metrics."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_columns())
    writer.writerows(row.values() for row in rows(assessment))
    writer.writerow(())
    writer.writerow(_METRIC_HEADER)
    writer.writerows(_metric_row(metric) for metric in assessment.metrics)
    return out.getvalue()


def _fit_text(bound: Bound) -> str:
    return f"{bound.estimate:.3g} ({bound.low:.3g}-{bound.high:.3g})"


def _block_cells(fit: BlockFit) -> list[str]:
    result = fit.result
    hits = sum(result.counts[c] for c in FAILURES)
    # One stratum: the share of the table is that of the counts; several are weighted.
    if len(result.strata) == 1:
        avf = rate(hits, result.injections, exhaustive=result.strata[0].exhaustive)
    elif not fit.avf.low:
        avf = f"< {100 * fit.avf.high:.2g} % (strata)"
    else:
        avf = f"{100 * fit.avf.low:.2g}-{100 * fit.avf.high:.2g} % (strata)"
    buckets = [_fit_text(fit.fit(bucket)) for bucket in BUCKETS]
    name = f"{result.block} ({result.kind}, {result.mode})"
    numbers = [f"{result.bits:,}", f"{result.injections:,}", avf, _fit_text(fit.total)]
    return [name, result.mechanism, *numbers, *buckets]


def to_html(assessment: Assessment, title: str = "FMEDA") -> str:
    """A page for a safety engineer: verdict, metrics, blocks, where the rates are from."""
    return page(title, sections(assessment, title))


def sections(assessment: Assessment, title: str = "FMEDA") -> str:
    """What is on that page, for a larger one."""
    target = assessment.target
    verdict = assessment.verdict or "no requirement"
    head = paragraph(
        f"<b>ASIL {e(target.asil)}: {e(verdict)}</b>. {e(assessment.scope.capitalize())}; all "
        f"bounds together {100 * assessment.level:g} %. Target: {e(target.standing)}."
    )
    header = ("block", "mechanism", "bits", "injections", "AVF", "FIT", *_WORDS.values())
    sources = {
        (fit.result.kind, fit.result.mode): (
            fit.result.kind, fit.result.mode, _fit_text(fit.rate.per_bit), fit.rate.source
        )
        for fit in assessment.fits
    }  # fmt: skip
    body = (
        section(title, head, table(_METRIC_HEADER, map(_metric_row, assessment.metrics))),
        section("Blocks, FIT", table(header, map(_block_cells, assessment.fits), numeric_from=2)),
        section("Raw rates", table(("sites", "faults", "FIT per bit", "source"), sources.values())),
        section("Notes", *(paragraph(e(note)) for note in NOTES)),
    )
    return "".join(body)
