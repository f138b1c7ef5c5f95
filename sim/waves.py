"""Waveforms: record a window of a program, read what a VCD file holds, lay it out for GTKWave."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from vcd.gtkw import GTKWSave

from bankside.errors import ConfigError, ToolError

if TYPE_CHECKING:
    from bankside.isa.machines import AnyMachine
    from bankside.isa.program import Program
    from bankside.sim.engine import Result

__all__ = [
    "TICKS_PER_CYCLE", "VcdSignal", "first_tick", "gtkw_name", "record_program", "vcd_signals",
    "write_save_file",
]  # fmt: skip

#: From rising edge to rising edge. Reset and the host's set-up take ticks too: cycle c of a program
#: is at `first_tick` + 10 (c - first cycle of the window).
TICKS_PER_CYCLE = 10
_VAR = re.compile(r"\$var\s+\S+\s+(\d+)\s+\S+\s+(\S+)(?:\s+\[[^\]]*\])?\s+\$end")


@dataclass(frozen=True)
class VcdSignal:
    """One signal of a VCD file; `scope` is its path, outermost first, `width` in bits."""

    scope: tuple[str, ...]
    name: str
    width: int

    @property
    def path(self) -> str:
        """Name with its scope, joined by dots."""
        return ".".join((*self.scope, self.name))


def vcd_signals(path: Path) -> list[VcdSignal]:
    """Signals of a VCD file, in its order; reads the header only.

    Raises ToolError when the file is missing or its header has no end.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return list(_header(file, path))
    except OSError as error:
        raise ToolError(f"{path}: cannot be read: {error.strerror}; record it again") from error


def _header(lines: Iterator[str], path: Path) -> Iterator[VcdSignal]:
    scope: list[str] = []
    for line in lines:
        words = line.split()
        if words[:1] == ["$scope"]:
            scope.append(words[2])
        elif words[:1] == ["$upscope"]:
            scope.pop()
        elif match := _VAR.search(line):
            yield VcdSignal(tuple(scope), match[2], int(match[1]))
        elif words[:1] == ["$enddefinitions"]:
            return
    raise ToolError(f"{path}: not a complete VCD file (no $enddefinitions); record it again")


def write_save_file(
    vcd: Path, *, show: Sequence[str] = (), first_time: int = 0, limit: int = 200
) -> Path:
    """Write `vcd` with suffix .gtkw: GTKWave then opens with useful signals, grouped by scope.

    Parameters
    ----------
    show : patterns (`*` and `?`) of signal paths; by default the ports of the top module.
    first_time : left edge of the view, in ticks of the VCD.
    limit : most signals shown.

    Raises ConfigError when a pattern matches nothing.
    """
    signals = vcd_signals(vcd)
    chosen = _choose(signals, show, vcd)[:limit]
    target = vcd.with_suffix(".gtkw")
    with open(target, "w", encoding="utf-8") as file:
        save = GTKWSave(file)
        # Beside each other, so that the two files can be moved together.
        save.dumpfile(vcd.name, abspath=False)
        save.savefile(target.name, abspath=False)
        save.timestart(first_time)
        save.zoom_markers(-4.0)
        save.signals_width(280)
        for scope in dict.fromkeys(signal.scope for signal in chosen):
            save.treeopen(".".join(scope) + ".")
            with save.group(".".join(scope[1:]) or "top"):
                for signal in chosen:
                    if signal.scope == scope:
                        save.trace(gtkw_name(signal), datafmt="hex")
    return target


def _choose(signals: list[VcdSignal], show: Sequence[str], vcd: Path) -> list[VcdSignal]:
    if not show:
        outermost = min((len(s.scope) for s in signals), default=0)
        return [s for s in signals if len(s.scope) == outermost]
    chosen: dict[VcdSignal, None] = {}
    for pattern in show:
        found = [s for s in signals if fnmatchcase(s.path, pattern)]
        if not found:
            raise ConfigError(
                f"{vcd.name} has no signal {pattern!r}; signal paths look like {signals[0].path!r}"
            )
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def gtkw_name(signal: VcdSignal) -> str:
    """The signal as GTKWave's save file names it: path and bit range."""
    return signal.path + (f"[{signal.width - 1}:0]" if signal.width > 1 else "")


def record_program(
    machine: AnyMachine, program: Program, vcd: Path, first_cycle: int, last_cycle: int
) -> Result:
    """Run `program` on the RTL and write its cycles first..last to `vcd`, with its save file.

    Cycles are of the machine's clock domain. The tick of cycle c (see `first_tick`) is the rising
    edge that ends it: inputs are those of cycle c, registers there have taken their new values,
    those of cycle c + 1. Raises ConfigError for an empty window and when the program ends before
    it.
    """
    if not 0 <= first_cycle <= last_cycle:
        raise ConfigError(
            f"no cycles from {first_cycle} to {last_cycle}; expected 0 <= first <= last"
        )
    from bankside.sim.executions import EXECUTIONS

    vcd.parent.mkdir(parents=True, exist_ok=True)
    partial = vcd.with_name(f".{vcd.name}.partial")
    engine = EXECUTIONS.get(machine.engine).get("rtl")(machine, waves=True)
    try:
        engine.record_waves(partial, first_cycle, last_cycle)
        result = engine.run(program)
        engine.close()
        if not partial.exists():
            raise ConfigError(
                f"the program ends in cycle {result.cycles}, before the window starts "
                f"(cycle {first_cycle}); choose an earlier window"
            )
        partial.replace(vcd)
    finally:
        partial.unlink(missing_ok=True)
    write_save_file(vcd, first_time=first_tick(vcd))
    return result


def first_tick(vcd: Path) -> int:
    """Time of a recording's first rising edge, in ticks of the VCD; 0 where it has none."""
    with open(vcd, encoding="utf-8", errors="replace") as file:
        return next((int(line[1:]) for line in file if line.startswith("#")), 0)
