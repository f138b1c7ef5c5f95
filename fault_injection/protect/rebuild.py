"""Puts the mechanisms of a plan into the modules of a design, from the leaves to the top.

A module whose instances are treated differently becomes one module for each treatment.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bankside.errors import ConfigError
from bankside.fault_injection.protect.mechanism import Kind, Target
from bankside.fault_injection.protect.netlist import ALARM_PREFIX, ALARMS, FLOPS, Module
from bankside.fault_injection.protect.plan import Plan, Use, by_kind
from bankside.registry import nearest

__all__ = ["rebuild"]

Uses = tuple[Use, ...]
Blocks = dict[str, Uses]


@dataclass
class _Built:
    """A module with its protection.

    Attributes:
        name: of the module in the result.
        alarms: it has output ports for.
        renamed, added, covered: paths below it, as in `Netlist`.
        used: (block relative to the module, mechanism) that did something; "" is the block that
            the module itself lies in.
    """

    name: str
    alarms: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    covered: dict[str, str] = field(default_factory=dict)
    used: set[tuple[str, str]] = field(default_factory=set)

    def take(self, name: str, child: _Built, is_block: bool) -> None:
        """What is below instance `name`."""
        self.renamed |= {f"{name}.{a}": f"{name}.{b}" for a, b in child.renamed.items()}
        self.added += [f"{name}.{path}" for path in child.added]
        covered = child.covered.items()
        self.covered |= {f"{name}.{path}" if path else name: use for path, use in covered}
        own = name if is_block else ""
        self.used |= {(f"{name}.{block}" if block else own, use) for block, use in child.used}


def rebuild(design: dict[str, Any], top: str, plan: Plan) -> dict[str, Any]:
    """Change `design` in place; return `renamed`, `added`, `covered` as in `Netlist`.

    Raises:
        ConfigError: a block that is not there or holds nothing its mechanism could protect, or a
            signal named like an alarm.
    """
    if top not in design["modules"]:
        raise ConfigError(
            f"no module {top!r} in the netlist; it has {', '.join(list(design['modules'])[:5])}"
        )
    for alarm in ALARMS:
        if alarm in design["modules"][top]["netnames"]:
            raise ConfigError(
                f"{top} has a signal {alarm!r} of its own, which is the name of an alarm port; "
                f"rename it"
            )
    builder = _Builder(design["modules"])
    inside = {block: uses for block, uses in plan.items() if block}
    built = builder.build(top, "", plan.get("", ()), inside, top=True)
    design["modules"] = builder.finished()
    for block, uses in plan.items():
        for use in uses:
            if (block, use.name) not in built.used:
                raise ConfigError(
                    f"protection of {block or 'the whole design'!r}: there is nothing that "
                    f"{use.name} could protect ({' or '.join(use.mechanism.kinds)}); leave it out"
                )
    return {"renamed": built.renamed, "added": built.added, "covered": built.covered}


class _Builder:
    """Modules of the result, each treatment of a module built once."""

    def __init__(self, source: dict[str, Any]) -> None:
        self.source = source
        self.result: dict[str, Any] = {}
        self._known: dict[str, _Built] = {}
        self._treatments: dict[str, list[str]] = {}

    def build(
        self, kind: str, path: str, uses: Uses, inside: Blocks, *, top: bool = False
    ) -> _Built:
        """Module `kind` at `path`, in a block with `uses`; `inside`: blocks relative to it."""
        if not (uses or inside or top):
            self._keep(kind)
            return _Built(kind)
        shown = {name: [use.key() for use in found] for name, found in inside.items()}
        key = json.dumps([kind, [use.key() for use in uses], shown], sort_keys=True)
        if key not in self._known:
            self._known[key] = self._make(kind, path, uses, inside, top)
        return self._known[key]

    def finished(self) -> dict[str, Any]:
        """The modules, those with a single treatment under their own names."""
        names = {built[0]: kind for kind, built in self._treatments.items() if len(built) == 1}
        modules = {names.get(name, name): data for name, data in self.result.items()}
        for data in modules.values():
            for cell in data["cells"].values():
                cell["type"] = names.get(cell["type"], cell["type"])
            _name_registers(data)
        return modules

    def _keep(self, kind: str) -> None:
        """Take a module and all below it as they are."""
        if kind in self.result or kind not in self.source:
            return
        self.result[kind] = copy.deepcopy(self.source[kind])
        self._treatments.setdefault(kind, []).append(kind)
        for cell in self.source[kind]["cells"].values():
            self._keep(cell["type"])

    def _make(self, kind: str, path: str, uses: Uses, inside: Blocks, top: bool) -> _Built:
        module = Module(kind, copy.deepcopy(self.source[kind]))
        treatments = self._treatments.setdefault(kind, [])
        treatments.append(f"{kind}__p{len(treatments) + 1}")
        built = _Built(treatments[-1])
        items = {**module.registers(), **module.memories()}
        _check_names(path, inside, [*items, *(name for name, _ in module.instances())])
        for name, cell in list(module.instances()):
            self._child(module, built, path, name, cell, uses, inside)
        for name, cell in items.items():
            if cell["type"] in FLOPS and module.holds_clock(cell):
                # It is written before anybody reads what hit it, and a voter behind it would be
                # logic in a clock: the gate stays as it is.
                continue
            block = name if name in inside else ""
            kind_of = "memories" if cell["type"] == "$mem_v2" else "registers"
            self._apply(module, built, block, inside.get(name, uses), kind_of, name, cell)
        self._apply(module, built, "", uses, "body", "", {})
        if top:
            self._apply(module, built, "", uses, "top", "", {})
        built.used |= {("", use.name) for use in uses if "cells" in use.mechanism.kinds}
        built.alarms = _alarm_ports(module, top)
        built.renamed |= module.renamed
        built.added += module.added
        self.result[built.name] = module.data
        return built

    def _child(
        self,
        module: Module,
        built: _Built,
        path: str,
        name: str,
        cell: dict[str, Any],
        uses: Uses,
        inside: Blocks,
    ) -> None:
        """Build what instance `name` is of, connect its alarms, protect the instance itself."""
        if cell["type"] not in self.source:
            return
        whole = f"{path}.{name}" if path else name
        prefix = f"{name}."
        deeper = {b.removeprefix(prefix): u for b, u in inside.items() if b.startswith(prefix)}
        is_block = name in inside
        within = tuple(u for u in inside.get(name, uses) if _enters(u, is_block))
        child = self.build(cell["type"], whole, within, deeper)
        cell["type"] = child.name
        built.take(name, child, is_block)
        for alarm in child.alarms:
            bit = module.wire(1)
            cell["connections"][ALARM_PREFIX + alarm] = bit
            cell["port_directions"][ALARM_PREFIX + alarm] = "output"
            module.alarms[alarm] += bit
        if is_block:
            self._apply(module, built, name, inside[name], "instance", name, cell)

    def _apply(
        self,
        module: Module,
        built: _Built,
        block: str,
        uses: Uses,
        kind: Kind,
        name: str,
        cell: dict[str, Any],
    ) -> None:
        use = by_kind(uses).get(kind)
        if use is None:
            return
        target = Target(module, name, cell, use.options, self.result)
        use.mechanism.apply(target)
        built.covered[name] = use.name
        built.used.add((block, use.name))


def _enters(use: Use, is_block: bool) -> bool:
    """Whether a mechanism concerns what is inside an instance: the block itself, or one in it."""
    kinds = {"registers", "memories", "cells"} | ({"body"} if is_block else set())
    return not kinds.isdisjoint(use.mechanism.kinds)


def _alarm_ports(module: Module, top: bool) -> tuple[str, ...]:
    """Give the module its alarm outputs; the top has both in any case."""
    found = tuple(alarm for alarm in ALARMS if module.alarms[alarm] or top)
    for alarm in found:
        bit = module.any(module.alarms[alarm] or ["0"])
        module.output(alarm if top else ALARM_PREFIX + alarm, [bit])
    return found


def _check_names(path: str, inside: Blocks, valid: Sequence[str]) -> None:
    """Every block starts with something that is there."""
    for block in inside:
        if block not in valid and not any(block.startswith(f"{name}.") for name in valid):
            first = block.partition(".")[0]
            raise ConfigError(
                f"protection of {f'{path}.{block}' if path else block!r}: "
                f"{path or 'the top'} holds no {first!r}{nearest(first, valid)}; expected an "
                f"instance, register or memory, as sites are named"
            )


def _name_registers(data: dict[str, Any]) -> None:
    """Let the Verilog call registers what `Module.register_name` does, with power-on values.

    Of several names of the same nets Yosys gives the last one of the file to the register (that of
    a port if there is one), and takes the power-on value from it alone.
    """
    module = Module("", data)
    for cell in data["cells"].values():
        if cell["type"] not in FLOPS:
            continue
        bits = cell["connections"]["Q"]
        names, initial = module.names(bits), module.initial(bits)
        for name in names:
            if set(initial) != {"x"}:
                data["netnames"][name]["attributes"]["init"] = initial
        name = module.register_name(cell)
        data["netnames"][name] = data["netnames"].pop(name)
