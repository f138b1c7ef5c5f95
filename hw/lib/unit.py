"""Elaborate once, instantiate many times.

Amaranth elaborates every submodule instance on its own, so 128 equal banks would become 128 bodies
in the exported Verilog, each compiled separately. A `Unit` is the boundary that prevents it: inside
an Amaranth simulation it is the component itself; in an export it is an `Instance` of a module that
`ExportPlatform` elaborates a single time.
"""

import re
from collections.abc import Callable
from typing import Any, NoReturn

from amaranth.back import rtlil
from amaranth.hdl import (
    ClockDomain,
    ClockSignal,
    Elaboratable,
    Fragment,
    Instance,
    ResetSignal,
    Value,
)
from amaranth.hdl._ir import PortDirection  # needed for explicit directions, exported nowhere
from amaranth.lib import wiring

from bankside.errors import ConfigError
from bankside.hw.lib.fingerprint import fingerprint

__all__ = ["ExportPlatform", "Unit", "flat_ports"]

_NAME = re.compile(r"bankside_[a-z0-9_]*[a-z0-9]\Z")
# The two places of an RTLIL text where a module name stands; Amaranth joins the hierarchy by dots.
_MODULE_NAME = re.compile(r"^(\s*(?:module|cell) \\)(\S+)", re.MULTILINE)
_TOP_MARK = re.compile(r"^\s*attribute \\top 1\n", re.MULTILINE)


def flat_ports(component: wiring.Component) -> dict[str, tuple[Value, str]]:
    """Every port of `component` as `{"member__submember": (value, "i" or "o")}`, in order."""
    ports = {}
    for path, member, value in component.signature.flatten(component):
        direction = "i" if member.flow == wiring.In else "o"
        ports["__".join(map(str, path))] = (Value.cast(value), direction)
    return ports


class Unit(Elaboratable):
    """One instance of a component whose body is shared by all units of the same `name`.

    Parameters
    ----------
    component : the component; its ports are attributes of the unit (`unit.port`), so a parent uses
        the unit exactly as it would use the component.
    name : Verilog module name, `bankside_` and lower-case letters, digits, underscores.
    key : replaces the automatic fingerprint that tells equal components from different ones.
    reset : reset of the exported instance, by default that of the parent.

    Raises
    ------
    ConfigError: on a malformed name, and at export when two units of one name differ.

    The body runs in the domain `sync` of the parent. `EnableInserter` and `ResetInserter` do not
    reach through the boundary; give the component an enable port instead.
    """

    def __init__(
        self,
        component: wiring.Component,
        name: str,
        *,
        key: str | None = None,
        reset: Value | None = None,
    ) -> None:
        if not isinstance(component, wiring.Component):
            raise ConfigError(f"Unit needs a wiring.Component, not {component!r}")
        check_name(name)
        self.component = component
        self.name = name
        self._key = key
        self._reset = reset

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        return self.component.signature

    @property
    def key(self) -> str:
        """Text that is equal for two units exactly when their bodies are the same."""
        return self._key if self._key is not None else fingerprint(self.component)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_") or attribute == "component":
            raise AttributeError(attribute)
        return getattr(self.component, attribute)

    def elaborate(self, platform: object) -> Elaboratable | Instance:
        if not isinstance(platform, ExportPlatform):
            return self.component
        platform.add_unit(self)
        ports = {f"{io}_{name}": value for name, (value, io) in flat_ports(self.component).items()}
        reset = ResetSignal("sync") if self._reset is None else self._reset
        return Instance(
            self.name, i_clk=ClockSignal("sync"), i_rst=reset, **ports
        )


class ExportPlatform:
    """Elaboration target that collects the RTLIL of a top and of each distinct `Unit` in it."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}
        self._texts: dict[str, str] = {}

    @property
    def modules(self) -> dict[str, str]:
        """RTLIL text by unit name, in the order in which the units were met."""
        return dict(self._texts)

    def add_unit(self, unit: Unit) -> None:
        """Elaborate `unit` unless an equal one of that name is known already."""
        key = unit.key
        known = self._keys.setdefault(unit.name, key)
        if known != key:
            raise ConfigError(
                f"two different units share the name {unit.name!r}:\n  {known}\n  {key}\n"
                f"expected one set of parameters per name; put the parameter into the name"
            )
        if unit.name in self._texts:
            return
        self._texts[unit.name] = ""  # claimed, so that a unit inside itself ends below
        self._texts[unit.name] = self._convert(unit.component, unit.name)

    def convert(self, component: wiring.Component, name: str) -> str:
        """RTLIL of `component` as top module `name`, followed by every unit below it."""
        check_name(name)
        if name in self._keys:
            raise ConfigError(f"the top {name!r} has the name of a unit; choose another name")
        self._keys[name] = "top"
        top = self._convert(component, name)
        # Only the top may carry the mark that tools take as "start here".
        units = [_TOP_MARK.sub("", text) for text in self._texts.values()]
        return "\n".join([top, *units])

    def _convert(self, component: wiring.Component, name: str) -> str:
        domain = ClockDomain("sync")
        fragment = Fragment.get(component, self)
        if "sync" in fragment.domains:
            raise ConfigError(f"{name!r} defines the domain 'sync', which its parent must provide")
        # Present even in a module without registers: every module has the same two first ports.
        fragment.add_domains(domain)
        ports = {"clk": (domain.clk, PortDirection.Input), "rst": (domain.rst, PortDirection.Input)}
        for port, (value, io) in flat_ports(component).items():
            direction = PortDirection.Input if io == "i" else PortDirection.Output
            ports[port] = (value, direction)
        text, _ = rtlil.convert_fragment(
            fragment, ports, name, emit_src=False, missing_domain=_refuse_domain(name)
        )
        return _MODULE_NAME.sub(lambda match: match[1] + match[2].replace(".", "__"), text)


def check_name(name: str) -> None:
    """Raise `ConfigError` unless `name` may be the name of an exported module."""
    if not _NAME.match(name):
        raise ConfigError(
            f"{name!r} cannot name an exported module: expected 'bankside_' and lower-case "
            f"letters, digits, underscores"
        )


def _refuse_domain(name: str) -> Callable[[str], NoReturn]:
    def refuse(domain: str) -> NoReturn:
        raise ConfigError(f"{name!r} uses the clock domain {domain!r}; a module has only 'sync'")

    return refuse
