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
from bankside.fault_injection.options import (
    PlanOptions,
    RefereeOptions,
    SafetyOptions,
    Sampling,
)
from bankside.fault_injection.sites import Grouping
from bankside.isa.machines import load_machine
from bankside.schema import Section, key_problem, validate
from bankside.strict_yaml import Locations, load_yaml

__all__ = ["Campaign", "CampaignDescription", "load_campaign"]


class CampaignDescription(Section):
    """A campaign of one design with one program.

    Attributes:
        machine: preset or file of an engine; workload: what it does (`WORKLOADS`), one key.
        target: instead of both: `module:function` that returns (executor, referee).
        models: fault model -> its options.
        blocks: how sites are grouped.
        protection: block -> mechanisms, built into the design before (docs/protection.md).
        safety: raw rates and target; metrics of ISO 26262 are given with it only.
        plan: what the least-area protection is chosen from.
    """

    kind: Literal["campaign"] = "campaign"
    machine: str | None = None
    workload: dict[str, Any] | None = None
    target: str | None = None
    models: dict[str, dict[str, Any]] = Field(default={"seu": {}}, min_length=1)
    blocks: Grouping = Grouping()
    sampling: Sampling = Sampling()
    referee: RefereeOptions = RefereeOptions()
    protection: dict[str, Any] | None = None
    safety: SafetyOptions | None = None
    plan: PlanOptions | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.target is None) == (self.machine is None):
            raise key_problem("machine", "give either machine and workload, or target")
        if (self.machine is None) != (self.workload is None):
            raise key_problem("workload", "belongs to machine: give both or none")
        if self.target is not None and self.protection is not None:
            raise key_problem("protection", "is built into machines; a target brings its own")
        return self


@dataclass(frozen=True)
class Campaign:
    """A description with all that it names.

    Attributes:
        models: each with its options.
    """

    name: str
    description: CampaignDescription
    models: tuple[tuple[FaultModel, Options], ...]
    target: Target

    @property
    def key(self) -> str:
        """64 hexadecimal digits of all that the results depend on."""
        what = self.description.model_dump(mode="json", exclude={"safety", "plan"})
        return content_hash({"description": what, "target": self.target.digest})


def load_campaign(path: Path) -> Campaign:
    """Raises ConfigError, with file and line, for whatever cannot be used."""
    data, locations = load_yaml(path)
    what = validate(CampaignDescription, data, locations)
    machine = None
    if what.machine is not None:
        machine = _at(locations, ("machine",), lambda: load_machine(_beside(path, what.machine)))
    models = tuple(_model(name, given, machine, locations) for name, given in what.models.items())
    return Campaign(path.stem, what, models, _target(path, what, machine, models, locations))


def _model(
    name: str, given: Mapping[str, Any], machine: Any, locations: Locations
) -> tuple[FaultModel, Options]:
    keys = ("models", name)
    model = _at(locations, keys, lambda: FAULT_MODELS.get(name))
    known = model.options.model_fields
    if "columns" in known and "columns" not in given and getattr(machine, "engine", "") == "pim":
        given = {**given, "columns": machine.columns}
    return model, validate(model.options, dict(given), locations.below(keys))


def _target(
    path: Path, what: CampaignDescription, machine: Any,
    models: tuple[tuple[FaultModel, Options], ...], locations: Locations,
) -> Target:  # fmt: skip
    if what.target is not None:
        target = FunctionTarget(what.target, str(path.parent.resolve()))
        _at(locations, ("target",), lambda: target.digest)
        return target
    from bankside.fault_injection.workloads import build_workload

    program = build_workload(machine, what.workload or {}, path.parent, locations)
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
