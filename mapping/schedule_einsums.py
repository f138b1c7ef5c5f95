"""The scheduling problem of a cascade's Einsums by themselves, as a paper counts them.

Each Einsum takes as many cycles per tile as its unit operations per PE or lane; only data
dependences and the two units count, neither latencies nor registers. What the `array` engine adds
to that is the difference to `Kernel.schedule`. Ref: arXiv 2406.10491; docs/cascades.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from bankside.isa.array_schedule import Distance
from bankside.mapping.binding.loader import UNITS, Binding
from bankside.mapping.schedule_modulo import Problem, Solution, solve_cached


@dataclass(frozen=True)
class EinsumSchedule:
    """Modulo schedule of the Einsums of one tile, in cycles (fractions: work once per query block).

    Attributes:
        ii: cycles per tile. begins: Einsum -> cycles from the start of the tile.
        lengths: Einsum -> cycles.
    """

    ii: Fraction
    begins: dict[str, Fraction]
    lengths: dict[str, Fraction]
    solution: Solution


def einsum_cycles(binding: Binding, e: int, f: int, tiles: int) -> dict[str, Fraction]:
    """Cycles of each Einsum per tile, in one PE or lane.

    tiles: key tiles per block of queries; an Einsum that does not walk the tiles (the division at
    the end) counts for its share.
    """
    cascade = binding.cascade
    operations = cascade.operations({"M": 1, "M0": 1, "P": 1, "E": e, "F": f})
    shares = {e.name: 1 if cascade.walk in e.ranks else tiles for e in cascade.einsums}
    return {
        name: Fraction(sum(counts.values()), shares[name]) for name, counts in operations.items()
    }


def schedule_einsums(binding: Binding, e: int, f: int, tiles: int) -> EinsumSchedule:
    """The shortest schedule of a binding's Einsums, one tile after the other."""
    cycles = einsum_cycles(binding, e, f, tiles)
    scale = max(length.denominator for length in cycles.values())
    lengths = {name: int(length * scale) for name, length in cycles.items()}
    places = binding.places()
    units = tuple(tuple(name for name in lengths if places[name][0] == unit) for unit in UNITS)
    limit = 2 * sum(lengths.values())
    problem = Problem(tuple(lengths.items()), tuple(_rules(binding, lengths)), units, (), limit)
    solution = solve_cached(problem)
    begins = {name: Fraction(begin, scale) for name, begin in solution.begins}
    return EinsumSchedule(Fraction(solution.ii, scale), begins, cycles, solution)


def _rules(binding: Binding, lengths: dict[str, int]) -> list[Distance]:
    """A tensor is complete before its use, in this tile or (value of the step before) in the next.

    The ends of iterations are used once per block of queries, beside the tiles of the next one.
    """
    cascade, rules = binding.cascade, []
    for einsum in cascade.einsums:
        for operand in einsum.operands:
            producer = cascade.by_name.get(operand.tensor)
            ends = any(index.which == "end" for index in operand.indices)
            if producer is None or ends or producer.name == einsum.name:
                continue
            steps = {i.rank for i in producer.out.indices if i.which == "next"}
            before = any(i.which == "this" and i.rank in steps for i in operand.indices)
            rules.append(Distance(producer.name, einsum.name, lengths[producer.name], int(before)))
    return rules
