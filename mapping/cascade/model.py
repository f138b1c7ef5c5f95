"""Cascades of Einsums: tensors with ranks, Einsums with operators, tensors that iterate.

An index of a tensor is a rank (`m1`), its next step (`m1+1`, of a tensor that iterates) or its end
(`M1`, the value after the last step). Ref: docs/cascades.md; arXiv 2406.10491.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from bankside.errors import ConfigError
from bankside.isa.expr import evaluate


@dataclass(frozen=True)
class Operator:
    """An operator and what it costs per element: unit operation -> how many."""

    operands: int
    cost: Mapping[str, int]


#: Operators of two tensors, or of one (`unary`). An exponential is six multiply-accumulates.
MAPS = {
    "mul": Operator(2, {"mac": 1}),
    "add": Operator(2, {"add": 1}),
    "sub": Operator(2, {"add": 1}),
    "max": Operator(2, {"max": 1}),
    "div": Operator(2, {"divide": 1}),
}
UNARY = {"exp": Operator(1, {"mac": 6})}
REDUCTIONS = {"add": Operator(1, {"add": 1}), "max": Operator(1, {"max": 1})}
UNIT_OPERATIONS = ("mac", "add", "max", "divide")


@dataclass(frozen=True)
class Index:
    """One index of a tensor: `rank`, and which of its elements: `this`, `next` or `end`."""

    rank: str
    which: str = "this"

    def __str__(self) -> str:
        return {"this": self.rank, "next": f"{self.rank}+1", "end": self.rank.upper()}[self.which]


@dataclass(frozen=True)
class Access:
    """A tensor with indices."""

    tensor: str
    indices: tuple[Index, ...]

    @property
    def ranks(self) -> tuple[str, ...]:
        """Ranks that the access walks along; an `end` is one element."""
        return tuple(index.rank for index in self.indices if index.which != "end")

    def __str__(self) -> str:
        return f"{self.tensor}[{', '.join(map(str, self.indices))}]"


@dataclass(frozen=True)
class Einsum:
    """out = reduce(unary(map(operands))), over every element of its ranks."""

    out: Access
    operands: tuple[Access, ...]
    map: str | None
    unary: str | None
    reduce: str | None

    @property
    def name(self) -> str:
        """Name of the tensor that it computes."""
        return self.out.tensor

    @property
    def ranks(self) -> tuple[str, ...]:
        """Ranks of its iteration space."""
        found = [rank for access in (self.out, *self.operands) for rank in access.ranks]
        return tuple(dict.fromkeys(found))

    @property
    def reduced(self) -> tuple[str, ...]:
        """Ranks that it reduces."""
        return tuple(rank for rank in self.ranks if rank not in self.out.ranks)

    @property
    def cost(self) -> dict[str, int]:
        """Unit operations per point of the iteration space."""
        if self.map == "mul" and self.reduce == "add" and self.unary is None:
            return {"mac": 1}  # the reduction is the accumulation
        found: dict[str, int] = {}
        chosen = ((MAPS, self.map), (UNARY, self.unary), (REDUCTIONS, self.reduce))
        for table, name in chosen:
            for unit, count in table[name].cost.items() if name else ():
                found[unit] = found.get(unit, 0) + count
        return found

    def __str__(self) -> str:
        text = ", ".join(map(str, self.operands))
        text = f"{self.map}({text})" if self.map else text
        text = f"{self.unary}({text})" if self.unary else text
        over = f" over {', '.join(self.reduced)}" if self.reduce else ""
        return f"{self.out} = {text}" + (f", {self.reduce}{over}" if self.reduce else "")


@dataclass(frozen=True)
class Cascade:
    """A checked cascade.

    Attributes:
        ranks: rank -> expression of its extent over the shape's parameters.
        inputs: tensor -> ranks. outputs: tensors. walk: rank along which the inputs stream.
        start: iterating tensor -> its value before the first step.
        einsums: in an order in which every operand comes before its use.
    """

    name: str
    ranks: Mapping[str, str]
    inputs: Mapping[str, tuple[str, ...]]
    outputs: tuple[str, ...]
    walk: str
    start: Mapping[str, float]
    einsums: tuple[Einsum, ...]

    @functools.cached_property
    def by_name(self) -> dict[str, Einsum]:
        return {einsum.name: einsum for einsum in self.einsums}

    def ranks_of(self, tensor: str) -> tuple[str, ...]:
        """Ranks of a tensor."""
        if tensor in self.inputs:
            return self.inputs[tensor]
        return tuple(index.rank for index in self.by_name[tensor].out.indices)

    def extents(self, shape: Mapping[str, int]) -> dict[str, int]:
        """Rank -> elements, for parameters such as M, P, E, F.

        Raises ConfigError when a parameter is missing or an extent is not positive.
        """
        found = {}
        for rank, expression in self.ranks.items():
            try:
                found[rank] = int(evaluate(expression, dict(shape)))
            except Exception as error:
                raise ConfigError(
                    f"cascade {self.name}: rank {rank} has {expression} elements; give a shape "
                    f"with its parameters ({error})"
                ) from None
            if found[rank] < 1:
                raise ConfigError(
                    f"cascade {self.name}: rank {rank} has {expression} = {found[rank]} elements; "
                    f"expected at least 1"
                )
        return found

    def size(self, tensor: str, extents: Mapping[str, int]) -> int:
        """Elements of a tensor."""
        return prod(extents[rank] for rank in self.ranks_of(tensor))

    def operations(self, shape: Mapping[str, int]) -> dict[str, dict[str, int]]:
        """Einsum -> unit operation (`mac`, `add`, `max`, `divide`) -> count."""
        extents = self.extents(shape)
        return {
            e.name: {
                unit: count * prod(extents[rank] for rank in e.ranks)
                for unit, count in e.cost.items()
            }
            for e in self.einsums
        }
