"""Multi-bit upset: one particle inverts neighbouring bits of a register or memory.

Neighbours are what the cluster declares, in words and bits of the site: where cells really lie is
known after layout only. Memories with interleaved columns want a cluster that says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator

from bankside.fault_injection.fault import Fault
from bankside.fault_injection.models.base import FaultModel, Options
from bankside.fault_injection.sites import is_dram
from bankside.schema import key_problem
from bankside.sim.faults import Action, Site


class Cluster(Options):
    """Shape of an upset.

    Attributes:
        cluster: [word, bit] of each inverted bit, counted from the one that is drawn.
    """

    cluster: list[tuple[int, int]] = Field(default=[(0, 0), (0, 1)], min_length=2, max_length=64)

    # YAML has lists only; the strict mode of sections takes no list for a tuple.
    @model_validator(mode="before")
    @classmethod
    def _tuples(cls, data: object) -> object:
        if isinstance(data, dict) and isinstance(data.get("cluster"), list):
            pairs = [tuple(p) if isinstance(p, list) else p for p in data["cluster"]]
            return data | {"cluster": pairs}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.cluster)) < len(self.cluster) or min(min(p) for p in self.cluster) < 0:
            raise key_problem("cluster", f"is {self.cluster}; expected different offsets >= 0")
        if (0, 0) not in self.cluster:
            raise key_problem("cluster", f"is {self.cluster}; expected [0, 0] among its bits")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """(words, bits) that it reaches over."""
        words, bits = zip(*self.cluster, strict=True)
        return max(words) + 1, max(bits) + 1


def _room(site: Site, options: Cluster) -> tuple[int, int]:
    """(words, bits) where the whole cluster fits."""
    words, bits = options.size
    return max(0, site.depth - words + 1), max(0, site.width - bits + 1)


def _places(site: Site, options: Cluster) -> int:
    words, bits = _room(site, options)
    return 0 if is_dram(site) else words * bits


def _fault(site: Site, place: int, cycle: int, options: Cluster) -> Fault:
    word, bit = divmod(place, _room(site, options)[1])
    offsets = sorted(options.cluster)
    listed = {f"offset{i}_{axis}": pair[n] for i, pair in enumerate(offsets)
              for n, axis in enumerate(("word", "bit"))}  # fmt: skip
    return Fault(site.path, MODEL.name, cycle, bit=bit, word=word, parameters=listed)


def actions(fault: Fault, sites: Mapping[str, Site]) -> tuple[Action, ...]:
    """One inversion per word that the cluster reaches."""
    masks: dict[int, int] = defaultdict(int)
    given = fault.parameters or {"offset0_word": 0, "offset0_bit": 0, "offset1_word": 0,
                                 "offset1_bit": 1}  # fmt: skip
    for i in range(len(given) // 2):
        word = fault.word + given[f"offset{i}_word"]
        masks[word] |= 1 << fault.bit + given[f"offset{i}_bit"]
    return tuple(
        Action("flip", fault.site, word, mask, first=fault.cycle) for word, mask in masks.items()
    )


MODEL = FaultModel(
    "mbu", "upset of neighbouring bits", ("flop", "memory"), _places, _fault, actions, Cluster,
    unit="cluster",
)  # fmt: skip
