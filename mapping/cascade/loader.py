"""Read and check cascade files. Messages name file, line, what is wrong and what would fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from bankside.errors import ConfigError
from bankside.mapping.cascade.model import (
    MAPS,
    REDUCTIONS,
    UNARY,
    Access,
    Cascade,
    Einsum,
    Index,
)
from bankside.registry import nearest
from bankside.strict_yaml import Locations, load_yaml

FOLDER = Path(__file__).parent
_NEEDED = ("ranks", "inputs", "outputs", "walk", "einsums")
_KEYS = (*_NEEDED, "start")
_EINSUM_KEYS = ("out", "of", "map", "unary", "reduce")
_ACCESS = re.compile(r"\s*([A-Za-z_]\w*)?\s*\[([^\[\]]*)\]\s*$")


def cascade_names() -> tuple[str, ...]:
    """Cascades that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def cascade_path(source: str | Path) -> Path:
    """File of a cascade's name, or the path itself. Raises ConfigError for an unknown name."""
    text = str(source)
    if "/" in text or text.endswith((".yaml", ".yml")):
        return Path(source)
    if text not in cascade_names():
        raise ConfigError(
            f"unknown cascade {text!r}{nearest(text, cascade_names())}; choose from: "
            f"{', '.join(cascade_names())}; or give the path of a YAML file"
        )
    return FOLDER / f"{text}.yaml"


def load_cascade(source: str | Path) -> Cascade:
    """The cascade of that name, or in a YAML file. Raises ConfigError with file and line."""
    path = cascade_path(source)
    return _Reader(path.stem, *load_yaml(path)).read()


class _Reader:
    def __init__(self, name: str, data: Any, locations: Locations) -> None:
        self.name, self.data, self.locations = name, data, locations

    def refuse(self, path: Iterable[object], message: str) -> NoReturn:
        raise ConfigError(f"{self.locations.where(tuple(path))}: {message}")

    def section(self, data: Any, path: tuple, keys: Iterable[str], needed: Iterable[str]) -> None:
        """`data` must be a mapping with these keys."""
        if not isinstance(data, dict):
            self.refuse(path, f"expected the keys {', '.join(keys)}; found {data!r}")
        for key in data:
            if key not in keys:
                self.refuse(
                    (*path, key),
                    f"unknown key {key!r}{nearest(str(key), keys)}; valid keys: {', '.join(keys)}",
                )
        for key in needed:
            if key not in data:
                self.refuse(path, f"the key {key!r} is missing; add it")

    # --- parts ------------------------------------------------------------------------------------
    def read(self) -> Cascade:
        """The checked cascade."""
        self.section(self.data, (), _KEYS, _NEEDED)
        for key in ("ranks", "inputs", "einsums"):
            if not isinstance(self.data[key], dict) or not self.data[key]:
                self.refuse((key,), f"{key}: expected `name: ...` lines")
        self.ranks = {str(k): str(v) for k, v in self.data["ranks"].items()}
        for rank in self.ranks:
            if not rank.islower():
                self.refuse(("ranks", rank), f"rank {rank!r}: write it in lower case")
        if self.data["walk"] not in self.ranks:
            self._unknown_rank(("walk",), self.data["walk"])
        self.inputs = {name: self._input(name) for name in self.data["inputs"]}
        self.einsums = {name: self._einsum(name) for name in self.data["einsums"]}
        self._check_names()
        for name, einsum in self.einsums.items():
            self._check_einsum(name, einsum)
        outputs = self._outputs()
        self._check_used(outputs)
        return Cascade(
            self.name, self.ranks, self.inputs, outputs, self.data["walk"], self._start(),
            self._ordered(),
        )  # fmt: skip

    def _unknown_rank(self, path: tuple, rank: object) -> NoReturn:
        known = ", ".join(self.ranks)
        self.refuse(path, f"unknown rank {rank!r}{nearest(str(rank), self.ranks)}; ranks: {known}")

    def _input(self, name: str) -> tuple[str, ...]:
        ranks = self.data["inputs"][name]
        if not isinstance(ranks, list) or not ranks:
            self.refuse(("inputs", name), f"input {name}: expected a list of ranks")
        for rank in ranks:
            if rank not in self.ranks:
                self._unknown_rank(("inputs", name), rank)
        return tuple(ranks)

    def _index(self, text: str, path: tuple) -> Index:
        text = text.replace(" ", "")
        rank, _, step = text.partition("+")
        if rank in self.ranks and step in ("", "1"):
            return Index(rank, "next" if step else "this")
        if text.lower() in self.ranks and text.isupper():
            return Index(text.lower(), "end")
        known = ", ".join(self.ranks)
        self.refuse(
            path,
            f"unknown index {text!r}{nearest(text, self.ranks)}; expected a rank ({known}), a rank "
            f"+1, or its end in upper case",
        )

    def _access(self, text: object, path: tuple, name: str = "") -> Access:
        match = _ACCESS.match(text) if isinstance(text, str) else None
        if match is None or bool(match[1]) == bool(name):
            example = '"[m, p]"' if name else '"K[e, m]"'
            self.refuse(path, f"{text!r} is no tensor with indices; write for example {example}")
        indices = [part for part in match[2].split(",") if part.strip()]
        return Access(name or match[1], tuple(self._index(part, path) for part in indices))

    def _einsum(self, name: str) -> Einsum:
        path, data = ("einsums", name), self.data["einsums"][name]
        self.section(data, path, _EINSUM_KEYS, ("out", "of"))
        for key, table in (("map", MAPS), ("unary", UNARY), ("reduce", REDUCTIONS)):
            operator = data.get(key)
            if operator is not None and operator not in table:
                self.refuse(
                    (*path, key),
                    f"{name}: unknown operator {operator!r}{nearest(str(operator), table)}; "
                    f"{key} can be {', '.join(table)}",
                )
        if not isinstance(data["of"], list) or not data["of"]:
            self.refuse((*path, "of"), f"{name}: expected a list of operands")
        operands = tuple(self._access(text, (*path, "of")) for text in data["of"])
        out = self._access(data["out"], (*path, "out"), name)
        return Einsum(out, operands, data.get("map"), data.get("unary"), data.get("reduce"))

    # --- checks -----------------------------------------------------------------------------------
    def _check_names(self) -> None:
        for name in self.einsums:
            if name in self.inputs:
                self.refuse(("einsums", name), f"{name} is an input already; give one another name")

    def _check_einsum(self, name: str, einsum: Einsum) -> None:
        path = ("einsums", name)
        if any(index.which == "end" for index in einsum.out.indices):
            self.refuse((*path, "out"), f"{name}: an end cannot be written; write the rank + 1")
        for operand in einsum.operands:
            self._check_operand(name, operand)
        wanted = 2 if einsum.map else 1
        if len(einsum.operands) != wanted:
            self.refuse(
                path, f"{name}: {einsum.map or 'no map'} takes {wanted} operands, found "
                f"{len(einsum.operands)}; correct `map` or `of`",
            )  # fmt: skip
        walked = {rank for operand in einsum.operands for rank in operand.ranks}
        for rank in einsum.out.ranks:
            if rank not in walked:
                self.refuse(
                    (*path, "out"), f"{name}: rank {rank} stands in no operand; remove it from "
                    f"`out` or add an operand that has it",
                )  # fmt: skip
        if bool(einsum.reduced) != bool(einsum.reduce):
            gone = ", ".join(einsum.reduced)
            self.refuse(
                path,
                f"{name}: rank {gone} is in the operands but not in `out`; add `reduce`"
                if gone
                else f"{name}: `reduce` finds no rank to reduce; remove it or the rank from `out`",
            )

    def _check_operand(self, name: str, operand: Access) -> None:
        path = ("einsums", name, "of")
        known = {**self.inputs, **{n: e.out.indices for n, e in self.einsums.items()}}
        if operand.tensor not in known:
            self.refuse(
                path, f"{name}: tensor {operand.tensor!r} is not defined"
                f"{nearest(operand.tensor, known)}; defined are {', '.join(known)}",
            )  # fmt: skip
        if operand.tensor in self.inputs:
            ranks, steps = self.inputs[operand.tensor], set()
        else:
            indices = self.einsums[operand.tensor].out.indices
            ranks = tuple(index.rank for index in indices)
            steps = {index.rank for index in indices if index.which == "next"}
        if tuple(index.rank for index in operand.indices) != ranks:
            self.refuse(
                path, f"{name}: {operand} has other ranks than {operand.tensor}"
                f"[{', '.join(ranks)}]; write those",
            )  # fmt: skip
        for index in operand.indices:
            if index.which == "next" and index.rank not in steps:
                self.refuse(
                    path, f"{name}: {operand.tensor} does not iterate over {index.rank}; write "
                    f"{index.rank}",
                )  # fmt: skip

    def _outputs(self) -> tuple[str, ...]:
        outputs = self.data["outputs"]
        if not isinstance(outputs, list) or not outputs:
            self.refuse(("outputs",), "outputs: expected a list of tensors")
        for name in outputs:
            if name not in self.einsums:
                self.refuse(
                    ("outputs",), f"output {name!r} is not computed"
                    f"{nearest(str(name), self.einsums)}; Einsums: {', '.join(self.einsums)}",
                )  # fmt: skip
        return tuple(outputs)

    def _check_used(self, outputs: tuple[str, ...]) -> None:
        used = {
            operand.tensor
            for name, einsum in self.einsums.items()
            for operand in einsum.operands
            if operand.tensor != name
        } | set(outputs)
        for kind, names in (("inputs", self.inputs), ("einsums", self.einsums)):
            for name in names:
                if name not in used:
                    self.refuse((kind, name), f"{name} is not used; remove it or use it")

    def _start(self) -> Mapping[str, float]:
        start = self.data.get("start", {})
        self.section(start, ("start",), tuple(self.einsums), ())
        iterating = {
            name
            for name, e in self.einsums.items()
            if any(i.which == "next" for i in e.out.indices)
        }
        for name in iterating - set(start):
            self.refuse(
                ("einsums", name), f"{name} iterates and has no value to begin with; add it to "
                f"`start`",
            )  # fmt: skip
        for name, value in start.items():
            if name not in iterating:
                self.refuse(("start", name), f"{name} does not iterate; remove it from `start`")
            if not isinstance(value, int | float):
                try:
                    start[name] = float(value)
                except (TypeError, ValueError):
                    self.refuse(("start", name), f"{name} starts with {value!r}; expected a number")
        return {name: float(value) for name, value in start.items()}

    def _ordered(self) -> tuple[Einsum, ...]:
        """Einsums so that operands come first; the value of the step before is there already."""
        done: dict[str, Einsum] = {}
        left = dict(self.einsums)
        while left:
            ready = [n for n, e in left.items() if all(self._ready(o, done) for o in e.operands)]
            if not ready:
                circle = self._circle(left, done)
                self.refuse(
                    ("einsums", circle[0]), f"{' needs '.join([*circle, circle[0]])}; break the "
                    f"circle, or let one of them iterate",
                )  # fmt: skip
            done |= {name: left.pop(name) for name in ready}
        return tuple(done.values())

    def _circle(self, left: Mapping[str, Einsum], done: Mapping[str, Einsum]) -> list[str]:
        """Einsums that need each other, each the next one."""
        path = [next(iter(left))]
        while True:
            operands = left[path[-1]].operands
            following = next(o.tensor for o in operands if not self._ready(o, done))
            if following in path:
                return path[path.index(following) :]
            path.append(following)

    def _ready(self, operand: Access, done: Mapping[str, Einsum]) -> bool:
        if operand.tensor in self.inputs or operand.tensor in done:
            return True
        steps = {i.rank for i in self.einsums[operand.tensor].out.indices if i.which == "next"}
        return any(i.which == "this" and i.rank in steps for i in operand.indices)
