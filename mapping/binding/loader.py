"""Bindings: load and check the YAML files beside this module, or a user's own.

A binding says which Einsum of a cascade runs as which block on which unit, how the blocks are
split into kernels, whether iterations overlap, and where the scores of a tile stay.
Ref: docs/cascades.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from bankside.errors import ConfigError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_schedule import (
    OPS,
    SCORE_READERS,
    SCORE_WRITERS,
    Schedule,
    fixed_length,
)
from bankside.mapping.cascade.loader import load_cascade
from bankside.mapping.cascade.model import Cascade, Einsum
from bankside.mapping.schedule_modulo import Solution, modulo_schedule
from bankside.registry import nearest
from bankside.strict_yaml import Locations, load_yaml

FOLDER = Path(__file__).parent
UNITS = ("array", "lanes")
SCORES = ("array", "banks", "memory")
_DOT, _WEIGHTED = "products of queries and keys", "sums of values"
_EXPS, _MAXIMUM, _SUM, _QUOTIENTS = (
    "exponentials of scores", "maximum of scores", "sum of scores", "quotients of scores",
)  # fmt: skip
_RUNNING, _FACTOR, _DIVIDE, _TOTAL = (
    "maximum per tile", "exponential per tile", "quotients per query", "sum over tiles",
)  # fmt: skip
_SCALED, _ADDED = "products per tile", "sums per tile"
#: (map, unary, reduce) of an Einsum over all scores -> what it is; and of one over tiles, queries.
_OVER_SCORES = {
    ("sub", "exp", None): _EXPS, (None, None, "max"): _MAXIMUM, (None, None, "add"): _SUM,
    ("div", None, None): _QUOTIENTS,
}  # fmt: skip
_OVER_TILES = {
    ("max", None, None): _RUNNING, ("sub", "exp", None): _FACTOR, ("div", None, None): _DIVIDE,
    (None, None, "add"): _TOTAL, ("mul", None, None): _SCALED, ("add", None, None): _ADDED,
}  # fmt: skip
#: Block -> unit -> what it computes there (docs/array.md section 3).
CAPABILITIES: dict[str, dict[str, set[str]]] = {
    "qk": {"array": {_DOT}},
    "lm": {"array": {_MAXIMUM}, "lanes": {_RUNNING, _FACTOR}},
    "exp": {"array": {_EXPS}},
    "sld": {"array": {_SUM}, "lanes": {_SCALED, _ADDED}},
    "slnv": {"array": {_WEIGHTED}, "lanes": {_SCALED, _ADDED, _TOTAL}},
    "drain": {"lanes": {_MAXIMUM, _RUNNING, _FACTOR}},
    "passx": {"lanes": {_EXPS, _SUM, _SCALED, _ADDED}},
    "passd": {"lanes": {_QUOTIENTS}},
    "fill": {"lanes": {_FACTOR}},
    "rcp": {},
    "one": {},
    "av": {"lanes": {_DIVIDE}},
}
_KERNEL_KEYS = ("overlap", "chunked", "correct", "blocks")


@dataclass(frozen=True)
class Kernel:
    """Blocks that run in one schedule.

    Attributes:
        blocks: (block, ((unit, Einsums), ...)) in the order of the file.
        overlap: iterations overlap in the 2D array.
        chunked, correct: operands of KERNEL.
    """

    blocks: tuple[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], ...]
    overlap: bool
    chunked: bool
    correct: bool

    @property
    def ops(self) -> tuple[str, ...]:
        """Block operations."""
        return tuple(op for op, _ in self.blocks)

    def lengths(self, machine: ArrayMachine, e: int, f: int) -> dict[str, int]:
        """Slots of each block for queries of `e` and values of `f` elements."""
        chosen = {"qk": e, "slnv": f, "av": f}
        return {op: fixed_length(op, machine) or chosen[op] for op in self.ops}

    def schedule(
        self, machine: ArrayMachine, e: int, f: int, format: str = "fp16"
    ) -> tuple[Schedule, Solution]:
        """The best schedule for queries of `e` and values of `f` elements."""
        return modulo_schedule(
            self.lengths(machine, e, f),
            machine,
            format=format,
            chunked=self.chunked,
            correct=self.correct,
            one_at_a_time=not self.overlap,
        )


@dataclass(frozen=True)
class Binding:
    """A checked binding.

    Attributes:
        scores: where the scores of a tile stay: `array` (PEs), `banks` (columns) or `memory`.
        kernels: one after the other for each block of queries.
    """

    name: str
    cascade: Cascade
    scores: str
    kernels: tuple[Kernel, ...]

    def places(self) -> dict[str, tuple[str, str]]:
        """Einsum -> (unit, block)."""
        return {
            name: (unit, op)
            for kernel in self.kernels
            for op, units in kernel.blocks
            for unit, names in units
            for name in names
        }

    def operations(self, shape: Mapping[str, int]) -> dict[str, dict[str, int]]:
        """Unit (`array`, `lanes`) -> unit operation -> count, at a shape of the cascade."""
        found: dict[str, dict[str, int]] = {unit: {} for unit in UNITS}
        places = self.places()
        for name, counts in self.cascade.operations(shape).items():
            unit = found[places[name][0]]
            for operation, count in counts.items():
                unit[operation] = unit.get(operation, 0) + count
        return found


def binding_names() -> tuple[str, ...]:
    """Bindings that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def _path(source: str | Path) -> Path:
    text = str(source)
    if "/" in text or text.endswith((".yaml", ".yml")):
        return Path(source)
    if text not in binding_names():
        raise ConfigError(
            f"unknown binding {text!r}{nearest(text, binding_names())}; choose from: "
            f"{', '.join(binding_names())}; or give the path of a YAML file"
        )
    return FOLDER / f"{text}.yaml"


def load_binding(source: str | Path) -> Binding:
    """The binding of that name, or in a YAML file. Raises ConfigError with file and line."""
    path = _path(source)
    return _Reader(path, *load_yaml(path)).read()


class _Reader:
    def __init__(self, path: Path, data: Any, locations: Locations) -> None:
        self.path, self.data, self.locations = path, data, locations

    def refuse(self, path: Iterable[object], message: str) -> NoReturn:
        raise ConfigError(f"{self.locations.where(tuple(path))}: {message}")

    def choice(self, path: tuple, what: str, value: object, valid: Iterable[str]) -> None:
        valid = tuple(valid)
        if value not in valid:
            self.refuse(
                path,
                f"unknown {what} {value!r}{nearest(str(value), valid)}; choose from: "
                f"{', '.join(valid)}",
            )

    def keys(self, path: tuple, data: Any, valid: tuple[str, ...], needed: tuple[str, ...]) -> None:
        if not isinstance(data, dict):
            self.refuse(path, f"expected the keys {', '.join(valid)}; found {data!r}")
        for key in data:
            self.choice((*path, key), "key", key, valid)
        for key in needed:
            if key not in data:
                self.refuse(path, f"the key {key!r} is missing; add it")

    def read(self) -> Binding:
        """The checked binding."""
        needed = ("cascade", "scores", "kernels")
        self.keys((), self.data, needed, needed)
        self.choice(("scores",), "place of the scores", self.data["scores"], SCORES)
        self.cascade = self._cascade()
        if not isinstance(self.data["kernels"], list) or not self.data["kernels"]:
            self.refuse(("kernels",), "kernels: expected a list")
        # The Einsum without operands that are computed makes the scores.
        self.scores = set(self.cascade.einsums[0].out.ranks)
        self.bound: dict[str, tuple] = {}
        kernels = tuple(self._kernel(number) for number in range(len(self.data["kernels"])))
        for name in self.cascade.by_name:
            if name not in self.bound:
                self.refuse(
                    ("kernels",), f"Einsum {name} of {self.cascade.name} is not bound; add it to "
                    f"{self._fitting(self.cascade.by_name[name])}",
                )  # fmt: skip
        self._check_order()
        self._check_shape(kernels)
        return Binding(self.path.stem, self.cascade, self.data["scores"], kernels)

    def _cascade(self) -> Cascade:
        source = self.data["cascade"]
        if not isinstance(source, str):
            self.refuse(("cascade",), f"cascade is {source!r}; expected a name or a path")
        if "/" in source or source.endswith((".yaml", ".yml")):
            return load_cascade(self.path.parent / source)
        try:
            return load_cascade(source)
        except ConfigError as error:
            if str(error).startswith("unknown cascade"):
                self.refuse(("cascade",), str(error))
            raise

    def _kernel(self, number: int) -> Kernel:
        path, data = ("kernels", number), self.data["kernels"][number]
        self.keys(path, data, _KERNEL_KEYS, ("overlap", "blocks"))
        for key in ("overlap", "chunked", "correct"):
            if not isinstance(data.get(key, False), bool):
                self.refuse((*path, key), f"{key} is {data[key]!r}; expected true or false")
        if not isinstance(data["blocks"], dict) or not data["blocks"]:
            self.refuse((*path, "blocks"), "blocks: expected `block: {unit: [Einsums]}` lines")
        blocks = tuple(
            (op, self._block((*path, "blocks", op), op, number)) for op in data["blocks"]
        )
        return Kernel(
            blocks, data["overlap"], data.get("chunked", False), data.get("correct", False)
        )

    def _block(self, path: tuple, op: str, number: int) -> tuple:
        self.choice(path, "block", op, OPS)
        units = self.data["kernels"][number]["blocks"][op]
        self.keys(path, units, UNITS, ())
        for unit, names in units.items():
            if not isinstance(names, list):
                self.refuse((*path, unit), f"{op} on {unit}: expected a list of Einsums")
            for name in names:
                self._bind((*path, unit), name, op, unit, number)
        return tuple((unit, tuple(names)) for unit, names in units.items())

    def _bind(self, path: tuple, name: str, op: str, unit: str, number: int) -> None:
        self.choice(path, f"Einsum of {self.cascade.name}", name, self.cascade.by_name)
        if name in self.bound:
            self.refuse(path, f"Einsum {name} is bound to {self.bound[name][1]}, too; keep one")
        einsum = self.cascade.by_name[name]
        if kind_of(einsum, self.scores) not in CAPABILITIES[op].get(unit, set()):
            self.refuse(
                path,
                f"block {op} does not compute {einsum} on {unit}; it fits {self._fitting(einsum)}",
            )
        self.bound[name] = (number, op)

    def _fitting(self, einsum: Einsum) -> str:
        fits = [
            f"{op} on {unit}"
            for op, units in CAPABILITIES.items()
            for unit, kinds in units.items()
            if kind_of(einsum, self.scores) in kinds
        ]
        return ", ".join(fits) or "no block of this machine"

    def _check_order(self) -> None:
        """No Einsum in an earlier kernel than one that it needs."""
        seen: set[str] = set()
        for einsum in self.cascade.einsums:
            for operand in einsum.operands:
                number, op = self.bound[einsum.name]
                if operand.tensor in seen and self.bound[operand.tensor][0] > number:
                    self.refuse(
                        ("kernels", number, "blocks", op),
                        f"Einsum {einsum.name} needs {operand.tensor}, which a later kernel "
                        f"computes; move one of them",
                    )
            seen.add(einsum.name)

    def _check_shape(self, kernels: tuple[Kernel, ...]) -> None:
        """What the lowering relies on."""
        for op, where in (("qk", 0), ("av", len(kernels) - 1)):
            if op not in kernels[where].ops:
                which = "first" if where == 0 else "last"
                self.refuse(("kernels", where), f"block {op} is missing in the {which} kernel")
        moves = {op for kernel in kernels for op in kernel.ops}
        moves &= {*SCORE_READERS, *SCORE_WRITERS}
        scores = self.data["scores"]
        if (scores == "array") == bool(moves):
            found = ", ".join(sorted(moves)) or "no block moves them"
            self.refuse(
                ("scores",), f"scores stay in {scores}, but the blocks say otherwise ({found}); "
                f"use {'banks or memory' if moves else 'array'}",
            )  # fmt: skip
        if scores != "memory" and len(kernels) > 1 and "slnv" in kernels[0].ops:
            self.refuse(
                ("kernels", 0), "slnv and av stand in different kernels; put slnv after the first"
            )


def kind_of(einsum: Einsum, scores: set[str]) -> str:
    """What an Einsum is in a cascade whose scores have these ranks; "" for none that is known."""
    operators = einsum.map, einsum.unary, einsum.reduce
    if not scores <= set(einsum.ranks):
        return _OVER_TILES.get(operators, "")
    if operators == ("mul", None, "add"):
        return _WEIGHTED if scores & set(einsum.reduced) else _DOT
    return _OVER_SCORES.get(operators, "")
