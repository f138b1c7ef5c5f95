"""One fault again: on the referee beside the stored or fresh outcome in lanes, with waveforms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bankside.cache import build_root
from bankside.errors import ConfigError
from bankside.fault_injection.campaign import as_dict, store_path
from bankside.fault_injection.classes import CLASSES, classify
from bankside.fault_injection.description import Campaign
from bankside.fault_injection.execution import (
    MachineTarget,
    actions_of,
    executor_of,
)
from bankside.fault_injection.fault import Fault, check_fault
from bankside.fault_injection.store import CampaignStore
from bankside.sim.waves import TICKS_PER_CYCLE, first_tick, write_save_file

__all__ = ["record_examples", "replayed", "replayed_text"]

#: Cycles shown before a fault and after its last trace.
_BEFORE, _AFTER = 20, 200


def replayed(
    campaign: Campaign, store: Path | None, number: int | None, text: str | None, waves: bool,
    out: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """Run one fault on the referee; plain data, `agree` False where the outcomes differ.

    Args:
        store: of the campaign, by default its own. number: of a finished fault.
        text: instead, a fault as JSON, which lanes run, too.
        out: folder of the waveforms, by default below the build folder.

    Raises:
        ConfigError: no such fault; a site, bit, word or cycle that the design or run does not have.
    """
    lanes = None
    if text is not None:
        fault = Fault.from_json(text)
        executor = executor_of(campaign.target)
        check_fault(fault, executor.sites, executor.golden.cycles)
        lanes = executor.run([actions_of(fault, executor.sites)])[0]
    else:
        fault, lanes = _stored(campaign, store or store_path(campaign), number or 0)
    nets = [fault.site] if _is_net(fault, campaign) else []
    referee = campaign.target.referee(nets)
    if referee is None:
        raise ConfigError("the target has no referee that could repeat a fault")
    check_fault(fault, referee.sites, referee.golden.cycles)
    row = referee.run([actions_of(fault, referee.sites)])[0]
    cycles = referee.golden.cycles
    result = {
        "kind": "replay",
        "id": number,
        "fault": fault.as_dict(),
        "cycles": cycles,
        "class": _class(row, cycles),
        "referee": as_dict(row),
        "lanes": as_dict(lanes),
        "agree": as_dict(row) == as_dict(lanes),
    }
    if waves:
        folder = out or build_root() / "inject" / "waves"
        result["waves"] = _waves(campaign, fault, row, cycles, folder, nets)
    return result


def _stored(campaign: Campaign, path: Path, number: int) -> tuple[Fault, np.void]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such store; run the campaign before, or name its --store")
    with CampaignStore(path, campaign.key, {}) as kept:
        return kept.fault(number)


def _is_net(fault: Fault, campaign: Campaign) -> bool:
    if not isinstance(campaign.target, MachineTarget) or not campaign.target.nets:
        return False
    site = executor_of(campaign.target).sites.get(fault.site)
    return site is not None and site.kind == "net"


def _class(row: np.void, cycles: int) -> str:
    return str(CLASSES[int(classify(np.array([row]), cycles)[0])])


def _waves(
    campaign: Campaign, fault: Fault, row: np.void, cycles: int, folder: Path, nets: list[str]
) -> dict[str, Any]:
    """Faulty and fault-free run around the fault, as VCD with save files."""
    if not isinstance(campaign.target, MachineTarget):
        raise ConfigError("--waves: a target of your own records its waveforms itself")
    seen = int(row["first"])
    first = max(0, fault.cycle - _BEFORE)
    last = min(max(cycles, int(row["cycles"])) - 1, max(fault.cycle, seen) + _AFTER)
    referee = campaign.target.referee(nets, waves=True)
    files = {
        name: str(
            _record(referee, folder / f"{_file_name(fault)}.{name}.vcd", first, last, actions)
        )
        for name, actions in (("faulty", actions_of(fault, referee.sites)), ("golden", ()))
    }
    return {"first_cycle": first, "last_cycle": last, "ticks_per_cycle": TICKS_PER_CYCLE,
            "first_tick": first_tick(Path(files["faulty"])), **files}  # fmt: skip


def _record(referee: Any, vcd: Path, first: int, last: int, actions: Any) -> Path:
    vcd.parent.mkdir(parents=True, exist_ok=True)
    referee.model.record_waves(vcd, first, last)
    referee.run([actions])
    if not vcd.is_file():
        raise ConfigError(f"{vcd.name}: the run ended before cycle {first}: nothing to show")
    write_save_file(vcd, first_time=first_tick(vcd))
    return vcd


def record_examples(campaign: Campaign, examples: list[dict[str, Any]], folder: Path) -> None:
    """Record the first example of each model and class that left a trace; `waves` of its row
    becomes the path of the faulty run's VCD, relative to the parent of `folder`.
    """
    if not isinstance(campaign.target, MachineTarget):
        raise ConfigError("--waves: a target of your own records its waveforms itself")
    first_of = {(r["model"], r["class"]): r for r in reversed(examples) if r["class"] != "masked"}
    shown = list(reversed(first_of.values()))
    keys = ("id", "class", "waves")
    faults = [Fault.from_dict({k: v for k, v in r.items() if k not in keys}) for r in shown]
    nets = [fault.site for fault in faults if _is_net(fault, campaign)]
    referee = campaign.target.referee(nets, waves=True)
    for row, fault in zip(shown, faults, strict=True):
        first = max(0, fault.cycle - _BEFORE)
        last = fault.cycle + _AFTER
        for name, actions in (("faulty", actions_of(fault, referee.sites)), ("golden", ())):
            vcd = folder / f"{row['id']}.{name}.vcd"
            _record(referee, vcd, first, last, actions)
        row["waves"] = f"{folder.name}/{row['id']}.faulty.vcd"


def _file_name(fault: Fault) -> str:
    plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in fault.site)
    return f"{fault.model}-{plain}-bit{fault.bit}-word{fault.word}-cycle{fault.cycle}"


def replayed_text(result: Mapping[str, Any]) -> str:
    """The result for people."""
    fault, row = result["fault"], result["referee"]
    seen = "no output port ever differs" if row["first"] < 0 else (
        f"first difference at an output port in cycle {row['first']}")  # fmt: skip
    where = f"bit {fault['bit']}, word {fault['word']}, cycle {fault['cycle']}"
    lines = [
        f"{fault['model']} at {fault['site']}, {where}: {result['class']}",
        f"{row['cycles']:,} cycles (fault-free {result['cycles']:,}), {seen}",
    ]
    if not result["agree"]:
        differ = ", ".join(f"{k} {v} for {row[k]}" for k, v in result["lanes"].items()
                           if v != row[k])  # fmt: skip
        lines.append(f"LANES DO NOT AGREE: {differ}")
    if "waves" in result:
        w = result["waves"]
        lines.append(
            f"{w['faulty']}\n{w['golden']}: cycles {w['first_cycle']} to {w['last_cycle']}; cycle "
            f"{w['first_cycle']} ends at tick {w['first_tick']}, each takes {w['ticks_per_cycle']}"
        )
    return "\n".join(lines)
