"""`bankside inject`: what soft errors do to a design, or to a language model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bankside.cli_support import common_options, emit, finish, progress
from bankside.errors import ConfigError

_ROWS = 40


@click.command("inject")
@click.argument("file", metavar="FILE.yaml", type=click.Path(path_type=Path))
@click.option("--store", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="SQLite file of outcomes; by default in the build folder.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True,
              help="Processes on this machine.")  # fmt: skip
@click.option("--dask", metavar="ADDRESS|FILE.json", help="Use the workers of a Dask scheduler.")
@click.option("--replay", type=click.IntRange(0), metavar="ID",
              help="Repeat one fault of the campaign on the referee.")  # fmt: skip
@click.option("--fault", metavar="JSON", help="Run this one fault instead, on lanes and referee.")
@click.option("--design", metavar="NAME", help="Only this one of several designs.")
@click.option("--quick", is_flag=True, help="Language models: few prompts, few faults.")
@click.option(
    "--waves",
    is_flag=True,
    help="Waveforms of the fault and of the fault-free run; with --out alone of some faults.",
)
@common_options
def command(
    file: Path, store: Path | None, workers: int, dask: str | None, replay: int | None,
    fault: str | None, design: str | None, quick: bool, waves: bool, as_json: bool,
    out: Path | None,
) -> None:  # fmt: skip
    """Inject faults as a YAML file says (see examples/inject_*.yaml, examples/llm_kv_cache.yaml).

    A campaign draws faults by block, role and phase, runs them in lanes, and repeats a random
    sample on the Verilated RTL; it continues where an interrupted one ended. Exit code 1: lanes and
    referee do not agree (then nothing is reported), or a safety target is missed.
    """
    kind = _kind(file)
    if kind != "campaign":
        _language_model(kind, file, quick, as_json, out)
        return
    if quick:
        raise ConfigError("--quick is for language models; a campaign has sampling.faults")
    if waves and replay is None and fault is None and out is None:
        raise ConfigError("--waves belongs to --replay, --fault, or a report in --out DIR")
    if replay is not None or fault is not None:
        from bankside.fault_injection.description import load_campaign
        from bankside.fault_injection.replay import replayed, replayed_text

        chosen = load_campaign(file, design)
        result = replayed(chosen, store, replay, fault, waves, out)
        emit(result, as_json=as_json, text=replayed_text(result), out=out, name="replay")
        finish(result["agree"])
        return
    result = _campaigns(file, design, store, (workers, dask), out, waves)
    shown = text if "designs" not in result else all_text
    emit(result, as_json=as_json, text=shown(result), out=out, name="inject")
    failed = any(v["verdict"] == "FAIL" for v in result["verdicts"])
    finish(not result["referee_mismatches"] and not failed)


def _kind(file: Path) -> str:
    from bankside.registry import nearest
    from bankside.strict_yaml import load_yaml

    data, locations = load_yaml(file)
    kinds = ("campaign", "llm_kv_cache", "llm_replay")
    kind = data.get("kind", kinds[0]) if isinstance(data, dict) else kinds[0]
    if kind not in kinds:
        raise ConfigError(
            f"{locations.where(('kind',))}: kind: is {kind!r}{nearest(str(kind), kinds)}; expected "
            f"one of: {', '.join(kinds)}"
        )
    return kind


def _campaigns(
    file: Path, design: str | None, store: Path | None, where: tuple[int, str | None],
    out: Path | None, waves: bool,
) -> dict[str, Any]:  # fmt: skip
    from bankside.fault_injection.description import load_campaign, load_campaigns
    from bankside.fault_injection.session import run_all, run_one
    from bankside.mapping.explore import workers as places

    count, scheduler = where
    # Amaranth warns of components whose Verilog was found in the cache.
    warnings.filterwarnings("ignore", message=".* created but never used")
    campaigns = load_campaigns(file)
    if design is not None:
        campaigns = [load_campaign(file, design)]
    with places.dask(scheduler) if scheduler else places.local(count) as workers:
        if len(campaigns) == 1:
            return run_one(campaigns[0], store, workers, out, waves)
        return run_all(file.stem, campaigns, store, workers, out, waves)


def _language_model(kind: str, file: Path, quick: bool, as_json: bool, out: Path | None) -> None:
    """Experiments of `fault_injection.llm`; every one is done from the beginning."""
    # Products of small matrices: threads that wait for each other cost several times what they
    # bring where cores are shared. Read when numpy is imported, which nothing has done yet.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from bankside.fault_injection.llm import kv_cache, replay, report

    experiment: Any = kv_cache if kind == "llm_kv_cache" else replay
    config = experiment.load(file)
    last = [0]
    with progress("injecting", 100) as step:

        def advance(done: int, total: int) -> None:
            step(100 * done // total - last[0])
            last[0] = 100 * done // total

        result = experiment.run(config, base=file.parent, quick=quick, on_fault=advance)
    if out is not None:
        result["files"] = report.write(out, result)
    shown = {key: value for key, value in result.items() if key != "runs"}
    emit(shown, as_json=as_json, text=report.text(result))


# --- text -----------------------------------------------------------------------------------------


def text(result: Mapping[str, Any]) -> str:
    """The result for people."""
    if result["referee_mismatches"]:
        return _mismatch_text(result)
    checked = (
        f"{result['referee_faults']:,} repeated on the referee, all equal"
        if result["referee_faults"]
        else "NOT CHECKED by a referee (sample: 0)"
    )
    count, cycles, level = result["injections"], result["cycles"], result["level"]
    names = {
        "SDC": "SDC", "hang": "hang", "detected-uncorrected": "DUE", "latent": "latent",
        "masked": "masked",
    }  # fmt: skip
    columns = "".join(f" {short:>7}" for short in names.values())
    lines = [
        f"{result['name']}: {count:,} faults in runs of {cycles:,} cycles; {checked}",
        f"{'model':12} {'block':24} {'bits':>10} {'faults':>8}{columns}  AVF ({level:.0%})",
    ]
    for row in result["blocks"][:_ROWS]:
        counts = "".join(f" {row['classes'][name]:>7,}" for name in names)
        lines.append(
            f"{row['model']:12} {row['block']:24} {row['bits']:>10,} {row['faults']:>8,}{counts}  "
            f"{row['avf']['text']}"
        )
    for row in result["models"]:
        lines.append(f"{row['model']:12} {'all':24} {row['bits']:>10,} {row['faults']:>8,}"
                     f"{'':40}  {row['avf']['text']}")  # fmt: skip
    lines += [f"{v['metric']}: {v['verdict']} ({v['text']})" for v in result["verdicts"]]
    if "patterns" in result:
        lines += _pattern_lines(result["patterns"])
    if "plan" in result:
        lines += _plan_lines(result["plan"])
    return "\n".join(lines)


def _pattern_lines(made: Mapping[str, Any]) -> list[str]:
    from bankside.fault_injection.llm.report import held_text, part_text

    share = made["represented"]
    if share is None:
        return [f"{made['file']}: no pattern: none of {made['faults']:,} faults had an effect"]
    others = (f"{n} {part_text(made['parts'][n])}" for n in made["parts"] if n != "tile")
    first = f"{made['file']}: {made['patterns']:,} patterns of {made['model']}"
    held = f"{held_text(share)} of the faults with an effect act in the result alone"
    return [f"{first}; {held}; {', '.join(others)}"]


def _plan_lines(plan: Mapping[str, Any]) -> list[str]:
    if not plan["found"]:
        best = ", ".join(f"{name} {value:.4g}" for name, value in plan["reachable"].items())
        return [f"protection: no choice meets the target at its bounds; best of each alone: {best}"]
    chosen = ", ".join(f"{b} {m}" for b, m in plan["chosen"].items() if m != "none") or "nothing"
    measured = plan["measured"]
    area = f"area + {plan['overhead']:.1%}, lockstep + {plan['duplicated_overhead']:.1%}"
    count = measured["injections"]
    lines = [f"protection: {chosen}; {area}; measured with {count:,} faults:"]
    lines += [f"  {v['metric']}: {v['verdict']} ({v['text']})" for v in measured["verdicts"]]
    total, repeated = plan["injections"], plan["referee_faults"]
    lines.append(
        f"  the plan took {total:,} faults, {repeated:,} repeated on the referee, all equal"
    )
    return lines


def all_text(result: Mapping[str, Any]) -> str:
    """Several designs for people."""
    parts = [text(one) for one in result["designs"].values()]
    if result["referee_mismatches"]:
        parts = [text(r) for r in result["designs"].values() if r["referee_mismatches"]]
    return "\n\n".join(parts)


def _mismatch_text(result: Mapping[str, Any]) -> str:
    wrong, of = result["referee_mismatches"], result["referee_faults"]
    lines = [f"{result['name']}: {wrong} of {of} faults end differently on the referee; no report:"]
    for row in result["mismatches"][:10]:
        differ = ", ".join(f"{k} {v} for {row['referee'][k]}" for k, v in row["found"].items()
                           if v != row["referee"][k])  # fmt: skip
        lines.append(f"  fault {row['id']} {row['fault']}: {differ}")
    return "\n".join(lines)
