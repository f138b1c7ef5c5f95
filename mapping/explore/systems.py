"""Evaluator `map`: one forward pass of a language model on a system, as `bankside map`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from bankside.config import HardwareConfig
from bankside.errors import ConfigError
from bankside.mapping.explore.engines import hardware_followers
from bankside.mapping.explore.evaluate import Evaluator, checked
from bankside.mapping.policy.base import POLICIES
from bankside.mapping.system.gpu import Link
from bankside.mapping.system.system import System
from bankside.mapping.system.tables import load_link
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch
from bankside.schema import Section

_ENGINES = ("dimm_pim", "array", "npu")


class OnSystem(Evaluator):
    """An evaluator whose base is a system."""

    def load(self, source: str) -> dict[str, Any]:
        """A system preset or file; hardware that it names is written out, so that it can change."""
        data: dict[str, Any] = System.load(source).model_dump(mode="json")
        for key in _ENGINES:
            if data[key] is not None and isinstance(data[key]["hardware"], str):
                found = HardwareConfig.load(data[key]["hardware"])
                data[key]["hardware"] = found.model_dump(mode="json")
        return data

    def check_base(self, base: dict[str, Any]) -> None:
        checked(System, base, "system")

    def followers(self, base: Mapping[str, Any]) -> Mapping[str, tuple[str, ...]]:
        """The links of another GPU are its own where the base has those of its GPU."""
        found: dict[str, tuple[str, ...]] = {}
        for key in _ENGINES if base else ():
            if base[key] is not None:
                inside = hardware_followers(base[key]["hardware"])
                found |= {f"{key}.hardware.{source}": tuple(f"{key}.hardware.{k}" for k in keys)
                          for source, keys in inside.items()}  # fmt: skip
        if base and base["gpu"] is not None:
            own = {"host_link": base["gpu"]["bus"], "gpu_link": base["gpu"]["peer_link"]}
            found["gpu"] = tuple(key for key, name in own.items() if _is_link(base[key], name))
        return found


def _is_link(given: Mapping[str, Any] | None, name: str | None) -> bool:
    if name is None or given is None:
        return False
    return checked(Link, given, "link") == load_link(name)


class Workload(Section):
    """One pass.

    Attributes:
        model: preset, or config.json (beside the description first). policy: by default the
            system's.
        context: tokens of each request that decodes. batch: requests that decode.
        prefill: prompt tokens beside them. tp: tensor-parallel shares of a copy.
    """

    model: str
    policy: str | None = None
    context: int = Field(default=4096, ge=1)
    batch: int = Field(default=1, ge=1)
    prefill: int = Field(default=0, ge=0)
    tp: int | None = Field(default=None, ge=1)


def beside(folder: Path, name: str) -> str:
    """A file or folder beside the description, else the name as it is."""
    near = folder / name
    return str(near) if near.exists() else name


def model_files(folder: Path, name: str) -> tuple[Path, ...]:
    """What a model that is no preset is read from."""
    path = Path(beside(folder, name))
    file = path / "config.json" if path.is_dir() else path
    return (file,) if file.is_file() else ()


class Map(OnSystem):
    """Time, throughput, capacity of a policy. A batch that does not fit is infeasible.

    `energy_j_per_token` is there only where the energy of every device is known.
    """

    metrics = ("seconds", "tokens_per_s", "kv_tokens", "requests", "energy_j_per_token")

    def check_workload(self, workload: Mapping[str, Any], folder: Path) -> None:
        work = checked(Workload, workload, "workload")
        if work.policy is not None:
            POLICIES.entry(work.policy)
        Architecture.load(beside(folder, work.model))

    def files(self, workload: Mapping[str, Any], folder: Path) -> Sequence[Path]:
        return model_files(folder, str(workload.get("model", "")))

    def run(
        self, base: dict[str, Any], workload: dict[str, Any], folder: Path
    ) -> Mapping[str, float]:
        """Raises ConfigError where it cannot run or does not fit."""
        work = checked(Workload, workload, "workload")
        system = checked(System, base, "system")
        policy = POLICIES.get(work.policy or system.policy)
        mapping = policy(Architecture.load(beside(folder, work.model)), system, tp=work.tp)
        requests = int(mapping.capacity.kv_tokens // work.context)
        if requests < work.batch:
            raise ConfigError(
                f"{work.batch} requests of {work.context} tokens do not fit: memory holds "
                f"{requests}"
            )
        batch = Batch.decode(work.batch, work.context)
        if work.prefill:
            batch = batch + Batch.prefill(1, work.prefill, 0)
        cost = mapping.plan(batch).cost
        seconds = float(np.asarray(cost.seconds))
        found = {
            "seconds": seconds,
            "tokens_per_s": work.batch / seconds,
            "kv_tokens": float(mapping.capacity.kv_tokens),
            "requests": requests,
        }
        if cost.energy_j is not None:
            found["energy_j_per_token"] = float(np.asarray(cost.energy_j)) / work.batch
        return found


MAP = Map()
