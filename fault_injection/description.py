"""The YAML of a campaign. Ref: docs/inject.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from bankside.cache import content_hash
from bankside.errors import ConfigError
from bankside.fault_injection.execution import FunctionTarget, MachineTarget, Target
from bankside.fault_injection.models.base import FaultModel, Options
from bankside.fault_injection.models.models import FAULT_MODELS
from bankside.fault_injection.operation import Operation
from bankside.fault_injection.options import (
    DesignOptions,
    PatternOptions,
    PlanOptions,
    RefereeOptions,
    SafetyOptions,
    Sampling,
)
from bankside.fault_injection.rates import Mode
from bankside.fault_injection.sites import Grouping
from bankside.isa.machines import load_machine
from bankside.registry import nearest
from bankside.schema import Section, key_problem, validate
from bankside.strict_yaml import Locations, load_yaml

__all__ = ["COUNTED", "Campaign", "CampaignDescription", "load_campaign", "load_campaigns"]


#: Models whose faults a raw rate counts: mode and name of the rate. One place of these is one bit.
COUNTED: dict[str, tuple[Mode, str]] = {
    "seu": ("transient", "flop"),
    "sram_bit": ("transient", "memory"),
    "set_net": ("transient", "net"),
    "dram_cell": ("transient", "dram"),
    "stuck_at": ("permanent", "flop"),
}


class CampaignDescription(Section):
    """A campaign of one design with one program, or the same for several designs.

    Attributes:
        machine: preset or file of an engine; workload: what it does (`WORKLOADS`), one key.
        target: instead of both: `module:function` that returns (executor, referee).
        designs: instead: name -> machine and workload.
        models: fault model -> its options.
        blocks: how sites are grouped.
        protection: block -> mechanisms, built into the design before (docs/protection.md).
        safety: raw rates and target; metrics of ISO 26262 are given with it only.
        plan: what the least-area protection is chosen from.
        patterns: what is recorded for a language model (docs/llm_faults.md).
    """

    kind: Literal["campaign"] = "campaign"
    machine: str | None = None
    workload: dict[str, Any] | None = None
    target: str | None = None
    designs: dict[str, DesignOptions] | None = Field(default=None, min_length=1)
    models: dict[str, dict[str, Any]] = Field(default={"seu": {}}, min_length=1)
    blocks: Grouping = Grouping()
    sampling: Sampling = Sampling()
    referee: RefereeOptions = RefereeOptions()
    protection: dict[str, Any] | None = None
    safety: SafetyOptions | None = None
    plan: PlanOptions | None = None
    patterns: PatternOptions | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [n for n in ("machine", "target", "designs") if getattr(self, n) is not None]
        if len(given) != 1:
            raise key_problem("machine", "give either machine and workload, or target, or designs")
        if self.safety is not None:
            for name in self.safety.models or ():
                if name not in COUNTED:
                    raise key_problem(
                        "safety.models",
                        f"{name!r} has no raw rate per bit; choose from: {', '.join(COUNTED)}",
                    )
        for name in (self.plan.designs or ()) if self.plan is not None else ():
            if name not in (self.designs or {}):
                raise key_problem("plan.designs", f"{name!r} is none of the designs")
        if (self.machine is None) != (self.workload is None):
            raise key_problem("workload", "belongs to machine: give both or none")
        if self.target is not None and self.protection is not None:
            raise key_problem("protection", "is built into machines; a target brings its own")
        if self.patterns is not None:
            self._check_patterns(self.patterns)
        return self

    def _check_patterns(self, what: PatternOptions) -> None:
        if self.target is not None:
            raise key_problem("patterns", "are of an operation of a machine; a target has none")
        if what.model is None and len(self.models) > 1:
            raise key_problem(
                "patterns.model", f"is missing; choose one of: {', '.join(self.models)}"
            )
        if what.model is not None and what.model not in self.models:
            raise key_problem(
                "patterns.model",
                f"{what.model!r} is none of the models{nearest(what.model, self.models)}; choose "
                f"one of: {', '.join(self.models)}",
            )


@dataclass(frozen=True)
class Campaign:
    """A description with all that it names.

    Attributes:
        models: each with its options.
        operation: that the workload is, where patterns are recorded; folder: of the description.
    """

    name: str
    description: CampaignDescription
    models: tuple[tuple[FaultModel, Options], ...]
    target: Target
    operation: Operation | None = None
    folder: Path = Path()

    @property
    def counted(self) -> tuple[str, ...]:
        """Models that the safety metrics count."""
        safety = self.description.safety
        chosen = COUNTED if safety is None or safety.models is None else safety.models
        return tuple(model.name for model, _ in self.models if model.name in chosen)

    @property
    def key(self) -> str:
        """64 hexadecimal digits of all that the results depend on."""
        what = self.description.model_dump(mode="json", exclude={"safety", "plan", "patterns"})
        return content_hash({"description": what, "target": self.target.digest})


def load_campaigns(path: Path) -> list[Campaign]:
    """The campaigns of a file, one per design.

    Raises ConfigError, with file and line, for whatever cannot be used.
    """
    data, locations = load_yaml(path)
    what = validate(CampaignDescription, data, locations)
    if what.designs is None:
        return [_campaign(path, path.stem, what, locations)]
    campaigns = []
    for name, design in what.designs.items():
        planned = what.plan is not None and name in (what.plan.designs or what.designs)
        one = what.model_copy(update={
            "machine": design.machine, "workload": design.workload, "designs": None,
            "plan": what.plan if planned else None,
            "patterns": _named(what.patterns, name),
        })  # fmt: skip
        inside = locations.below(("designs", name))
        lines = {**locations.lines, **{k: v for k, v in inside.lines.items() if k}}
        campaigns.append(_campaign(path, name, one, Locations(path, lines)))
    return campaigns


def _named(patterns: PatternOptions | None, design: str) -> PatternOptions | None:
    if patterns is None:
        return None
    out = Path(patterns.out)
    return patterns.model_copy(
        update={"out": str(out.with_name(f"{out.stem}-{design}{out.suffix}"))}
    )


def load_campaign(path: Path, design: str | None = None) -> Campaign:
    """The campaign of a file, or the one of `design` of several. Raises ConfigError."""
    campaigns = load_campaigns(path)
    if design is None and len(campaigns) == 1:
        return campaigns[0]
    names = [c.name for c in campaigns]
    for campaign in campaigns:
        if campaign.name == design:
            return campaign
    raise ConfigError(
        f"{path}: no design {design!r}{nearest(design or '', names)}; choose from: "
        f"{', '.join(names)}"
    )


def _campaign(path: Path, name: str, what: CampaignDescription, locations: Locations) -> Campaign:
    machine = None
    if what.machine is not None:
        machine = _at(locations, ("machine",), lambda: load_machine(_beside(path, what.machine)))
    program, operation, defaults = None, None, {}
    if machine is not None:
        from bankside.fault_injection.workloads import build_workload, operation_of

        given = what.workload or {}
        program = build_workload(machine, given, path.parent, locations)
        if what.patterns is not None:
            operation = operation_of(machine, given, path.parent, program, locations)
            if what.patterns.change == "delta" and operation.engine != "npu":
                raise ConfigError(
                    f"{locations.where(('patterns', 'change'))}: patterns.change: delta is for "
                    f"integers, but {operation.engine} computes in FP16; expected xor"
                )
        defaults = {"store_bytes": program.host_in.nbytes}
        if machine.engine == "pim":
            defaults = {"columns": machine.columns}
    models = tuple(_model(n, given, defaults, locations) for n, given in what.models.items())
    target = _target(path, what, machine, program, models, locations)
    return Campaign(name, what, models, target, operation, path.parent)


def _model(
    name: str, given: Mapping[str, Any], defaults: Mapping[str, int], locations: Locations
) -> tuple[FaultModel, Options]:
    """`defaults`: of the geometry of the machine, for models that want it."""
    keys = ("models", name)
    model = _at(locations, keys, lambda: FAULT_MODELS.get(name))
    known = {k: v for k, v in defaults.items() if k in model.options.model_fields}
    return model, validate(model.options, {**known, **given}, locations.below(keys))


def _target(
    path: Path, what: CampaignDescription, machine: Any, program: Any,
    models: tuple[tuple[FaultModel, Options], ...], locations: Locations,
) -> Target:  # fmt: skip
    if what.target is not None:
        target = FunctionTarget(what.target, str(path.parent.resolve()))
        _at(locations, ("target",), lambda: target.digest)
        return target
    nets = any("net" in model.kinds and _wants_nets(model, options) for model, options in models)
    return MachineTarget(machine, program, nets=nets, protection=what.protection)


def _wants_nets(model: FaultModel, options: Options) -> bool:
    """Forcing nets costs speed: only where a model is meant for them."""
    return "net" in getattr(options, "kinds", model.kinds)


def _beside(path: Path, name: str | None) -> str:
    """A relative path is meant relative to the description, where it exists."""
    name = name or ""
    beside = path.parent / name
    return str(beside) if "/" in name and beside.exists() else name


def _at(locations: Locations, keys: tuple[str, ...], make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ConfigError as error:
        if str(locations.path) in str(error):
            raise
        raise ConfigError(f"{locations.where(keys)}: {'.'.join(keys)}: {error}") from error
