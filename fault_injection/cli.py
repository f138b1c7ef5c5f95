"""`bankside inject`: what soft errors do to a design, or to a language model."""

from __future__ import annotations

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
@click.option("--waves", is_flag=True, help="With --replay or --fault: waveforms, also fault-free.")
@common_options
def command(
    file: Path, store: Path | None, workers: int, dask: str | None, replay: int | None,
    fault: str | None, waves: bool, as_json: bool, out: Path | None,
) -> None:  # fmt: skip
    """Inject faults as a YAML file says (see examples/inject_*.yaml, examples/llm_kv_cache.yaml).

    A campaign draws faults by block, role and phase, runs them in lanes, and repeats a random
    sample on the Verilated RTL; it continues where an interrupted one ended. Exit code 1: lanes and
    referee do not agree (then nothing is reported), or a safety target is missed.
    """
    kind = _kind(file)
    if kind != "campaign":
        _language_model(kind, file, as_json, out)
        return
    from bankside.fault_injection.description import load_campaign

    campaign = load_campaign(file)
    if waves and replay is None and fault is None:
        raise ConfigError("--waves shows one fault; give --replay ID or --fault JSON, too")
    if replay is not None or fault is not None:
        from bankside.fault_injection.replay import replayed, replayed_text

        result = replayed(campaign, store, replay, fault, waves, out)
        emit(result, as_json=as_json, text=replayed_text(result), out=out, name="replay")
        finish(result["agree"])
        return
    result = _campaign(campaign, store, workers, dask, out)
    emit(result, as_json=as_json, text=text(result), out=out, name="inject")
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


class _Disagreement(Exception):
    """Lanes and referee do not agree in the campaign of a protected design."""


def _campaign(
    campaign: Any, store: Path | None, workers: int, dask: str | None, out: Path | None
) -> dict[str, Any]:
    from bankside.fault_injection.campaign import prepare
    from bankside.fault_injection.metrics import check_rates
    from bankside.fault_injection.planning import planned
    from bankside.fault_injection.result import assessment_of, result_of
    from bankside.mapping.explore import workers as places

    where = places.dask(dask) if dask else places.local(workers)
    check_rates(prepare(campaign))
    with where as chosen:
        found, mismatches, repeated = _injected(campaign, store, chosen)
        result = result_of(found, mismatches, repeated)
        if campaign.description.plan is not None and not mismatches:

            def run(other: Any, name: str) -> Any:
                path = store and store.with_name(f"{store.stem}-{name}{store.suffix}")
                inside, wrong, count = _injected(other, path, chosen)
                if wrong:
                    raise _Disagreement(inside, wrong, count)
                return inside

            try:
                result["plan"] = planned(found, run)
            except _Disagreement as error:
                return result_of(*error.args)
    if out is not None and not mismatches:
        from bankside.fault_injection.report import write

        result["files"] = write(result, assessment_of(found), out)
    return result


def _injected(campaign: Any, store: Path | None, workers: Any) -> tuple[Any, list[Any], int]:
    """Run, or continue, one campaign in its store."""
    from bankside.fault_injection.campaign import inject, prepare, store_path
    from bankside.fault_injection.store import CampaignStore

    prepared = prepare(campaign)
    description = campaign.description.model_dump(mode="json")
    total = prepared.most + campaign.description.referee.sample
    with (
        CampaignStore(store or store_path(campaign), campaign.key, description) as kept,
        progress(f"injecting into {campaign.name}", total) as step,
    ):
        return inject(prepared, kept, workers, step)


def _language_model(kind: str, file: Path, as_json: bool, out: Path | None) -> None:
    """Experiments of `fault_injection.llm`; every one is done from the beginning."""
    from bankside.fault_injection.llm import kv_cache, replay, report

    experiment: Any = kv_cache if kind == "llm_kv_cache" else replay
    config = experiment.load(file)
    last = [0]
    with progress("injecting", 100) as step:

        def advance(done: int, total: int) -> None:
            step(100 * done // total - last[0])
            last[0] = 100 * done // total

        result = experiment.run(config, base=file.parent, on_fault=advance)
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
    return "\n".join(lines)


def _mismatch_text(result: Mapping[str, Any]) -> str:
    wrong, of = result["referee_mismatches"], result["referee_faults"]
    lines = [f"{result['name']}: {wrong} of {of} faults end differently on the referee; no report:"]
    for row in result["mismatches"][:10]:
        differ = ", ".join(f"{k} {v} for {row['referee'][k]}" for k, v in row["found"].items()
                           if v != row["referee"][k])  # fmt: skip
        lines.append(f"  fault {row['id']} {row['fault']}: {differ}")
    return "\n".join(lines)
