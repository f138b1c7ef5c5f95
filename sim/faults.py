"""What a fault is to those who execute it, and what a run with faults gives (docs/faults.md).

Shared by the lane engine, the Verilated referee and `bankside.fault_injection`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from bankside.errors import ConfigError

__all__ = ["DEPOSITED", "END_DONE", "END_ERROR", "END_LIMIT", "FORCED", "KINDS", "OPS", "OUTCOME",
           "STORE", "Action", "Site", "check_actions", "default_limit"]  # fmt: skip

#: Kinds of sites that hold state, hit by `flip` and `hold`; those that do not, hit by `force`.
DEPOSITED, FORCED = ("flop", "memory", "store"), ("net", "port")
KINDS = (*DEPOSITED, *FORCED)
OPS = {"flip": DEPOSITED, "hold": DEPOSITED, "force": FORCED}
#: Faulty machines at once, unless said otherwise: enough for those alike to come together, few
#: enough for the second-level cache.
DEFAULT_LANES = 128
#: Path of the only site of kind `store`: the main memory beside the design, words of one byte.
STORE = "store"
#: Engine -> output ports of the top that are traces: `OUTCOME["first"]` does not look at them.
TRACE_PORTS = {
    "pim": ("trace_valid", "trace_command", "load", "loaded", "last"),
    "array": ("events",),
    "npu": ("events",),
}
#: Output ports of protected designs, and fields of `OUTCOME`.
ALARM_PORTS = ("corrected", "detected")
#: Values of `OUTCOME["end"]`: done; the machine stopped with an error; the limit was reached.
END_DONE, END_ERROR, END_LIMIT = 0, 1, 2

#: One row per run; meaning of the fields: docs/faults.md.
OUTCOME = np.dtype(
    [
        ("end", np.uint8),
        ("cycles", np.uint64),
        ("status", np.uint64),
        ("first", np.int64),
        *((name, np.uint8) for name in ("output", "state", "counters", "corrected", "detected")),
    ]
)


@dataclass(frozen=True)
class Site:
    """Bits that can be hit, under one name.

    kind: of `KINDS`. path: below the top, instances joined by dots. width: bits of a word. depth:
    words (1 but for `memory` and `store`). block: the instance path that reports group by. role:
    `data`, `control` or `configuration`.
    """

    kind: str
    path: str
    width: int
    depth: int = 1
    block: str = ""
    role: str = "data"


@dataclass(frozen=True)
class Action:
    """What is done to the bits `mask` of word `word` of the site with the path `site`.

    op: `flip` (once, at the beginning of cycle `first`), `hold` (bits become those of `value` at
    the beginning of every cycle of first..last) or `force` (bits inverted, or those of `value`, in
    every cycle of first..last). `last` None: to the end of the run. Ref: docs/faults.md.
    """

    op: str
    site: str
    word: int = 0
    mask: int = 1
    value: int | None = None
    first: int = 0
    last: int | None = None


def default_limit(cycles: int) -> int:
    """Cycles after which a run counts as hanging, from those of the fault-free run."""
    return 2 * cycles + 1000


def check_actions(actions: Iterable[Action], sites: Mapping[str, Site]) -> None:
    """Raise ConfigError for the first action that does not fit the site that it names."""
    for action in actions:
        problem = _problem(action, sites.get(action.site))
        if problem:
            raise ConfigError(f"action {action}: {problem}")


def _problem(action: Action, site: Site | None) -> str | None:
    if action.op not in OPS:
        return f"no operation {action.op!r}; there are: {', '.join(OPS)}"
    if site is None:
        return f"no site {action.site!r}"
    if site.kind not in OPS[action.op]:
        return f"{action.op} is for {', '.join(OPS[action.op])}, but this site is a {site.kind}"
    if not 0 <= action.word < site.depth:
        return f"word {action.word}; expected 0 to {site.depth - 1}"
    if action.mask <= 0 or action.mask >> site.width:
        return f"mask {action.mask:#x}; expected one or more of the {site.width} bits"
    if action.op == "hold" and action.value is None:
        return "hold needs the value that the bits are held at"
    if action.first < 0 or (action.last is not None and action.last < action.first):
        return f"cycles {action.first} to {action.last}; expected 0 <= first <= last"
    return None
