"""Bindings: load and check the YAML files beside this module, or a user's own.

A binding says which Einsum of a cascade runs as which block on which unit, how the blocks are
split into kernels, whether iterations overlap, and where the scores of a tile stay.
Ref: docs/cascades.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bankside.errors import ConfigError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.array_schedule import Schedule, fixed_length
from bankside.mapping.schedule_modulo import Solution, modulo_schedule
from bankside.registry import nearest
from bankside.strict_yaml import load_yaml

FOLDER = Path(__file__).parent


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
        self, machine: ArrayMachine, e: int, f: int, format: str
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
        cascade: name of the cascade or path of its file.
        scores: where the scores of a tile stay: `array` (PEs), `banks` (columns) or `memory`.
        kernels: one after the other for each block of queries.
    """

    name: str
    cascade: str
    scores: str
    kernels: tuple[Kernel, ...]


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
    data, _ = load_yaml(path)
    kernels = tuple(
        Kernel(
            tuple(
                (op, tuple((unit, tuple(names)) for unit, names in units.items()))
                for op, units in kernel["blocks"].items()
            ),
            kernel["overlap"],
            kernel.get("chunked", False),
            kernel.get("correct", False),
        )
        for kernel in data["kernels"]
    )
    return Binding(path.stem, data["cascade"], data["scores"], kernels)
