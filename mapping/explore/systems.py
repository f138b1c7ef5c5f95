"""Evaluator `map`: one forward pass of a language model on a system, as `bankside map`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from bankside.errors import ConfigError
from bankside.mapping.explore.evaluate import checked
from bankside.mapping.policy.base import POLICIES
from bankside.mapping.system.system import System
from bankside.mapping.workload.architecture import Architecture
from bankside.mapping.workload.batch import Batch
from bankside.schema import Section


class Workload(Section):
    """One pass.

    Attributes:
        model: preset or config.json. policy: by default the system's.
        context: tokens of each request that decodes. batch: requests that decode.
        prefill: prompt tokens beside them. tp: tensor-parallel shares of a copy.
    """

    model: str
    policy: str | None = None
    context: int = Field(default=4096, ge=1)
    batch: int = Field(default=1, ge=1)
    prefill: int = Field(default=0, ge=0)
    tp: int | None = Field(default=None, ge=1)


class Map:
    """Time, throughput, capacity of a policy. A batch that does not fit is infeasible.

    `energy_j_per_token` is there only where the energy of every device is known.
    """

    metrics = ("seconds", "tokens_per_s", "kv_tokens", "requests", "energy_j_per_token")

    def load(self, source: str) -> dict[str, Any]:
        """A system preset or file."""
        return System.load(source).model_dump(mode="json")

    def check_workload(self, workload: Mapping[str, Any]) -> None:
        work = checked(Workload, workload, "workload")
        if work.policy is not None:
            POLICIES.entry(work.policy)
        Architecture.load(work.model)

    def run(self, base: dict[str, Any], workload: dict[str, Any]) -> Mapping[str, float]:
        """Raises ConfigError where it cannot run or does not fit."""
        work = checked(Workload, workload, "workload")
        system = checked(System, base, "system")
        policy = POLICIES.get(work.policy or system.policy)
        mapping = policy(Architecture.load(work.model), system, tp=work.tp)
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
