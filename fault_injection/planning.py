"""The least-area protection of a campaign: one campaign per candidate, the choice, its check.

Every candidate is built into all blocks at once, injected into and measured; then the exact choice
per block is made, built, and injected into again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bankside.errors import ConfigError
from bankside.fault_injection.area import Area, Technology, area_of, block_areas
from bankside.fault_injection.campaign import Found
from bankside.fault_injection.description import Campaign
from bankside.fault_injection.execution import MachineTarget
from bankside.fault_injection.metrics import assessed, block_results, metric_rows
from bankside.fault_injection.plan import Candidate, NoPlan, Plan, least_area
from bankside.fault_injection.protect.build import Netlist, protected
from bankside.fault_injection.protect.mechanisms import MECHANISMS
from bankside.fault_injection.protect.netlist import Module
from bankside.fault_injection.safety import TARGETS
from bankside.fault_injection.sites import TOP
from bankside.sim.elaborate import to_json
from bankside.sim.rtl.tops import top_of

__all__ = ["Run", "planned", "with_protection"]

#: Runs, or continues, a campaign of a protected design. Arguments: campaign, name of the design.
Run = Callable[[Campaign, str], Found]
NONE = "none"


def planned(base: Found, run: Run) -> dict[str, Any]:
    """Measure every candidate, choose, measure the choice; plain data.

    Raises:
        ConfigError: the campaign asks for no safety target, or a raw rate is missing.
    """
    campaign = base.prepared.campaign
    what = campaign.description
    if what.plan is None or what.safety is None or what.machine is None:
        raise ConfigError("plan: needs safety (a target and raw rates) and a machine")
    work = _Work(campaign, base)
    candidates = work.unprotected()
    for name in what.plan.candidates:
        candidates += work.candidates(name, run)
    safety = what.safety
    chosen = least_area(
        candidates, safety.rates, TARGETS[safety.asil], safety.reading, safety.level, safety.looks,
        safety.pmhf_share, work.lockstep_area(), what.plan.seconds,
    )  # fmt: skip
    head = {"candidates": [_candidate_row(c) for c in candidates], "unit": "GE"}
    if isinstance(chosen, NoPlan):
        return head | {"found": False, "binding": list(chosen.binding),
                       "reachable": dict(chosen.reachable)}  # fmt: skip
    return head | _plan_row(chosen) | work.measured(chosen, run)


def with_protection(campaign: Campaign, plan: Mapping[str, Any], draw: int) -> Campaign:
    """The same campaign of the same design with protection, of the models that count.

    Args:
        draw: added to the seed. Samples that are judged together, or one after a choice by the
            other, have to be independent: equal numbers would hit the same faults again.
    """
    target = campaign.target
    assert isinstance(target, MachineTarget)
    what, counted = campaign.description, campaign.counted
    faults = (what.plan.faults if what.plan else None) or what.sampling.faults
    description = what.model_copy(update={
        "protection": dict(plan), "plan": None,
        "sampling": what.sampling.model_copy(
            update={"faults": faults, "seed": what.sampling.seed + draw}
        ),
        "models": {name: given for name, given in what.models.items() if name in counted},
    })  # fmt: skip
    return replace(
        campaign, description=description, target=replace(target, protection=dict(plan)),
        models=tuple(pair for pair in campaign.models if pair[0].name in counted),
    )  # fmt: skip


class _Work:
    """Design, areas and blocks of a campaign."""

    def __init__(self, campaign: Campaign, base: Found) -> None:
        self.campaign, self.base = campaign, base
        options = campaign.description.plan
        assert options is not None and isinstance(campaign.target, MachineTarget)
        self.options = options
        self.top, self.name = top_of(campaign.target.machine)
        given = {"flop": options.flop, "memory_bit": options.memory_bit}
        self.technology = Technology(**{k: v for k, v in given.items() if v is not None})
        self.netlist = to_json(self.top, self.name)
        self.results = block_results(base)
        self.blocks = list(dict.fromkeys(r.block for r in self.results))
        self.area = area_of(self.netlist, self.name, self.technology)
        self.kinds = _kinds(self.netlist, self.name, self.blocks)

    def unprotected(self) -> list[Candidate]:
        """Every block as it is."""
        return [
            Candidate(block, NONE, self._base_area(block),
                      tuple(r for r in self.results if r.block == block))
            for block in self.blocks
        ]  # fmt: skip

    def _base_area(self, block: str) -> float:
        """Of a block without the blocks below it."""
        inside = [b for b in self.blocks if b != block and b.startswith(f"{block}.")]
        if block == TOP:
            inside = [b for b in self.blocks if b != TOP and "." not in b]
            inside += [b for b in self.blocks if "." in b and b.split(".")[0] not in inside]
        whole = self.area.below("" if block == TOP else block).total
        return whole - sum(self.area.below(b).total for b in inside)

    def plan(self, mechanisms: Any) -> dict[str, Any]:
        """Block -> what of `mechanisms` has something to protect there."""
        found = {}
        given = mechanisms if isinstance(mechanisms, list) else [mechanisms]
        for block in self.blocks:
            fit = [m for m in given if self._fits(m, block)]
            if fit:
                found["" if block == TOP else block] = fit
        return found

    def _fits(self, mechanism: Any, block: str) -> bool:
        name = mechanism if isinstance(mechanism, str) else mechanism.get("mechanism", "")
        kinds = set(MECHANISMS.get(name).kinds)
        if kinds & {"instance", "body"}:
            return block != TOP
        return bool(kinds & (self.kinds[block] | {"cells", "top"}))

    def candidates(self, name: str, run: Run) -> list[Candidate]:
        """Every block with one candidate's mechanisms."""
        plan = self.plan(self.options.candidates[name])
        made, areas = self._built(plan)
        draw = 1 + list(self.options.candidates).index(name)
        found = run(with_protection(self.campaign, plan, draw), name)
        results = block_results(found, made.covered)
        return [
            Candidate(block, name, self._base_area(block) + areas.get(path, 0.0), own)
            for block in self.blocks
            if (path := "" if block == TOP else block) in plan
            and (own := tuple(r for r in results if r.block == block))
        ]

    def _built(self, plan: Mapping[str, Any]) -> tuple[Netlist, dict[str, float]]:
        """The protected design and the area that each block of the plan has gained."""
        made = protected(self.top, self.name, plan)
        area: Area = area_of(made, self.name, self.technology)
        return made, {b.block: b.added for b in block_areas(self.area, area, made)}

    def lockstep_area(self) -> float:
        """Of the whole design twice, with its comparator."""
        made = protected(self.top, self.name, {"": ["dcls"]})
        return area_of(made, self.name, self.technology).total

    def measured(self, chosen: Plan, run: Run) -> dict[str, Any]:
        """The chosen design, injected into again."""
        plan: dict[str, Any] = {}
        for candidate in chosen.chosen:
            path = "" if candidate.block == TOP else candidate.block
            if candidate.mechanism == NONE:
                plan[path] = NONE
            else:
                plan |= {path: self.plan(self.options.candidates[candidate.mechanism])[path]}
        if all(given == NONE for given in plan.values()):
            found, covered, area = self.base, {}, self.area.total
        else:
            made = protected(self.top, self.name, plan)
            covered, area = made.covered, area_of(made, self.name, self.technology).total
            draw = 1 + len(self.options.candidates)
            found = run(with_protection(self.campaign, plan, draw), "chosen")
        verdicts = metric_rows(assessed(found, block_results(found, covered)))
        return {
            "protection": plan,
            "measured": {"verdicts": verdicts, "injections": len(found.faults), "area": area,
                         "overhead": area / self.area.total - 1},
        }  # fmt: skip


def _kinds(netlist: Path, top: str, blocks: list[str]) -> dict[str, set[str]]:
    """Block -> "registers", "memories": what it holds itself."""
    modules = json.loads(netlist.read_text())["modules"]
    opened = {name: Module(name, data) for name, data in modules.items()}
    found: dict[str, set[str]] = {block: set() for block in blocks}

    def owner(path: str) -> str | None:
        mine = [b for b in blocks if path == b or path.startswith(f"{b}.")]
        return max(mine, key=len, default=TOP if TOP in found else None)

    def visit(kind: str, path: str) -> None:
        block, module = owner(path), opened[kind]
        if block is not None:
            found[block] |= {"registers"} if module.registers() else set()
            found[block] |= {"memories"} if module.memories() else set()
        for name, cell in module.cells.items():
            if cell["type"] in modules:
                visit(cell["type"], f"{path}.{name}" if path else name)

    visit(top, "")
    return found


def _candidate_row(candidate: Candidate) -> dict[str, Any]:
    return {
        "block": candidate.block, "mechanism": candidate.mechanism, "area": candidate.area,
        "injections": sum(r.injections for r in candidate.results),
    }  # fmt: skip


def _plan_row(plan: Plan) -> dict[str, Any]:
    return {
        "found": True,
        "chosen": {c.block: c.mechanism for c in plan.chosen},
        "bounds": {name: {"estimate": b.estimate, "low": b.low, "high": b.high}
                   for name, b in plan.metrics.items()},
        "area": plan.area, "base_area": plan.base_area, "overhead": plan.overhead,
        "duplicated_area": plan.duplicated_area, "duplicated_overhead": plan.duplicated_overhead,
    }  # fmt: skip
