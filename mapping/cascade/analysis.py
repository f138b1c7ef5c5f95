"""What follows from a cascade: passes, elements alive, traffic, operations. All of it is derived.

A *pass* over a rank is one walk along it. An Einsum that walks the rank and needs a tensor for
which the rank has been walked to its end (a complete reduction, or the end of an iteration) belongs
to a later pass than that walk. Ref: arXiv 2406.10491, section on passes; docs/cascades.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from bankside.mapping.cascade.model import UNIT_OPERATIONS, Access, Cascade, Einsum

ELEMENT_BYTES = 2


def passes(cascade: Cascade, rank: str) -> dict[str, int]:
    """Einsum -> earliest pass over `rank` (from 1) in which it is computed, 0: before any.

    An Einsum that does not walk the rank is computed at the end of its pass.
    """
    found: dict[str, int] = {}
    for einsum in cascade.einsums:
        walks = rank in einsum.ranks
        earliest = 1 if walks else 0
        for operand in einsum.operands:
            known = found.get(operand.tensor)
            if known is None:
                continue  # an input, or the value of an iteration's step before
            complete = walks and not _streams(cascade, operand, rank)
            earliest = max(earliest, known + complete)
        found[einsum.name] = earliest
    return found


def _streams(cascade: Cascade, operand: Access, rank: str) -> bool:
    """Whether the operand is used while the rank is walked, not only after its end."""
    return any(index.rank == rank and index.which != "end" for index in operand.indices)


def pass_count(cascade: Cascade, rank: str) -> int:
    """Walks along a rank that the cascade needs at least."""
    found = passes(cascade, rank)
    return max((found[e.name] for e in cascade.einsums if rank in e.ranks), default=0)


def input_passes(
    cascade: Cascade, tensor: str, rank: str, placed: Mapping[str, int] | None = None
) -> list[int]:
    """Passes over `rank` in which an input is read, if the Einsums are placed like this."""
    found = placed or passes(cascade, rank)
    users = [e for e in cascade.einsums if any(o.tensor == tensor for o in e.operands)]
    return sorted({found[e.name] for e in users if rank in e.ranks})


def placement(cascade: Cascade, rank: str, extents: Mapping[str, int] | None = None) -> dict:
    """Einsum -> pass over `rank`: the earliest one, or a later one where less stays alive."""
    extents = extents or dict.fromkeys(cascade.ranks, 64)
    chosen = passes(cascade, rank)
    for einsum in reversed(cascade.einsums):
        users = [chosen[e.name] for e in cascade.einsums if _streams_into(e, einsum, rank)]
        others = any(
            _uses(e, einsum) and not _streams_into(e, einsum, rank) for e in cascade.einsums
        )
        iterates = any(index.which == "next" for index in einsum.out.indices)
        if not users or others or iterates or rank not in einsum.ranks:
            continue
        later = {**chosen, einsum.name: min(users)}
        if _crossing(cascade, later, rank, extents) < _crossing(cascade, chosen, rank, extents):
            chosen = later
    return chosen


def _uses(user: Einsum, einsum: Einsum) -> bool:
    return any(operand.tensor == einsum.name for operand in user.operands)


def _streams_into(user: Einsum, einsum: Einsum, rank: str) -> bool:
    return any(
        operand.tensor == einsum.name
        and any(index.rank == rank and index.which != "end" for index in operand.indices)
        for operand in user.operands
    )


def crossing(cascade: Cascade, chosen: Mapping[str, int], rank: str) -> dict[str, list[int]]:
    """Tensors that one pass makes and later ones walk along -> those passes."""
    found: dict[str, list[int]] = {}
    for user in cascade.einsums:
        for operand in user.operands:
            made = chosen.get(operand.tensor)
            if made and _streams(cascade, operand, rank) and chosen[user.name] > made:
                found.setdefault(operand.tensor, []).append(chosen[user.name])
    return {tensor: sorted(set(users)) for tensor, users in found.items()}


def _crossing(
    cascade: Cascade, chosen: Mapping[str, int], rank: str, extents: Mapping[str, int]
) -> int:
    return sum(cascade.size(tensor, extents) for tensor in crossing(cascade, chosen, rank))


def independent_ranks(cascade: Cascade) -> tuple[str, ...]:
    """Ranks that every computed tensor has and none reduces: their elements do not meet."""
    return tuple(
        rank
        for rank in cascade.ranks
        if all(rank in e.out.ranks and rank not in e.reduced for e in cascade.einsums)
    )


@dataclass(frozen=True)
class Analysis:
    """What `analyse` derives for one shape. Elements are of 16 bits.

    Attributes:
        passes: input -> rank -> passes in which it is walked.
        walks: passes over the rank along which the inputs stream.
        placed: Einsum -> pass over that rank.
        alive: computed tensor -> its elements alive at once, per element of the independent ranks.
        alive_peak: elements of all tensors in the pass that needs most, counted the same way.
        crossing: tensors that have to stay alive from one pass to a later one.
        operations: Einsum -> unit operation -> count.
        traffic_bytes: inputs and outputs once, if everything alive fits on chip.
        spilled_bytes: inputs once per pass, crossing tensors through memory.
    """

    passes: dict[str, dict[str, list[int]]]
    walks: int
    placed: dict[str, int]
    alive: dict[str, int]
    crossing: dict[str, list[int]]
    operations: dict[str, dict[str, int]]
    alive_peak: int
    traffic_bytes: int
    spilled_bytes: int

    @property
    def totals(self) -> dict[str, int]:
        """Unit operation -> count over all Einsums."""
        return {
            unit: sum(ops.get(unit, 0) for ops in self.operations.values())
            for unit in UNIT_OPERATIONS
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "walks": self.walks, "passes": self.passes, "placed": self.placed,
            "alive": self.alive, "alive_peak": self.alive_peak, "crossing": self.crossing,
            "operations": self.operations, "operation_totals": self.totals,
            "traffic_bytes": self.traffic_bytes, "spilled_bytes": self.spilled_bytes,
        }  # fmt: skip


def analyse(cascade: Cascade, shape: Mapping[str, int]) -> Analysis:
    """Everything about a cascade at one shape (parameters such as M, P, E, F, M0).

    Raises ConfigError when the shape does not give every rank an extent.
    """
    extents, rank = cascade.extents(shape), cascade.walk
    placed = placement(cascade, rank, extents)
    crosses = crossing(cascade, placed, rank)
    outer = {*independent_ranks(cascade)}
    alive = {
        e.name: prod(
            extents[r]
            for r in cascade.ranks_of(e.name)
            if r not in outer and (r != rank or e.name in crosses)
        )
        for e in cascade.einsums
    }
    read = {name: _passes_of(cascade, placed, name) for name in cascade.inputs}
    once = sum(cascade.size(name, extents) for name in (*cascade.inputs, *cascade.outputs))
    again = sum((len(read[name]) - 1) * cascade.size(name, extents) for name in cascade.inputs)
    spilled = sum((1 + len(users)) * cascade.size(name, extents) for name, users in crosses.items())
    walked = {
        name: {r: input_passes(cascade, name, r, placed if r == rank else None) for r in ranks}
        for name, ranks in cascade.inputs.items()
    }
    return Analysis(
        walked,
        pass_count(cascade, rank), placed, alive, crosses, cascade.operations(shape),
        _peak(cascade, placed, alive), ELEMENT_BYTES * once,
        ELEMENT_BYTES * (once + again + spilled),
    )  # fmt: skip


def _peak(cascade: Cascade, placed: Mapping[str, int], alive: Mapping[str, int]) -> int:
    """Most elements alive in one pass: what is made in it, or earlier and used in it or later."""
    last = dict(placed)
    for user in cascade.einsums:
        for operand in user.operands:
            if operand.tensor in last:
                last[operand.tensor] = max(last[operand.tensor], placed[user.name])
    return max(
        sum(size for name, size in alive.items() if placed[name] <= number <= last[name])
        for number in range(1, max(placed.values()) + 1)
    )


def _passes_of(cascade: Cascade, placed: Mapping[str, int], tensor: str) -> list[int]:
    """Passes over the walked rank in which an input is read."""
    users = [e for e in cascade.einsums if any(o.tensor == tensor for o in e.operands)]
    return sorted({placed[e.name] for e in users})
