"""The HTML report of a run: one self-contained page, made from the files that the run wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bankside.errors import ConfigError
from bankside.sim import npu_run_page, plots
from bankside.sim.html import card, e, page, paragraph, section, table
from bankside.sim.report_files import CALLS, PAGE, RESULT, TIMELINE
from bankside.units import format_si

_NOT_MODELLED = """
The delay of the buffer chip between host and DRAM (registering clock driver, data buffers).

Several ranks on one channel: switching between them, and the command bus that they share. Here one
rank has its bus to itself.

Host software, PCIe, and the memory controller's other traffic. The host always has its data ready
and always takes results at once.

ECC. Bank units see data before any rank-level correction could.

Whether the logic reaches its clock. The bank units take one step per tCCD_L, the rank unit one per
burst; nothing was synthesised for a DRAM process.

Power, heat, and the current that opening many banks at once draws, beyond what tRRD and tFAW say.

The rest of the model (projections, feed-forward, sampling): it runs in numpy on the host and takes
no cycles here.

Refresh between programs: it is counted from the start of each program, so a call that is shorter
than tREFI meets none. The full-machine study repeats kernels until refresh has its average share.
"""
NOT_MODELLED = tuple(" ".join(text.split()) for text in _NOT_MODELLED.strip().split("\n\n"))



def load(path: Path) -> tuple[Path, dict]:
    """(folder, result) of `result.json` or of the folder that holds it. ConfigError otherwise."""
    file = path / RESULT if path.is_dir() else path
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read: {error.strerror}; give the result of `bankside run`"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{file}: not JSON ({error}); run `bankside run` again") from error
    if not isinstance(result, dict) or result.get("kind") != "run":
        raise ConfigError(f"{file}: not the result of `bankside run`; give its {RESULT}")
    return file.parent, result


def _load_part(folder: Path, name: str) -> dict | None:
    file = folder / name
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: not JSON ({error}); run `bankside run` again") from error


def render(folder: Path, result: Mapping) -> str:
    """The page, from `result` and the other files of the run in `folder`."""
    if result.get("engine") == "npu":
        return npu_run_page.render(folder, result)
    calls, timeline = _load_part(folder, CALLS), _load_part(folder, TIMELINE)
    try:
        parts = [
            _head(result),
            _verdicts(result),
            _text(result),
            _stalls(result),
            _calls(result, calls) if calls else "",
            _timeline(timeline) if timeline else "",
            _bandwidth(result),
            _prefill(result["prefill"]) if result.get("prefill") else "",
            _machine(result["full_machine"]) if result.get("full_machine") else "",
            _limits(),
            _files(result),
            _provenance(result),
        ]
    except (KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"{folder / RESULT}: {type(error).__name__} at {error}; it was written by another "
            "version or changed by hand; run `bankside run` again"
        ) from error
    return page(f"bankside: {result['name']}", "\n".join(part for part in parts if part))


# --- sections ----------------------------------------------------------------------------------


def _head(result: Mapping) -> str:
    facts, shape = result["machine_facts"], result["model_shape"]
    return (
        f"<header><h1>{e(result['name'])}</h1>"
        f"<p class=sub>A language model ({e(result['model'])}: {shape['layers']} layers, "
        f"{shape['query_heads']} query and {shape['kv_heads']} key/value heads of "
        f"{shape['head_dim']}) writes text. Its decode attention runs beside the banks of one "
        f"DRAM rank ({e(result['machine'])}: {e(facts['standard'])}, {facts['chips']} chips of "
        f"{facts['banks']} banks, {facts['query_lanes']} query lane"
        f"{'s' if facts['query_lanes'] > 1 else ''} per bank unit, N_hc = {facts['nhc']}). "
        f"Executions: {e(', '.join(result['executions']))}.</p></header>"
    )


def _agreement(result: Mapping, kind: str, title: str, unit: str) -> str:
    count, compared = result[f"{kind}_mismatches"], result[f"{kind}s_compared"]
    if count is None:
        return card("grey", title, "not compared", "this run did not include both executions")
    if count:
        return card("bad", title, f"{count:,} differ", f"of {compared:,} programs compared")
    return card("good", title, "equal", f"{compared:,} programs, every {unit}")


def _verdicts(result: Mapping) -> str:
    seconds = result["cycles"] / (result["clock_mhz"] * 1e6)
    source = "rtl" if result["rtl_cycles"] is not None else "timing model"
    cards = [
        _agreement(result, "bit", "RTL against golden model", "bit"),
        _agreement(result, "cycle", "RTL against timing model", "command, stall and cycle"),
        card(
            "blue",
            "Attention",
            f"{result['attention_calls']:,} calls",
            f"{result['cycles']:,} memory-clock cycles at {result['clock_mhz']:,.0f} MHz "
            f"({format_si(seconds, 's')}), counted by {source}",
        ),
        card(
            "blue",
            "DRAM utilisation",
            f"{100 * result['utilisation']:.1f} %",
            "MAC columns x tCCD_L / cycles, over all attention calls",
        ),
    ]
    study = result.get("full_machine")
    if study:
        best = max((p for p in study["points"] if p["variant"] == "base"), key=lambda p: p["tbps"])
        cards.append(
            card(
                "blue",
                "Full machine (timing model)",
                f"{best['tbps']:.1f} TB/s",
                f"{100 * best['utilisation']:.0f} % of {best['peak_tbps']:.1f} TB/s, "
                f"{best['title']} at {best['context']:,} tokens",
            )
        )
    differences = "".join(f"<li>{e(text)}</li>" for text in result["differences"])
    if differences:
        differences = f"<p>First differences:</p><ul class=mono>{differences}</ul>"
    return f"<div class=cards>{''.join(cards)}</div>{differences}"


def _text(result: Mapping) -> str:
    part = result.get("prefill")
    over_prompt = f"Its attention ran on {e(part['machine'])}. " if part else ""
    prompt = result["prompt"]
    shown = prompt if isinstance(prompt, str) else f"tokens {prompt} "
    text = result["text"] or f"tokens {result['tokens']}"
    return section(
        "Generated text",
        f"<pre class=text><span class=prompt>{e(shown)}</span><b>{e(text)}</b></pre>",
        paragraph(
            "Grey: the prompt. Its keys and values were computed in numpy and written into the "
            f"DRAM ({result['append_cycles']:,} cycles, not part of the figures below). "
            f"{over_prompt}Black: "
            "every further token was chosen from attention results that the engine computed."
        ),
    )


def _stalls(result: Mapping) -> str:
    total = sum(result["stalls"].values())
    return section(
        "Where the cycles went",
        plots.stall_bars(result["stalls"]),
        paragraph(
            f"Each of the {total:,} cycles has exactly one reason, seen from the engine that "
            "drives rows and bank units. The reasons sum to the cycles of all attention calls."
        ),
    )


def _by_context(calls: Mapping) -> tuple[list[int], dict[str, list[float]]]:
    """Contexts in rising order and the mean cycles of each reason over the calls of a context."""
    contexts = sorted(set(calls["tokens"]))
    groups = {c: [i for i, t in enumerate(calls["tokens"]) if t == c] for c in contexts}
    means = {
        reason: [sum(values[i] for i in groups[c]) / len(groups[c]) for c in contexts]
        for reason, values in calls["stalls"].items()
    }
    return contexts, means


def _calls(result: Mapping, calls: Mapping) -> str:
    contexts, means = _by_context(calls)
    facts = result["machine_facts"]
    low, high = min(calls["cycles"]), max(calls["cycles"])
    count = -(-contexts[-1] // facts["row_tokens"])
    rows = "one row" if count == 1 else f"up to {count} rows"
    short = ""
    if count == 1:
        short = (
            "With contexts as short as these, most of the time is the latency of a pipeline that "
            "is filled and emptied once, as the timeline of a call shows. "
        )
    return section(
        "Cycles per attention call",
        plots.cycles_per_call(contexts, means),
        paragraph(
            f"One call takes {low:,} to {high:,} cycles. One row of all banks holds "
            f"{facts['row_tokens']:,} tokens of a head group, so that {rows} of keys and as many "
            f"of values are opened. {short}Steps appear where another token slot of every bank is "
            "read."
        ),
    )


def _timeline(document: Mapping) -> str:
    call = document["otherData"]["calls"][0]
    return section(
        "One attention call, cycle by cycle",
        plots.call_timeline(document),
        paragraph(
            f"Layer {call['layer']} at {call['tokens']:,} tokens. Upper lanes: the four engines "
            "with their macro-commands. Lower lanes: every DRAM command of the call, in the "
            "colour of its kind. The newest key and value are written first; then query in, "
            "scores, softmax, context, normalised result out."
        ),
    )


def _bandwidth(result: Mapping) -> str:
    return section(
        "Bandwidth against the peak",
        plots.bandwidth_bars(result["bandwidth"]),
        paragraph(
            "All banks work in lock-step, so a slot that holds a token in only some banks is read "
            "in all of them. The bus carries queries, partial scores, probabilities, partial "
            "results and the newest key and value; it never carries the cache."
        ),
    )


def _prefill(part: Mapping) -> str:
    """Attention over the prompt, where the array computed it."""
    facts = part["machine_facts"]
    return section(
        "Attention over the prompt on the array",
        paragraph(
            f"{part['attention_calls']:,} calls on {e(part['machine'])}, a spatial array of "
            f"{facts['rows']} x {facts['columns']} PEs, schedule {e(part['binding'])}: "
            f"{part['cycles']:,} cycles at {part['clock_mhz']:,.0f} MHz. The 2D array is busy in "
            f"{100 * part['utilisation']:.1f} % of them."
        ),
        f"<div class=cards>{_agreement(part, 'bit', 'RTL against golden model', 'bit')}"
        f"{_agreement(part, 'cycle', 'RTL against timing model', 'pass, command and cycle')}</div>",
        plots.stall_bars(
            part["stalls"], plots.ARRAY_REASONS, "array-clock cycles of attention over the prompt"
        ),
        paragraph("Each cycle has one reason, seen from the sequencer of the array."),
    )


def _machine(study: Mapping) -> str:
    points = study["points"]
    peak = points[0]["peak_tbps"]
    base = [p for p in points if p["variant"] == "base"]
    # The base variant is measured once more among the variants.
    base = list({(p["model"], p["context"]): p for p in base}.values())
    parts = [
        paragraph(
            f"The same kernel, by the timing model, at the size of the L3 paper: "
            f"{study['ranks']} ranks of DDR4-3200. {_anchor(study)}"
        ),
        plots.machine_curve(points, peak, study["paper_peak_tbps"]),
        _machine_table(study, base),
        plots.machine_stalls(points),
    ]
    context = study["variant_context"]
    at_context = [p for p in points if p["context"] == context]
    varied = list({(p["model"], p["variant"]): p for p in at_context}.values())
    if len({p["variant"] for p in varied}) > 1:
        parts += [
            f"<h3>Where the missing bandwidth is, at {context:,} tokens</h3>",
            plots.variant_bars(varied, study["variants"], peak),
            _refresh_note(varied, study["refresh_share"]),
        ]
    assumptions = "".join(f"<li>{e(text)}</li>" for text in study["assumptions"])
    return section("The full machine", *parts, f"<h3>Assumptions</h3><ul>{assumptions}</ul>")


def _anchor(study: Mapping) -> str:
    anchor = study.get("anchor")
    if not anchor:
        return "None of these kernels was run on the RTL in this run."
    verdict = (
        "the same number of cycles, command by command"
        if anchor["rtl_cycles"] == anchor["timing_cycles"]
        else f"but {anchor['rtl_cycles'] or 0:,} on the RTL: they differ"
    )
    return (
        f"To tie it to the RTL: {anchor['kernels']} kernels of {e(anchor['title'])} at "
        f"{anchor['context']:,} tokens were also run on the RTL: {anchor['timing_cycles'] or 0:,} "
        f"cycles by the timing model, {verdict}."
    )


def _machine_table(study: Mapping, points: Sequence[Mapping]) -> str:
    """TB/s by model and context, then what one rank does for each model."""
    contexts = sorted({p["context"] for p in points})
    models: dict[str, dict[int, Mapping]] = {}
    for p in points:
        models.setdefault(p["title"], {})[p["context"]] = p
    reached, kernels, ranks = [], [], study["ranks"] // study["ranksets"]
    for title, by_context in models.items():
        first, last = by_context[contexts[0]], by_context[contexts[-1]]
        name = f"{title} ({first['kind']})"
        shown = [by_context[c] for c in contexts]
        shares = [f"{p['tbps']:.2f} ({100 * p['utilisation']:.0f} %)" for p in shown]
        reached.append([name, *shares])
        kernels.append(
            [
                name,
                str(first["heads"]),
                str(first["nhc"]),
                f"{first['kernel_cycles']:,.0f}",
                f"{last['kernel_cycles']:,.0f}",
                f"{first['groups']} on {ranks} ranks: {100 * first['balance']:.0f} %",
            ]
        )
    header = (
        "one rank", "KV heads per kernel", "N_hc", f"cycles at {contexts[0]:,}",
        f"cycles at {contexts[-1]:,}", "balance: groups of one layer",
    )  # fmt: skip
    title = "TB/s (share of the peak) at"
    return table((title, *(f"{c:,}" for c in contexts)), reached) + table(header, kernels)


def _refresh_note(points: Sequence[Mapping], refresh_share: float) -> str:
    """What refresh and the activation window really cost, from pairs of variants."""
    cycles = {(p["model"], p["variant"]): p["kernel_cycles"] for p in points}
    model, title = points[0]["model"], points[0]["title"]
    on, off = cycles.get((model, "base")), cycles.get((model, "no_refresh"))
    text = ""
    if on and off:
        cost = 1 - off / on
        text = (
            f"Refresh costs {100 * cost:.1f} % of the time of {e(title)}; the refresh commands "
            f"alone (tRFC / tREFI) would be {100 * refresh_share:.1f} %. "
        )
        if cost > 1.2 * refresh_share:
            text += (
                "The rest is time in which a refresh is due but the rank first ends the transfers "
                "that it has begun, and then fills its pipeline again. "
            )
    one, waived = cycles.get((model, "all")), cycles.get((model, "all_waived"))
    if one and waived and abs(one - waived) < 1e-3 * one:
        text += (
            "With one command that opens all banks, tFAW costs nothing even where it counts every "
            "bank: the row stays open longer than the window lasts. Whether a chip can supply the "
            "current for that is another question."
        )
    return paragraph(text) if text else ""


def _limits() -> str:
    items = "".join(f"<li>{e(text)}</li>" for text in NOT_MODELLED)
    return section("What is not modelled", f"<ul>{items}</ul>")


_FILE_NOTES = {
    RESULT: "all figures of this page",
    CALLS: "cycles and stall reasons of every attention call",
    TIMELINE: "Perfetto timeline of the last token: open it at ui.perfetto.dev",
    PAGE: "this page",
}


def _files(result: Mapping) -> str:
    rows = []
    for name in result["files"].values():
        note = _FILE_NOTES.get(name, "")
        if name.endswith(".vcd"):
            waves = result["waves"]
            note = (
                f"waveform of one attention call at {waves['tokens']} tokens on "
                f"{waves['machine']}, cycles {waves['first_cycle']} to {waves['last_cycle']}"
            )
            if waves["machine"] != result["machine"]:
                note += "; a small machine, because tracing a full rank takes minutes to compile"
        elif name.endswith(".gtkw"):
            note = "save file for GTKWave with the signals in groups: gtkwave " + name
        rows.append((name, note))
    return section("Files of this run", table(("file", "what it is"), rows, 9))


def _provenance(result: Mapping) -> str:
    data = result["provenance"]
    rows = [(k, v) for k, v in data.items() if k not in ("tools", "description")]
    rows += list(data["tools"].items())
    shown = [(str(k), "-" if v is None else str(v)) for k, v in rows]
    description = json.dumps(data["description"], indent=1)
    return section(
        "Provenance",
        table(("", ""), shown, 9),
        f"<details><summary>run description</summary><pre>{e(description)}</pre></details>",
    )
