"""The HTML report of a run: one self-contained page, made from the files that the run wrote."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bankside.errors import ConfigError
from bankside.sim import plots
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
    return _page(f"bankside: {result['name']}", "\n".join(part for part in parts if part))


# --- building blocks ---------------------------------------------------------------------------


def _e(value: object) -> str:
    return html.escape(str(value))


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{_e(title)}</h2>{''.join(parts)}</section>"


def _p(text: str) -> str:
    """A paragraph; `text` is HTML."""
    return f"<p>{text}</p>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], numeric_from: int = 1) -> str:
    """A table of plain text; columns from `numeric_from` on are right-aligned."""

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if i >= numeric_from else ''}>{_e(v)}</{tag}>"
            for i, v in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f"<div class=scroll><table><thead><tr>{cells('th', header)}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _card(state: str, title: str, value: str, note: str) -> str:
    return (
        f'<div class="card {state}"><div class=t>{_e(title)}</div><div class=v>{_e(value)}</div>'
        f"<div class=s>{_e(note)}</div></div>"
    )


# --- sections ----------------------------------------------------------------------------------


def _head(result: Mapping) -> str:
    facts, shape = result["machine_facts"], result["model_shape"]
    return (
        f"<header><h1>{_e(result['name'])}</h1>"
        f"<p class=sub>A language model ({_e(result['model'])}: {shape['layers']} layers, "
        f"{shape['query_heads']} query and {shape['kv_heads']} key/value heads of "
        f"{shape['head_dim']}) writes text. Its decode attention runs beside the banks of one "
        f"DRAM rank ({_e(result['machine'])}: {_e(facts['standard'])}, {facts['chips']} chips of "
        f"{facts['banks']} banks, {facts['query_lanes']} query lane"
        f"{'s' if facts['query_lanes'] > 1 else ''} per bank unit, N_hc = {facts['nhc']}). "
        f"Executions: {_e(', '.join(result['executions']))}.</p></header>"
    )


def _agreement(result: Mapping, kind: str, title: str, unit: str) -> str:
    count, compared = result[f"{kind}_mismatches"], result[f"{kind}s_compared"]
    if count is None:
        return _card("grey", title, "not compared", "this run did not include both executions")
    if count:
        return _card("bad", title, f"{count:,} differ", f"of {compared:,} programs compared")
    return _card("good", title, "equal", f"{compared:,} programs, every {unit}")


def _verdicts(result: Mapping) -> str:
    seconds = result["cycles"] / (result["clock_mhz"] * 1e6)
    source = "rtl" if result["rtl_cycles"] is not None else "timing model"
    cards = [
        _agreement(result, "bit", "RTL against golden model", "bit"),
        _agreement(result, "cycle", "RTL against timing model", "command, stall and cycle"),
        _card(
            "blue",
            "Attention",
            f"{result['attention_calls']:,} calls",
            f"{result['cycles']:,} memory-clock cycles at {result['clock_mhz']:,.0f} MHz "
            f"({format_si(seconds, 's')}), counted by {source}",
        ),
        _card(
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
            _card(
                "blue",
                "Full machine (timing model)",
                f"{best['tbps']:.1f} TB/s",
                f"{100 * best['utilisation']:.0f} % of {best['peak_tbps']:.1f} TB/s, "
                f"{best['title']} at {best['context']:,} tokens",
            )
        )
    differences = "".join(f"<li>{_e(text)}</li>" for text in result["differences"])
    if differences:
        differences = f"<p>First differences:</p><ul class=mono>{differences}</ul>"
    return f"<div class=cards>{''.join(cards)}</div>{differences}"


def _text(result: Mapping) -> str:
    prompt = result["prompt"]
    shown = prompt if isinstance(prompt, str) else f"tokens {prompt} "
    text = result["text"] or f"tokens {result['tokens']}"
    return _section(
        "Generated text",
        f"<pre class=text><span class=prompt>{_e(shown)}</span><b>{_e(text)}</b></pre>",
        _p(
            "Grey: the prompt. Its keys and values were computed in numpy and written into the "
            f"DRAM ({result['append_cycles']:,} cycles, not part of the figures below). Black: "
            "every further token was chosen from attention results that the engine computed."
        ),
    )


def _stalls(result: Mapping) -> str:
    total = sum(result["stalls"].values())
    return _section(
        "Where the cycles went",
        plots.stall_bars(result["stalls"]),
        _p(
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
    return _section(
        "Cycles per attention call",
        plots.cycles_per_call(contexts, means),
        _p(
            f"One call takes {low:,} to {high:,} cycles. One row of all banks holds "
            f"{facts['row_tokens']:,} tokens of a head group, so that {rows} of keys and as many "
            f"of values are opened. {short}Steps appear where another token slot of every bank is "
            "read."
        ),
    )


def _timeline(document: Mapping) -> str:
    call = document["otherData"]["calls"][0]
    return _section(
        "One attention call, cycle by cycle",
        plots.call_timeline(document),
        _p(
            f"Layer {call['layer']} at {call['tokens']:,} tokens. Upper lanes: the four engines "
            "with their macro-commands. Lower lanes: every DRAM command of the call, in the "
            "colour of its kind. The newest key and value are written first; then query in, "
            "scores, softmax, context, normalised result out."
        ),
    )


def _bandwidth(result: Mapping) -> str:
    return _section(
        "Bandwidth against the peak",
        plots.bandwidth_bars(result["bandwidth"]),
        _p(
            "All banks work in lock-step, so a slot that holds a token in only some banks is read "
            "in all of them. The bus carries queries, partial scores, probabilities, partial "
            "results and the newest key and value; it never carries the cache."
        ),
    )


def _machine(study: Mapping) -> str:
    points = study["points"]
    peak = points[0]["peak_tbps"]
    base = [p for p in points if p["variant"] == "base"]
    # The base variant is measured once more among the variants.
    base = list({(p["model"], p["context"]): p for p in base}.values())
    parts = [
        _p(
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
    assumptions = "".join(f"<li>{_e(text)}</li>" for text in study["assumptions"])
    return _section("The full machine", *parts, f"<h3>Assumptions</h3><ul>{assumptions}</ul>")


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
        f"To tie it to the RTL: {anchor['kernels']} kernels of {_e(anchor['title'])} at "
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
    return _table((title, *(f"{c:,}" for c in contexts)), reached) + _table(header, kernels)


def _refresh_note(points: Sequence[Mapping], refresh_share: float) -> str:
    """What refresh and the activation window really cost, from pairs of variants."""
    cycles = {(p["model"], p["variant"]): p["kernel_cycles"] for p in points}
    model, title = points[0]["model"], points[0]["title"]
    on, off = cycles.get((model, "base")), cycles.get((model, "no_refresh"))
    text = ""
    if on and off:
        cost = 1 - off / on
        text = (
            f"Refresh costs {100 * cost:.1f} % of the time of {_e(title)}; the refresh commands "
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
    return _p(text) if text else ""


def _limits() -> str:
    items = "".join(f"<li>{_e(text)}</li>" for text in NOT_MODELLED)
    return _section("What is not modelled", f"<ul>{items}</ul>")


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
    return _section("Files of this run", _table(("file", "what it is"), rows, 9))


def _provenance(result: Mapping) -> str:
    data = result["provenance"]
    rows = [(k, v) for k, v in data.items() if k not in ("tools", "description")]
    rows += list(data["tools"].items())
    shown = [(str(k), "-" if v is None else str(v)) for k, v in rows]
    description = json.dumps(data["description"], indent=1)
    return _section(
        "Provenance",
        _table(("", ""), shown, 9),
        f"<details><summary>run description</summary><pre>{_e(description)}</pre></details>",
    )


_STYLE = """
:root{--ink:#26323d;--soft:#5c6b79;--line:#dfe5ea;--paper:#fff;--back:#f3f6f8}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);
font:15px/1.55 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1060px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:27px;margin:0 0 6px;letter-spacing:-.2px}
h2{font-size:19px;margin:0 0 12px}h3{font-size:16px;margin:26px 0 8px}
.sub{color:var(--soft);margin:0 0 18px;max-width:90ch}
section{background:var(--paper);border:1px solid var(--line);border-radius:10px;
padding:20px 24px;margin:18px 0}
p{max-width:95ch;margin:10px 0}
ul{padding-left:22px;max-width:100ch}li{margin:4px 0}
svg{width:100%;height:auto;display:block;margin:4px 0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(180px,1fr));gap:12px}
.card{background:var(--paper);border:1px solid var(--line);border-left:5px solid #9aa7b2;
border-radius:8px;padding:12px 14px}
.card .t{color:var(--soft);font-size:13px}.card .v{font-size:22px;font-weight:650;margin:2px 0}
.card .s{color:var(--soft);font-size:12.5px;line-height:1.4}
.good{border-left-color:#1b8a5a}.good .v{color:#14694a}.bad{border-left-color:#c0392b}
.bad .v{color:#c0392b}.blue{border-left-color:#1f5fa8}
pre{background:#f7f9fa;border:1px solid var(--line);border-radius:8px;padding:12px 14px;
overflow-x:auto;font:13.5px/1.5 ui-monospace,"DejaVu Sans Mono",monospace}
pre.text{white-space:pre-wrap;font-size:16px;line-height:1.6}.prompt{color:#8794a0}
.mono{font:13px/1.5 ui-monospace,"DejaVu Sans Mono",monospace}
.scroll{overflow-x:auto;margin:12px 0}
table{border-collapse:collapse;font-size:13.5px;width:100%}
th{text-align:left;color:var(--soft);font-weight:600;border-bottom:2px solid var(--line)}
th,td{padding:5px 10px;vertical-align:top}td{border-bottom:1px solid #eef1f4}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
summary{cursor:pointer;color:var(--soft)}
"""


def _page(title: str, body: str) -> str:
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{_e(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main>{body}</main></body></html>\n"
    )
