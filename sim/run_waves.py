"""A window of one attention call as VCD, and a GTKWave save file with its signals in groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bankside.errors import ConfigError
from bankside.isa.machine import Machine
from bankside.isa.spec import load_spec
from bankside.sim.attention import PimAttention
from bankside.sim.run import WaveOptions
from bankside.sim.waves import gtkw_name, vcd_signals

VCD, SAVE = "attention.vcd", "attention.gtkw"
HEAD_DIM, KV_HEADS = 16, 2
_HEX, _DEC = "22", "24"  # GTKWave's display flags: right-justified, hexadecimal or decimal
_TOP = "TOP.bankside_pim_top.core"


class Shown(NamedTuple):
    """A signal: path below the core of the top, as in the VCD without its bit range; its radix."""

    path: str
    radix: str = _HEX
    alias: str = ""


def groups(machine: Machine) -> dict[str, list[Shown]]:
    """Signals of the save file by group, in the order in which a reader follows a call."""
    engines = load_spec("pim").engines
    queues = [
        Shown(f"controller.dispatch.queue_{name}.level", _DEC, f"queue_{name}") for name in engines
    ]
    command = [Shown(f"command__{name}", _DEC) for name in ("code", "bank", "row", "col")]
    return {
        "program": [
            Shown("cycle", _DEC),
            Shown("pc", _DEC),
            Shown("running"),
            Shown("done"),
            Shown("error"),
        ],
        "engines": [
            Shown("load"),
            Shown("last"),
            *queues,
        ],
        "DRAM commands": [
            Shown("trace_valid"),
            *command,
            Shown("violation", _DEC),
        ],
        "array engine": [
            Shown("controller.array.opcode"),
            Shown("controller.array.issued"),
            Shown("controller.array.due"),
            Shown("controller.array.refreshing"),
        ],
        "stall reason": [
            Shown("controller.stalls.reason", _DEC)
        ],
        "bank 0 of chip 0": [
            Shown("rank.chip0.bank0.array.read_en"),
            Shown("rank.chip0.bank0.array.read_row", _DEC),
            Shown("rank.chip0.bank0.array.read_column", _DEC),
            Shown("rank.chip0.bank0.array.read_data"),
        ],
        "softmax": [
            Shown("unit.softmax.busy"),
            Shown("unit.softmax.score_en"),
            Shown("unit.softmax.prob_en"),
            Shown("unit.softmax.denominators"),
        ],
        "host": [
            Shown("host_in__valid"),
            Shown("host_in__ready"),
            Shown("host_in__payload"),
            Shown("host_out__valid"),
            Shown("host_out__payload"),
        ],
    }


def legend(machine: Machine) -> dict[str, list[str]]:
    """Names by number for the signals of a group, a few on each line."""
    return {
        "engines": _lines(load_spec("pim").engines),
        "DRAM commands": _lines([command.name for command in machine.std.commands]),
        "stall reason": _lines(load_spec("pim").stalls),
    }


def _lines(names: Sequence[str], width: int = 4) -> list[str]:
    numbered = [f"{code} {name}" for code, name in enumerate(names)]
    return [", ".join(numbered[i : i + width]) for i in range(0, len(numbered), width)]


def record(work: Path, machine: Machine, options: WaveOptions) -> dict:
    """Record the window into `work`; returns the names of the files and what they show.

    The call is one of random numbers on `machine`, which is compiled with tracing.
    Raises ConfigError when the call is over before the window begins.
    """
    from bankside.sim.rtl.pim import PimRtl  # needs a compiler

    engines = []

    def traced(name: str, machine: Machine) -> PimRtl:
        engines.append(PimRtl(machine, waves=True))
        return engines[-1]

    attention = PimAttention(machine, ("rtl",), make=traced)
    heads = KV_HEADS * machine.lanes
    rng = np.random.default_rng(1)

    def numbers(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float16)

    attention.start(
        layers=1,
        kv_heads=KV_HEADS,
        query_heads=heads,
        head_dim=HEAD_DIM,
        max_tokens=options.tokens,
    )
    past = options.tokens - 1
    attention.prefill(0, numbers(past, KV_HEADS, HEAD_DIM), numbers(past, KV_HEADS, HEAD_DIM))
    engines[0].record_waves(work / VCD, options.first_cycle, options.last_cycle)
    attention.decode(0, numbers(heads, HEAD_DIM), *numbers(2, KV_HEADS, HEAD_DIM))
    cycles = attention.traces[0].result.cycles or 0
    if options.first_cycle >= cycles:
        raise ConfigError(
            f"report.waves: first_cycle is {options.first_cycle}, but the recorded call takes "
            f"{cycles} cycles; begin earlier"
        )
    (work / SAVE).write_text(save_file(work / VCD, machine))
    return {
        "vcd": VCD,
        "gtkw": SAVE,
        "machine": machine.config.name,
        "tokens": options.tokens,
        "first_cycle": options.first_cycle,
        "last_cycle": min(options.last_cycle, cycles - 1),
    }


def save_file(vcd: Path, machine: Machine) -> str:
    """Text of the GTKWave save file. Raises ConfigError for a signal that the VCD does not have."""
    declared = {signal.path: signal for signal in vcd_signals(vcd)}
    lines = [f'[dumpfile] "{vcd.name}"', f'[savefile] "{SAVE}"', "[timestart] 0"]
    lines += ["[size] 1600 1000", "[sst_width] 260", "[signals_width] 320"]
    # Zoom (powers of two, about 60 cycles across), then no marker set.
    lines += ["*-7.000000" + " -1" * 27]
    notes = legend(machine)
    for title, shown in groups(machine).items():
        lines += ["@800200", f"-{title}", "@200", *(f"-{line}" for line in notes.get(title, []))]
        for signal in shown:
            path = f"{_TOP}.{signal.path}"
            if path not in declared:
                raise ConfigError(f"{vcd.name}: no signal {path}; adapt `groups` in run_waves.py")
            alias = f"+{{{signal.alias}}} " if signal.alias else ""
            lines += [f"@{signal.radix}", alias + gtkw_name(declared[path])]
        lines += ["@1000200", f"-{title}"]
    return "\n".join(lines) + "\n"
