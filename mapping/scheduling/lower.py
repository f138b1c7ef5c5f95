"""A scheduled attention layer as Programs: prompts on the array, cache and new tokens beside the
banks.

`attention_graph` measures every task on the timing models, `heft` or `exact` schedule it,
`lower` gives the programs of a timetable in the order of their starts, `execute` runs them.
Ref: docs/scheduling.md, section Lowering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.isa.array_machine import ArrayMachine
from bankside.isa.machine import Machine as Rank
from bankside.isa.program import Program
from bankside.mapping.lower_array import ArrayKernels, AttentionShape
from bankside.mapping.lower_pim import KvLayout, PimKernels, Shape
from bankside.mapping.scheduling.graph import Graph, Task
from bankside.mapping.scheduling.timetable import Run, Timetable
from bankside.sim.engine import Engine
from bankside.sim.timing.array import ArrayTiming
from bankside.sim.timing.pim import PimTiming

U16 = NDArray[np.uint16]
ARRAY, PIM = "array", "pim"


@dataclass(frozen=True)
class Tokens:
    """FP16 bits of one sequence. Queries are scaled (`lower_array.scaled_queries`).

    Attributes:
        q: [tokens, heads, head_dim]. k, v: [tokens, kv_heads, head_dim].
        new_q: [heads, head_dim]; new_k, new_v: [kv_heads, head_dim], of the token after the prompt.
    """

    q: U16
    k: U16
    v: U16
    new_q: U16
    new_k: U16
    new_v: U16

    @property
    def tokens(self) -> int:
        """Length of the prompt."""
        return len(self.q)


class AttentionLayer:
    """Causal attention of one layer: the prompt of each sequence, and the token after it.

    Tasks of sequence s: `prefill.s` on the array; `append.s` (keys and values into the rank) and
    `decode.s` on the rank. A new token follows from the prompt's result, so `decode.s` waits for
    `prefill.s` too.

    Args:
        sequences: at least one.
        array, rank: machines; layer s of the rank's cache is sequence s.

    Raises:
        ConfigError: shapes differ, or a machine cannot hold them.
    """

    def __init__(self, sequences: Sequence[Tokens], array: ArrayMachine, rank: Rank) -> None:
        if not sequences:
            raise ConfigError("attention layer: no sequences; give at least one")
        self.sequences, self.array, self.rank = tuple(sequences), array, rank
        heads, dim = sequences[0].new_q.shape
        kv_heads = len(sequences[0].new_k)
        for s, each in enumerate(sequences):
            _check(s, each, heads, kv_heads, dim)
        longest = max(each.tokens for each in sequences) + 1
        layout = KvLayout.of(rank, Shape(len(sequences), kv_heads, heads, dim, longest))
        self.pim = PimKernels(layout)
        self.kernels = [
            ArrayKernels(
                array,
                AttentionShape(each.tokens, each.tokens, heads, kv_heads, dim, dim, causal=True),
            )
            for each in sequences
        ]

    def programs(self, task: str) -> list[Program]:
        """Programs of a task, to run in this order on its machine.

        Raises:
            ConfigError: there is no such task.
        """
        kind, _, number = task.partition(".")
        if not number.isdecimal() or int(number) >= len(self.sequences):
            raise ConfigError(f"attention layer: no task {task!r}; expected prefill.0, append.0 ..")
        s, data = int(number), self.sequences[int(number)]
        if kind == "prefill":
            return self.kernels[s].programs(data.q[None], data.k[None], data.v[None])
        if kind == "append":
            return self.pim.append(s, 0, data.k, data.v)
        if kind == "decode":
            return self.pim.decode(s, data.tokens + 1, data.new_q, data.new_k, data.new_v)
        raise ConfigError(f"attention layer: no task {task!r}; kinds: prefill, append, decode")

    def graph(self) -> Graph:
        """The tasks with their durations in nanoseconds, from the timing models.

        A rank whose refresh is due in the middle of a task may take a little more or less than
        here, where every task begins at power-on.
        """
        sizes: dict[str, int] = {}
        tasks: list[Task] = []
        for s, each in enumerate(self.sequences):
            sizes[f"qkv.{s}"] = each.q.nbytes + each.k.nbytes + each.v.nbytes
            sizes[f"kv.{s}"] = each.k.nbytes + each.v.nbytes
            sizes[f"y.{s}"] = each.q.nbytes
            sizes[f"cache.{s}"] = each.k.nbytes + each.v.nbytes
            sizes[f"new.{s}"] = each.new_q.nbytes
            for name, inputs, output, device in (
                ("prefill", (f"qkv.{s}",), f"y.{s}", ARRAY),
                ("append", (f"kv.{s}",), f"cache.{s}", PIM),
                ("decode", (f"cache.{s}", f"y.{s}"), f"new.{s}", PIM),
            ):
                ticks = {device: self._nanoseconds(f"{name}.{s}", device)}
                tasks.append(Task(f"{name}.{s}", inputs, output, ticks=ticks, kind="attention"))
        outputs = [f"{name}.{s}" for s in range(len(self.sequences)) for name in ("y", "new")]
        return Graph("attention layer", sizes, tuple(tasks), tuple(outputs))

    def _nanoseconds(self, task: str, device: str) -> int:
        machine = self.array if device == ARRAY else self.rank
        timing: Engine = ArrayTiming(self.array) if device == ARRAY else PimTiming(self.rank)
        cycles = sum(timing.run(program).cycles or 0 for program in self.programs(task))
        return -int(-cycles * 1000 // machine.clock_mhz)


def _check(s: int, each: Tokens, heads: int, kv_heads: int, dim: int) -> None:
    expected = {
        "q": (each.tokens, heads, dim), "k": (each.tokens, kv_heads, dim),
        "v": (each.tokens, kv_heads, dim), "new_q": (heads, dim), "new_k": (kv_heads, dim),
        "new_v": (kv_heads, dim),
    }  # fmt: skip
    for name, shape in expected.items():
        found = getattr(each, name)
        if found.shape != shape or found.dtype != np.uint16:
            raise ConfigError(
                f"sequence {s}: {name} is {found.dtype} {list(found.shape)}; expected uint16 bits "
                f"{list(shape)}"
            )


@dataclass(frozen=True)
class Lowered:
    """A task of a timetable and its programs."""

    run: Run
    programs: tuple[Program, ...]


def lower(table: Timetable, layer: AttentionLayer) -> list[Lowered]:
    """Programs of every task, in the order in which the timetable starts them."""
    runs = sorted(table.runs, key=lambda run: (run.start, run.end))
    return [Lowered(run, tuple(layer.programs(run.task))) for run in runs]


def execute(
    lowered: Sequence[Lowered], layer: AttentionLayer, engines: Mapping[str, Engine]
) -> dict[str, U16]:
    """Run the programs in order, each on the engine of its device.

    Args:
        engines: device -> engine (golden or RTL), in its power-on state.

    Returns:
        `prefill.s`: bits [tokens, heads, head_dim]; `decode.s`: [heads, head_dim].
    """
    found: dict[str, U16] = {}
    for each in lowered:
        engine = engines[each.run.device]
        results = [(engine.run(program), program) for program in each.programs]
        kind, _, number = each.run.task.partition(".")
        if kind == "prefill":
            found[each.run.task] = layer.kernels[int(number)].collect([r for r, _ in results])[0]
        elif kind == "decode":
            outputs = [result.output(program, "o") for result, program in results]
            found[each.run.task] = layer.pim.collect(outputs)
    return found
