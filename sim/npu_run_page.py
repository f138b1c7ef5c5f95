"""The HTML report of a run on the `npu` engine, made from the files that the run wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bankside.errors import ConfigError
from bankside.sim import plots
from bankside.sim.html import card, e, page, paragraph, section, table
from bankside.sim.report_files import CALLS, PAGE, RESULT, TIMELINE
from bankside.units import format_si

REASONS: dict[str, tuple[str, str]] = {
    "mac": ("#1f5fa8", "multiplications"),
    "weights": ("#7fb2e5", "waiting for weights"),
    "output": ("#2a9d8f", "waiting for results to be written"),
    "setup": ("#9aa7b2", "operation begins or ends"),
    "elementwise": ("#e9c46a", "element by element"),
    "softmax": ("#f4a261", "softmax"),
    "norm": ("#e76f51", "norm"),
    "copy": ("#b5838d", "copies, transposition"),
    "dma": ("#6d597a", "waiting for a transfer"),
    "fetch": ("#ced4da", "waiting for commands"),
    "control": ("#adb5bd", "control"),
}
"""Stall reasons of docs/npu.md section 8: colour, meaning."""
_COLOURS = {
    "DMA": "#6d597a", "CONV": "#1f5fa8", "DEPTHWISE": "#4c8fd6", "MATMUL": "#264653",
    "POOL": "#2a9d8f", "ELEMENTWISE": "#e9c46a", "SOFTMAX": "#f4a261", "NORM": "#e76f51",
    "COPY": "#b5838d",
}  # fmt: skip
_WIDTH, _LANE = 1000, 34
_NOT_MODELLED = (
    "Whether the logic reaches its clock: nothing was placed or routed.",
    "A DRAM behind the ports: reads take the latency of the machine's description.",
    "Host software: choosing the next byte, and starting a program, takes no cycles here.",
    "Power and heat.",
)


def render(folder: Path, result: Mapping) -> str:
    """The page, from `result` and the other files of the run in `folder`."""
    timeline, calls = _part(folder, TIMELINE), _part(folder, CALLS)
    generates = result.get("task") == "generate"
    try:
        parts = [
            _head(result),
            _verdicts(result),
            *(_text(result) if generates else _images(result)),
            _stalls(result),
            _timeline(timeline, result) if timeline else "",
            _calls(calls) if calls else "",
            section("What is not modelled", _list(_NOT_MODELLED)),
            _files(result),
            _provenance(result),
        ]
    except (KeyError, TypeError, IndexError) as error:
        raise ConfigError(
            f"{folder / RESULT}: {type(error).__name__} at {error}; it was written by another "
            "version or changed by hand; run `bankside run` again"
        ) from error
    return page(f"bankside: {result['name']}", "\n".join(part for part in parts if part))


def _part(folder: Path, name: str) -> dict | None:
    file = folder / name
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: not JSON ({error}); run `bankside run` again") from error


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{e(text)}</li>' for text in items)}</ul>"


# --- sections -----------------------------------------------------------------------------------


def _head(result: Mapping) -> str:
    facts = result["machine_facts"]
    if result["task"] == "generate":
        shape = result["model_shape"]
        what = (
            f"A language model ({result['model']}: {shape['layers']} layers, {shape['hidden']} "
            f"channels, {shape['query_heads']} heads, in {result['format'].upper()}) writes text"
        )
    else:
        names = ", ".join(layer["name"] for layer in result["layers"])
        what = f"A network ({result['model']}: {names}) classifies images"
    return (
        f"<header><h1>{e(result['name'])}</h1><p class=sub>{e(what)}. Every operation runs on an "
        f"int8 engine ({e(result['machine'])}: {facts['macs']} multiplications per cycle, profile "
        f"{e(facts['profile'])}, {facts['shared_bytes'] // 1024} KiB shared buffer, "
        f"{facts['weight_bytes'] // 1024} KiB weight buffer). Executions: "
        f"{e(', '.join(result['executions']))}.</p></header>"
    )


def _agreement(result: Mapping, kind: str, title: str, unit: str) -> str:
    count, compared = result[f"{kind}_mismatches"], result[f"{kind}s_compared"]
    if count is None:
        return card("grey", title, "not compared", "this run did not include both executions")
    if count:
        return card("bad", title, f"{count:,} differ", f"of {compared:,} programs compared")
    return card("good", title, "equal", f"{compared:,} programs, every {unit}")


def _reference(result: Mapping) -> str:
    wrong, compared = result["reference_mismatches"], result["reference_compared"]
    what = "predictions" if result["task"] == "generate" else "images"
    if wrong:
        return card("bad", "Engine against numpy", f"{wrong:,} differ", f"of {compared:,} {what}")
    note = f"all scores of {compared:,} {what}, integer model in numpy"
    return card("good", "Engine against numpy", "equal", note)


def _verdicts(result: Mapping) -> str:
    generates = result["task"] == "generate"
    cycles = result["cycles_per_token" if generates else "cycles_per_image"]
    source = "rtl" if result["rtl_cycles"] is not None else "timing model"
    time = format_si(cycles / (result["clock_mhz"] * 1e6), "s")
    what = "token" if generates else "image"
    cards = [
        _agreement(result, "bit", "RTL against golden model", "bit"),
        _agreement(
            result, "cycle", "RTL against timing model", "transfer, operation, stall and cycle"
        ),
        _reference(result),
        card("blue", f"Cycles per {what}", f"{cycles:,.0f}", f"{time}, counted by {source}"),
        card(
            "blue", "Use of the MACs", f"{100 * result['utilisation']:.1f} %",
            f"products / ({result['machine_facts']['macs']} x cycles), {result['stalls_of']}",
        ),
        _quality(result),
    ]  # fmt: skip
    differences = ""
    if result["differences"]:
        items = "".join(f"<li>{e(text)}</li>" for text in result["differences"])
        differences = f"<p>First differences:</p><ul class=mono>{items}</ul>"
    return f"<div class=cards>{''.join(cards)}</div>{differences}"


def _quality(result: Mapping) -> str:
    if result["task"] == "generate":
        bits = result["bits_per_byte"]
        note = f"float {bits['float']:.3f}; {bits['predicted_bytes']:,} held-out bytes"
        return card("blue", "Bits per byte", f"{bits['quantised']:.3f}", note)
    note = f"float {100 * result['float_accuracy']:.1f} %; {result['images']} held-out images"
    return card("blue", "Accuracy", f"{100 * result['accuracy']:.1f} %", note)


def _text(result: Mapping) -> Iterator[str]:
    yield section(
        "Generated text",
        f"<pre class=text><span class=prompt>{e(result['prompt'])}</span>"
        f"<b>{e(result['text'])}</b></pre>",
        paragraph(
            "Grey: the prompt. Black: every byte was chosen from scores that the engine computed, "
            "from the row of the embedding table to the last projection."
        ),
    )
    bounds, facts = result["bounds"], result["machine_facts"]
    measured = result["cycles_per_token"]
    streamed = bounds["weight_bytes_per_token"]
    rows = [
        ("products / multiplications per cycle", f"{bounds['macs']:,.0f}"),
        (f"{streamed:,} bytes of weights / {facts['bus_bytes']} bytes per cycle",
         f"{bounds['weights']:,.0f}"),
        ("measured", f"{measured:,.0f}"),
    ]  # fmt: skip
    yield section(
        "Cycles per token against lower bounds",
        table(("", "cycles"), rows),
        paragraph(
            f"A token multiplies every weight once. The prompt is read up to 16 tokens at a time: "
            f"{result['prompt_cycles']:,} cycles, {100 * result['prompt_utilisation']:.1f} % of "
            "the MACs. Softmax, norms, rotation and transposition are not products; they run in "
            "the vector unit, and nothing is multiplied meanwhile."
        ),
    )


def _images(result: Mapping) -> Iterator[str]:
    training = result["training"]
    shown = zip(result["pixels"], result["answers"], result["labels"], strict=True)
    pictures = "".join(_picture(*each) for each in shown)
    yield section(
        "Images and answers",
        f"<div style='display:flex;flex-wrap:wrap;gap:10px'>{pictures}</div>",
        paragraph(
            f"8 x 8 pixels, never trained on; of all {training['held_out_images']} such images the "
            f"float network gets {100 * training['held_out_accuracy']:.1f} % right. "
            f"{100 * result['same_as_float']:.0f} % of the answers "
            "are those of the float network. Least cycles for the products of an image: "
            f"{result['bounds']['macs']:,.0f}; for the transfers: "
            f"{result['bounds']['transfers']:,.0f}."
        ),
    )
    yield _layers(result["layers"])


def _layers(layers: Sequence[Mapping]) -> str:
    """What the compiler chose and expects, layer by layer."""
    header = ("layer", "mode", "positions of a block", "cycles, expected", "products / MACs",
              "bytes / port")  # fmt: skip
    rows = [
        (
            f"{layer['name']} ({layer['kind']})", layer["mode"] or "-", str(layer["block"] or "-"),
            f"{layer['cycles']:,}", f"{layer['macs_bound']:,}", f"{layer['bytes_bound']:,}",
        )
        for layer in layers
    ]  # fmt: skip
    return section("Layers", table(header, rows))


def _picture(pixels: Sequence[Sequence[int]], answer: int, label: int) -> str:
    cells = "".join(
        f"<rect x={x} y={y} width=1.02 height=1.02 fill=rgb({g},{g},{g}) />"
        for y, row in enumerate(pixels)
        for x, g in ((x, 255 - min(value * 16, 255)) for x, value in enumerate(row))
    )
    right = answer == label
    note = f"{answer}" if right else f"{answer}, not {label}"
    colour = "#14694a" if right else "#c0392b"
    return (
        f"<figure style='margin:0;text-align:center;width:58px'><svg viewBox='0 0 8 8'>{cells}"
        f"</svg><figcaption style='color:{colour};font-weight:650'>{note}</figcaption></figure>"
    )


def _stalls(result: Mapping) -> str:
    total = sum(result["stalls"].values())
    shown = {reason: count for reason, count in result["stalls"].items() if count}
    return section(
        "Where the cycles went",
        plots.stall_bars(shown, REASONS, f"cycles, {result['stalls_of']}"),
        paragraph(
            f"Each of the {total:,} cycles has exactly one reason; they come from the counters of "
            "the engine."
        ),
    )


def _timeline(document: Mapping, result: Mapping) -> str:
    total = document["otherData"]["cycles"]
    events = [event for event in document["traceEvents"] if event["ph"] == "X"]
    lanes = {"kernel": 0, "dma": 1}
    bars = []
    for event in events:
        start, cycles = event["args"]["start_cycle"], event["args"]["cycles"]
        x, width = _WIDTH * start / total, max(_WIDTH * cycles / total, 0.6)
        y = lanes[event["cat"]] * _LANE + 16
        colour = _COLOURS.get(event["name"], "#888")
        bars.append(
            f"<rect x={x:.2f} y={y} width={width:.2f} height={_LANE - 12} fill={colour} "
            f"fill-opacity=.85><title>{event['name']}: {start} + {cycles}</title></rect>"
        )
    labels = "".join(
        f"<text x=0 y={row * _LANE + 12} font-size=11 fill=#5c6b79>{name}</text>"
        for name, row in lanes.items()
    )
    used = dict.fromkeys(event["name"] for event in events)
    legend = "".join(
        f"<span style='margin-right:14px'><span style='display:inline-block;width:11px;height:11px;"
        f"background:{_COLOURS.get(name, '#888')}'></span> {name}</span>"
        for name in used
    )
    what = "token" if result["task"] == "generate" else "image"
    return section(
        f"The last {what}, cycle by cycle",
        f"<svg viewBox='0 0 {_WIDTH} {2 * _LANE + 20}'>{labels}{''.join(bars)}</svg>",
        paragraph(legend),
        paragraph(
            f"0 to {total:,} cycles. Transfers (lower lane) bring weights while the engine "
            "computes; every bar tells its cycles when pointed at."
        ),
    )


def _calls(calls: Mapping) -> str:
    kinds = dict.fromkeys(calls["what"])
    rows = []
    for kind in kinds:
        cycles = [c for c, what in zip(calls["cycles"], calls["what"], strict=True) if what == kind]
        rows.append(
            (kind, f"{len(cycles):,}", f"{sum(cycles):,}", f"{min(cycles):,}", f"{max(cycles):,}")
        )
    return section("Programs", table(("kind", "programs", "cycles", "shortest", "longest"), rows))


_NOTES = {
    RESULT: "all figures of this page",
    CALLS: "cycles and stall reasons of every program",
    TIMELINE: "Perfetto timeline of the last program: open it at ui.perfetto.dev",
    PAGE: "this page",
}


def _files(result: Mapping) -> str:
    rows = [(name, _NOTES.get(name, "")) for name in result["files"].values()]
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
