"""Every bit of a design that can be hit, by name, with its block and its role.

Names are those of the lane engine and the referee: all three read the netlist by
`sim.lanes.netlist`. Ref: docs/faults.md, docs/inject.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from bankside.errors import ConfigError
from bankside.registry import nearest
from bankside.schema import Section
from bankside.sim.faults import STORE, Site
from bankside.sim.lanes.flatten import load
from bankside.sim.lanes.netlist import Module, width_of

__all__ = ["ROLES", "Grouping", "Role", "bits_of", "chosen", "grouped", "is_dram", "role_of",
           "sites_of"]  # fmt: skip

Role = Literal["data", "control", "configuration"]
ROLES: tuple[Role, ...] = get_args(Role)
#: Group of what lies in no instance, and of the main memory.
TOP, MEMORY = "top", "main memory"
#: Name of the copy that protection puts beside an instance: the same block.
_COPY = "__dwc"

# Instances and registers that hold what the host or the program has set.
_CONFIGURATION = re.compile(
    r"(^|[._])(registers?|config|program|schedule|geometry)(\$\d+)?([._]|$)"
)
# Words of a name that say that something steers rather than is computed with.
_CONTROL = re.compile(
    r"(^|[._])(fsm|state|mode|phase|busy|valid|ready|pending|start|started|done|stopped|running|"
    r"first|last|more|level|head|tail|place|place\d+|free|tokens?|count|counts|counter|cycle|left|"
    r"remaining|cursor|index|position|step|steps|column|row|addr|address|depth|timers?|window\d*|"
    r"timer|history\d*|sequencer|sequence|control|dispatch|walk|nest|loops?|pc|en|enable|reset|"
    r"checker|under|way|outstanding|grant|chosen|select)"
    r"(?=[._$\d]|$)"
)
_DRAM = re.compile(r"(^|\.)bank\d+\.array\.cells$")


class Grouping(Section):
    """How reports and strata group sites.

    Attributes:
        depth: instances from the top down that make the name of a block.
        roles: role -> patterns (`*`, `?`) of paths that have it whatever their names say; the
            first role that matches counts.
    """

    depth: int = Field(default=2, ge=1, le=16)
    roles: dict[Role, list[str]] = Field(default_factory=dict)


DEFAULT = Grouping()


def sites_of(
    netlist: Path, grouping: Grouping = DEFAULT, *, store_bytes: int = 0
) -> dict[str, Site]:
    """Sites of a word-level netlist (`bankside.sim.elaborate.to_json`) by path.

    Args:
        store_bytes: size of the main memory beside the design; 0: it has none.

    Raises:
        ToolError: the netlist has something that the lane engine cannot run.
    """
    top = load(netlist)
    found = list(_below(top, ""))
    found += [Site("port", name, word.width) for name, word in top.inputs.items()]
    found += [Site("port", name, width_of(sig)) for name, sig in top.outputs.items()]
    if store_bytes:
        found.append(Site("store", STORE, 8, store_bytes))
    # A port may share its name with the register behind it, and with the net that drives it.
    order = ("memory", "flop", "port", "net", "store")
    kept: dict[str, Site] = {}
    for site in sorted(found, key=lambda s: order.index(s.kind)):
        kept.setdefault(site.path, site)
    return grouped(kept, grouping)


def _below(module: Module, path: str) -> Iterator[Site]:
    for flop in module.flops:
        yield Site("flop", path + flop.name, flop.word.width)
    for memory in module.memories:
        for port in memory.reads:
            yield Site("flop", path + port.word.name, memory.width)
        if memory.writes:
            yield Site("memory", path + memory.name, memory.width, memory.depth)
    for cell in module.cells:
        yield Site("net", path + cell.output.name, cell.output.width)
    for instance in module.instances:
        yield from _below(instance.module, f"{path}{instance.name}.")


def grouped(sites: Mapping[str, Site], grouping: Grouping) -> dict[str, Site]:
    """The same sites with the blocks and roles of `grouping`."""
    return {
        path: replace(site, block=_block(site, grouping.depth), role=role_of(site, grouping))
        for path, site in sites.items()
    }


def _block(site: Site, depth: int) -> str:
    if site.kind == "store":
        return MEMORY
    parts = [part.removesuffix(_COPY) for part in site.path.split(".")[:-1]]
    # A net without a name is called after its cell, `core.$16.Y`: that is no instance.
    inside = takewhile(lambda part: not part.startswith("$"), parts)
    return ".".join(list(inside)[:depth]) or TOP


def role_of(site: Site, grouping: Grouping = DEFAULT) -> Role:
    """Role of a site: by the patterns of `grouping`, else by its name and width.

    `configuration`: below an instance or in a register called registers, config, program, schedule
    or geometry. `control`: a register of one bit, or a name made of words such as valid, level,
    head, state, count, address, sequencer (of a memory: in the names of its instances). `data`: all
    else, and the main memory.
    """
    for role, patterns in grouping.roles.items():
        if any(fnmatchcase(site.path, pattern) for pattern in patterns):
            return role
    if site.kind == "store" or is_dram(site):
        return "data"
    if _CONFIGURATION.search(site.path):
        return "configuration"
    # A memory is named after what its words are for, such as `column3`: its instance tells.
    name = site.path.rpartition(".")[0] if site.kind == "memory" else site.path
    if (site.width == 1 and site.kind in ("flop", "port")) or _CONTROL.search(name):
        return "control"
    return "data"


def is_dram(site: Site) -> bool:
    """Whether a memory is a bank of DRAM cells (of the `pim` engine)."""
    return site.kind == "memory" and _DRAM.search(site.path) is not None


def bits_of(sites: Iterable[Site]) -> int:
    """Bits of all words of the sites."""
    return sum(site.width * site.depth for site in sites)


def chosen(sites: Mapping[str, Site], patterns: Sequence[str], kinds: Sequence[str]) -> list[Site]:
    """Sites of some kinds that match one of the patterns, in the order of the design.

    Raises:
        ConfigError: a pattern matches no site of these kinds; the nearest name is given.
    """
    able = {path: site for path, site in sites.items() if site.kind in kinds}
    found: dict[str, Site] = {}
    for pattern in patterns:
        matching = [p for p in able if p == pattern or fnmatchcase(p, pattern)]
        if not matching:
            raise ConfigError(
                f"no site {pattern!r} of the kind {' or '.join(kinds)}{nearest(pattern, able)}; "
                f"there are {len(able)}"
            )
        found.update((path, able[path]) for path in matching)
    return [site for path, site in able.items() if path in found]
