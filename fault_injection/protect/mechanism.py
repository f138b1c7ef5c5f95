"""What a protection mechanism is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from bankside.fault_injection.protect.netlist import Module
from bankside.schema import Section

__all__ = ["Kind", "Mechanism", "NoOptions", "Target"]

#: What a mechanism works on: single registers, single memories, the instance that is the block, the
#: module that the block is, the top alone, or nothing in the netlist (the cells themselves).
Kind = Literal["registers", "memories", "instance", "body", "top", "cells"]


class NoOptions(Section):
    """A mechanism with nothing to choose."""


@dataclass(frozen=True)
class Target:
    """What is to be protected.

    Attributes:
        module: the module it is in; for "body" and "top" the module itself.
        name: of the register, memory or instance; "" for "body" and "top".
        cell: its cell; {} for "body" and "top".
        options: of the class that the mechanism names.
        design: every module of the result by name; new ones may be added.
    """

    module: Module
    name: str
    cell: dict[str, Any]
    options: Any
    design: dict[str, Any]

    def alarm(self, alarm: str, bit: object) -> None:
        """Raise `corrected` or `detected` in every cycle in which `bit` is high."""
        self.module.alarms[alarm].append(bit)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Mechanism:
    """A way to protect.

    Attributes:
        kinds: what `apply` can be given.
        apply: changes the module of a target.
        options: what the user may choose.
        alarms: which alarms it can raise.
    """

    kinds: tuple[Kind, ...]
    apply: Callable[[Target], None]
    options: type[Section] = NoOptions
    alarms: tuple[str, ...] = ("detected",)
