"""Page, plots and tables of a campaign, for architects and safety engineers."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bankside.cache import atomic_write
from bankside.fault_injection import fmeda
from bankside.fault_injection.llm.patterns import PARTS
from bankside.fault_injection.llm.report import held_text, part_text
from bankside.fault_injection.safety import Assessment
from bankside.sim.html import card, e, page, paragraph, section, table
from bankside.sim.plots import svg
from bankside.sim.report_inject import draw_classes, draw_hierarchy, draw_profile, png

__all__ = ["PAGE", "overview", "render", "write"]

PAGE, PLOT, FMEDA, FMEDA_PAGE, BLOCKS = (
    "report.html", "hierarchy.png", "fmeda.csv", "fmeda.html", "blocks.csv",
)  # fmt: skip
_BARS, _STRATA, _PROFILES = 24, 80, 3
_PLACE = ("bit", "word", "cycle")
_METRICS = ("SPFM", "LFM", "PMHF")


def write(result: Mapping[str, Any], assessment: Assessment | None, folder: Path) -> list[str]:
    """Write page, plot and tables; returns their names."""
    first = result["models"][0]["model"]
    files: dict[str, str | bytes] = {
        PAGE: render(result, assessment),
        BLOCKS: blocks_csv(result),
        PLOT: png(9.5, 4.2, lambda f: draw_hierarchy(_of(result["hierarchy"], first), f)),
    }
    if assessment is not None:
        files[FMEDA] = fmeda.to_csv(assessment)
        files[FMEDA_PAGE] = fmeda.to_html(assessment, f"FMEDA {result['name']}")
    for name, data in files.items():
        atomic_write(folder / name, data)
    return list(files)


def render(result: Mapping[str, Any], assessment: Assessment | None) -> str:
    """The page."""
    what = result["description"]
    design = what["target"] or what["machine"]
    return page(
        f"soft errors {result['name']}",
        f"<h1>Soft errors: {e(result['name'])}</h1><p class=sub>{e(design)}, "
        f"{e(_workload(what))}; a run takes {result['cycles']:,} cycles.</p>"
        + _cards(result)
        + (_safety(result, assessment) if assessment is not None else "")
        + (_plan(result["plan"]) if "plan" in result else "")
        + (_patterns(result["patterns"]) if "patterns" in result else "")
        + _hierarchies(result)
        + section("Outcomes by block", _classes(result), _blocks(result))
        + section("When and where in a word", *_profiles(result))
        + section("Registers and memories with the most failures", _registers(result))
        + section("Single faults", _examples(result))
        + section("Strata", _strata(result))
        + section("What the classes mean", _definitions(result))
        + section("How this was done", _method(result)),
    )  # fmt: skip


def _of(rows: Sequence[Mapping[str, Any]], model: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["model"] == model]


def _workload(what: Mapping[str, Any]) -> str:
    if not what["workload"]:
        return "its own program"
    ((name, options),) = what["workload"].items()
    return " ".join([name, *(f"{k}={v}" for k, v in (options or {}).items())])


def _cards(result: Mapping[str, Any]) -> str:
    checked = result["referee_faults"]
    cards = [
        card("blue", "Faults injected", f"{result['injections']:,}",
             f"{len(result['strata'])} strata, seed {result['description']['sampling']['seed']}"),
        card("good" if checked else "bad", "Referee",
             f"{checked:,} equal" if checked else "not checked",
             "repeated on the Verilated RTL, every field of the outcome" if checked
             else "no sample was repeated by anybody"),
    ]  # fmt: skip
    cards += [
        card("grey", f"AVF {row['model']}", row["avf"]["text"].split(" (")[0],
             f"of {row['bits']:,} bits; {row['avf']['text']}") for row in result["models"]
    ]  # fmt: skip
    colours = {"PASS": "good", "FAIL": "bad"}
    cards += [
        card(colours.get(v["verdict"], "grey"), v["metric"], v["verdict"].capitalize(), v["text"])
        for v in result["verdicts"]
    ]
    return f"<div class=cards>{''.join(cards)}</div>"


# --- safety ---------------------------------------------------------------------------------------


def _safety(result: Mapping[str, Any], assessment: Assessment) -> str:
    left_out = result["not_in_metrics"]
    note = "Faults of these models are in no metric: " + ", ".join(left_out) if left_out else ""
    return fmeda.sections(assessment, "Safety metrics (FMEDA)") + (
        section("Not in the metrics", paragraph(e(note))) if note else ""
    )


def _plan(plan: Mapping[str, Any]) -> str:
    rows = [(c["block"], c["mechanism"], f"{c['area']:,.0f}", f"{c['injections']:,}",
             "chosen" if plan["found"] and plan["chosen"][c["block"]] == c["mechanism"] else "")
            for c in sorted(plan["candidates"], key=lambda c: c["block"])]  # fmt: skip
    listed = table(("block", "mechanism", "area, GE", "injections", ""), rows, numeric_from=2)
    if not plan["found"]:
        best = ", ".join(f"{name} {value:.4g}" for name, value in plan["reachable"].items())
        told = (
            f"No choice meets the target at its bounds. Best reachable of each metric alone: "
            f"{best}; out of reach: {', '.join(plan['binding']) or 'only all together'}."
        )
        return section("Protection", paragraph(e(told)), listed)
    measured = plan["measured"]
    more = {key: f"+ {100 * plan[key]:.1f} %" for key in ("overhead", "duplicated_overhead")}
    told = (
        f"Least area that meets the target at its bounds, proven: {more['overhead']}; the whole "
        f"design in lockstep: {more['duplicated_overhead']}. Built and injected into again with "
        f"{measured['injections']:,} faults: + {100 * measured['overhead']:.1f} %."
    )
    verdicts = table(("metric", "verdict", ""), [(v["metric"], v["verdict"], v["text"])
                     for v in measured["verdicts"]], numeric_from=3)  # fmt: skip
    return section("Protection", paragraph(e(told)), verdicts, listed)


def _patterns(made: Mapping[str, Any]) -> str:
    """What is recorded for a language model, and what it holds."""
    share = made["represented"]
    held = "no fault had an effect" if share is None else (
        f"replays of them stand for {held_text(share)} of the {made['model']} faults with an "
        f"effect")  # fmt: skip
    rows = [(name, f"{made['counts'][name]:,}", part_text(made["parts"][name]), meaning)
            for name, meaning in PARTS.items()]  # fmt: skip
    return section(
        "Patterns for a language model",
        paragraph(e(f"{made['patterns']:,} patterns in {made['file']}; {held}.")),
        table(("where the effect is", "faults", "share of the possible ones", ""), rows, 1),
    )


# --- outcomes -------------------------------------------------------------------------------------


def _hierarchies(result: Mapping[str, Any]) -> str:
    parts = []
    for row in result["models"]:
        rows = _of(result["hierarchy"], row["model"])
        if len(rows) > 1:
            parts.append(f"<h3>{e(row['model'])}</h3>")
            parts.append(svg(9.5, 4.2, lambda f, rows=rows: draw_hierarchy(rows, f),
                             f"AVF over the hierarchy, {row['model']}"))  # fmt: skip
    note = paragraph(
        "Instances from the top down. Width: square root of the bits, among siblings; colour: AVF "
        "of everything inside, weighted by what each injected fault stands for."
    )
    return section("Over the hierarchy", note, *parts) if parts else ""


def _classes(result: Mapping[str, Any]) -> str:
    rows = [row | {"label": f"{row['block']} ({row['model']})"} for row in result["blocks"]]
    rows = sorted(rows, key=lambda row: -row["bits"])[:_BARS]
    height = 1.3 + 0.3 * len(rows)
    return svg(9.5, height, lambda f: draw_classes(rows, f, result["level"]), "classes by block")


#: Class -> heading of its column.
_CLASSES = {
    "SDC": "SDC", "hang": "hang", "detected-uncorrected": "DUE", "detected-corrected": "corrected",
    "timing-only": "timing", "latent": "latent", "masked": "masked",
}  # fmt: skip


def _blocks(result: Mapping[str, Any]) -> str:
    header = ("model", "block", "bits", "faults", "AVF", *_CLASSES.values(), "false alarms")
    note = paragraph("DUE: detected-uncorrected; of them false alarms: the output was right.")
    return note + table(header, [
        (r["model"], r["block"], f"{r['bits']:,}", f"{r['faults']:,}", r["avf"]["text"],
         *(f"{r['classes'][c]:,}" for c in _CLASSES), f"{r['false_alarms']:,}")
        for r in result["blocks"]
    ], numeric_from=2)  # fmt: skip


def blocks_csv(result: Mapping[str, Any]) -> str:
    """The rows of all blocks, with bounds as numbers."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "block", "bits", "possible faults", "faults", *_CLASSES,
                     "false alarms", "AVF", "AVF low", "AVF high"])  # fmt: skip
    for r in result["blocks"]:
        avf = r["avf"]
        writer.writerow([r["model"], r["block"], r["bits"], r["population"], r["faults"],
                         *(r["classes"][c] for c in _CLASSES), r["false_alarms"],
                         avf["estimate"], avf["low"], avf["high"]])  # fmt: skip
    return out.getvalue()


def _profiles(result: Mapping[str, Any]) -> list[str]:
    parts = []
    for model in [row["model"] for row in result["models"]][:_PROFILES]:
        cycles, bits = (_of(result[key], model) for key in ("by_cycle", "by_bit"))
        if any(row["faults"] for row in cycles):
            parts += [f"<h3>{e(model)}</h3>", _profile(cycles, "first", model)]
        if any(row["faults"] for row in bits):
            parts.append(_profile(bits, "bit", model))
    return parts or [paragraph("These models have no beginning within the run.")]


def _profile(rows: Sequence[Mapping[str, Any]], by: str, model: str) -> str:
    labels = {
        "first": "cycle in which the fault begins",
        "bit": "number of the bit, registers and memories of role data",
    }
    return svg(9.5, 2.4, lambda f: draw_profile(rows, f, by, labels[by]), f"AVF by {by}, {model}")


def _registers(result: Mapping[str, Any]) -> str:
    if not result["registers"]:
        return paragraph("No fault has led to a failure.")
    note = paragraph("In order of the failures that their faults stand for.")
    return note + table(("model", "site", "faults", "SDC or hang"), [
        (r["model"], r["site"], f"{r['faults']:,}", f"{r['failures']:,}")
        for r in result["registers"]
    ], numeric_from=2)  # fmt: skip


def _examples(result: Mapping[str, Any]) -> str:
    name = result["name"]
    note = paragraph(
        f"<span class=mono>bankside inject {e(name)}.yaml --replay ID --waves --out "
        f"waves</span> repeats one on the RTL and records it beside the fault-free run."
    )
    rows = [
        [str(r["id"]), r["model"], r["class"], r["site"], *(str(r[k]) for k in _PLACE),
         r.get("waves", "")] for r in result["examples"]
    ]  # fmt: skip
    listed = table(("ID", "model", "class", "site", *_PLACE, "waveform"), rows, numeric_from=4)
    for r in result["examples"]:
        if shown := r.get("waves"):
            listed = listed.replace(f">{e(shown)}<", f'><a href="{e(shown)}">VCD</a><')
    return note + listed


def _strata(result: Mapping[str, Any]) -> str:
    rows = [
        (r["model"], r["block"], r["role"], r["phase"], f"{r['population']:,}",
         f"{r['faults']:,}{' (all)' if r['exhaustive'] else ''}", r["avf"]["text"])
        for r in result["strata"][:_STRATA]
    ]  # fmt: skip
    more = len(result["strata"]) - len(rows)
    return table(
        ("model", "block", "role", "phase", "possible faults", "faults", "AVF"),
        rows,
        numeric_from=4,
    ) + (paragraph(f"{more} more in inject.json.") if more > 0 else "")


def _definitions(result: Mapping[str, Any]) -> str:
    return paragraph("In this order, the first that holds.") + table(
        ("class", "when"), list(result["definitions"].items()), numeric_from=2
    )


def _method(result: Mapping[str, Any]) -> str:
    what, sampling = result["description"], result["description"]["sampling"]
    provenance = result["provenance"]
    told = (
        f"Strata are block x role x phase of each model. A pilot of {sampling['pilot']} faults "
        f"each, then Neyman allocation; strata of up to {sampling['exhaustive']} faults are tried "
        f"completely. Intervals: Wilson, {sampling['level']:.0%}; without failures the exact upper "
        "bound. Verdicts rest on exact bounds with the error shared among all of them. The results "
        "hold for this program and its data only."
    )
    roles = ", ".join(f"{role}: {patterns}" for role, patterns in what["blocks"]["roles"].items())
    facts = [
        ("fault models", ", ".join(what["models"])), ("roles by pattern", roles or "none"),
        ("campaign", result["campaign"]), ("revision", str(provenance["git_revision"])),
        ("bankside", str(provenance["bankside"])),
    ]  # fmt: skip
    return paragraph(e(told)) + table(("", ""), facts, numeric_from=2)


def overview(result: Mapping[str, Any]) -> str:
    """Page of several designs: one row each, with a link to its own page."""
    designs, level = result["designs"], next(iter(result["designs"].values()))["level"]
    rows = []
    for name, one in designs.items():
        verdicts = {v["metric"]: f"{v['verdict']}: {v['text']}" for v in one["verdicts"][:-1]}
        for model in one["models"]:
            cells = verdicts if model is one["models"][0] else {}
            rows.append((name, model["model"], f"{model['bits']:,}", f"{model['faults']:,}",
                         model["avf"]["text"], *(cells.get(m, "") for m in _METRICS)))  # fmt: skip
    header = ("design", "model", "bits", "faults", f"AVF ({level:.0%})", *_METRICS)
    listed = table(header, rows, numeric_from=2)
    for name in designs:
        listed = listed.replace(
            f"<td>{e(name)}</td>", f'<td><a href="{e(name)}/{PAGE}">{e(name)}</a></td>'
        )
    plans = "".join(_plan(one["plan"]).replace("<h2>", f"<h2>{e(name)}: ", 1)
                    for name, one in designs.items() if "plan" in one)  # fmt: skip
    return page(
        f"soft errors {result['name']}",
        f"<h1>Soft errors: {e(result['name'])}</h1><p class=sub>{len(designs)} designs, "
        f"{result['injections']:,} faults, {result['referee_faults']:,} of them repeated on the "
        f"Verilated RTL with equal outcome.</p>" + section("Designs", listed) + plans,
    )
