"""`compile_graph`: a graph and a machine give a program with its memory, and a report.

Ref: docs/npu_compiler.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.program import Program
from bankside.mapping.lower_npu.allocate import Allocation, Span, allocate, most_alive
from bankside.mapping.lower_npu.cost import transfer_cycles
from bankside.mapping.lower_npu.emit import Emitter, Image
from bankside.mapping.lower_npu.ops import Lowering
from bankside.mapping.lower_npu.plan import Full, Plan, Planner, too_large
from bankside.mapping.lower_npu.schedule import (
    Event,
    Load,
    Run,
    Slots,
    Store,
    WeightLoad,
    schedule,
    spans,
)
from bankside.mapping.lower_npu.storage import Layout, Op, from_bytes, to_bytes
from bankside.mapping.lower_npu.weights import WeightPlanner
from bankside.mapping.npu_graph import Graph, Tensor

#: Parts of the free words that stripes of one layer may take; those of the next are fetched
#: meanwhile, so less is tried when the buffers do not fit together.
_SHARES = (1.0, 0.7, 0.5, 0.35, 0.25)


@dataclass(frozen=True)
class LayerReport:
    """One layer: how it is computed, what it should take, what it takes at least.

    mode: `grid` or `row`, "" for the vector unit. block: positions. operations: commands of the
    kernel engine. stripes: of rows. cycles: of the kernel engine by the formulas, without waiting
    for transfers. macs_bound: MACs / (MACs per cycle). bytes: that transfers move for it.
    bytes_bound: cycles of those on the data port.
    """

    name: str
    kind: str
    mode: str
    block: int
    operations: int
    stripes: int
    cycles: int
    macs: int
    macs_bound: int
    bytes: int
    bytes_bound: int


@dataclass(frozen=True)
class Report:
    """layers: in order. allocation: of the shared buffer. slots: words for constants. spilled:
    tensors in main memory. commands: words of the program.
    """

    layers: tuple[LayerReport, ...]
    allocation: Allocation
    slots: int
    persistent: int
    spilled: tuple[str, ...]
    commands: int

    @property
    def macs_bound(self) -> int:
        return sum(layer.macs_bound for layer in self.layers)

    @property
    def bytes_bound(self) -> int:
        return sum(layer.bytes_bound for layer in self.layers)


@dataclass(frozen=True, eq=False)
class Compiled:
    """A program whose inputs are zero until `bind` puts them in.

    places: name of an input or output -> (byte in main memory, the tensor).
    """

    machine: NpuMachine
    graph: Graph
    program: Program
    places: Mapping[str, tuple[int, Tensor]]
    report: Report

    def bind(self, inputs: Mapping[str, NDArray]) -> Program:
        """The program with integers for every input, shape [rows, columns, channels].

        Raises ConfigError: a name, shape or range that is not the input's.
        """
        names = [t.name for t in self.graph.inputs]
        if sorted(inputs) != sorted(names):
            raise ConfigError(f"inputs {sorted(inputs)}; {self.graph.name!r} has {sorted(names)}")
        memory = self.program.host_in.copy()
        data = memory.reshape(-1).view(np.uint8)
        for tensor in self.graph.inputs:
            values, (first, _) = np.asarray(inputs[tensor.name]), self.places[tensor.name]
            form = tensor.form
            if values.shape != tensor.shape or values.min() < form.low or values.max() > form.high:
                raise ConfigError(
                    f"input {tensor.name!r}: shape {values.shape}, {values.min()}..{values.max()}; "
                    f"expected {tensor.shape}, {form.low}..{form.high}"
                )
            raw = to_bytes(values, tensor, Layout.of(self.machine, tensor))
            data[first : first + len(raw)] = np.frombuffer(raw, np.uint8)
        return replace(self.program, host_in=memory)

    def outputs(self, memory: NDArray[np.uint16]) -> dict[str, NDArray[np.int16]]:
        """Outputs of the graph from main memory after a run (`Result.outputs`)."""
        data = np.ascontiguousarray(memory, "<u2").reshape(-1).view(np.uint8)
        found = {}
        for tensor in self.graph.outputs:
            first, _ = self.places[tensor.name]
            layout = Layout.of(self.machine, tensor)
            raw = data[first : first + layout.words * WORD_BYTES].tobytes()
            found[tensor.name] = from_bytes(raw, tensor, layout)
        return found


class Compiler:
    """Compiles graphs for one machine; weights that several graphs share are encoded once."""

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        self._weights = WeightPlanner(machine)

    def compile(self, graph: Graph, *, measured: tuple[str, str] | None = None) -> Compiled:
        """A program. measured: first and last layer around which the PMU counts; None: all.

        Raises ConfigError that names the layer and the buffer that is too small.
        """
        lowering = Lowering(self.machine, self._weights)
        planner = Planner(self.machine, graph, lowering)
        spilled: set[int] = set()
        shares = list(_SHARES)
        while True:
            try:
                return self._attempt(graph, lowering, planner, spilled, shares[0], measured)
            except Full as full:
                more = _next_spill(planner, spilled, full)
                if not more and len(shares) == 1:
                    raise too_large(self.machine, planner, full) from None
                spilled |= more
                shares = shares if more else shares[1:]

    def _attempt(
        self, graph: Graph, lowering: Lowering, planner: Planner, spilled: set[int],
        share: float, measured: tuple[str, str] | None,
    ) -> Compiled:  # fmt: skip
        """Raises Full."""
        slots = Slots(0, 0)
        for _ in range(3):
            plan = planner.plan(spilled, self._room(slots), share)
            found = Slots.of(self.machine, plan.ops)
            if found == slots:
                break
            slots = found
        events = schedule(self.machine, plan.ops, slots)
        base = plan.persistent_words
        room = self.machine.shared_words - slots.total - base
        held = [Span(*entry) for entry in spans(events).values()]
        allocation = allocate(held, base, room)
        if allocation is None:
            words, at = most_alive(held)
            raise Full(_layer_at(graph, events, -at), max(words, room + 1), room)
        image = Image(self.machine, graph, planner.loaded, plan.spilled)
        emitter = Emitter(self.machine, image, measured)
        program = emitter.emit(events)
        report = self._report(lowering, graph, plan, events, allocation, slots, program)
        return _compiled(self.machine, graph, image, program, report)

    def _room(self, slots: Slots) -> int:
        return self.machine.shared_words - slots.total

    def _report(
        self, lowering: Lowering, graph: Graph, plan: Plan, events: list[Event],
        allocation: Allocation, slots: Slots, program: Program,
    ) -> Report:  # fmt: skip
        moved, layers = _moved(events), []
        for layer, stripes in zip(graph.layers, plan.stripes, strict=True):
            ops = [op for op in plan.ops if op.layer == layer.name]
            choice, size = lowering.choices.get(layer.name), moved.get(layer.name, 0)
            layers.append(
                LayerReport(
                    layer.name, layer.kind, "" if choice is None else "row" if choice.row else
                    "grid", 0 if choice is None else choice.block, len(ops), stripes,
                    round(sum(op.cycles for op in ops)), layer.macs,
                    -(-layer.macs // self.machine.macs), size,
                    transfer_cycles(self.machine, size),
                )
            )  # fmt: skip
        names = tuple(t.name for t in plan.spilled)
        return Report(tuple(layers), allocation, slots.total, plan.persistent_words, names,
                      len(program.words))  # fmt: skip


def compile_graph(
    graph: Graph, machine: NpuMachine, *, measured: tuple[str, str] | None = None
) -> Compiled:
    """See `Compiler.compile`."""
    return Compiler(machine).compile(graph, measured=measured)


def _next_spill(planner: Planner, spilled: set[int], full: Full) -> set[int]:
    """Tensors to put into main memory: all that pass through it anyway, else the largest one."""
    live = [t for t in planner.live(full.layer) if id(t) not in spilled and planner.spillable(t)]
    free = {id(t) for t in live if planner.free(t)}
    if free or not live:
        return free
    return {id(max(live, key=lambda t: Layout.of(planner.machine, t).words))}


def _layer_at(graph: Graph, events: list[Event], at: int) -> int:
    """Index of the layer that runs at an event."""
    names = [layer.name for layer in graph.layers]
    for event in (*events[at:], *reversed(events)):
        if isinstance(event, Run):
            return names.index(event.op.layer)
    return 0


def _moved(events: list[Event]) -> dict[str, int]:
    """Bytes of transfers by layer: that of the next operation, of results that of the last."""
    found: dict[str, int] = {}
    after: list[int] = []
    layer = ""
    for event in events:
        if isinstance(event, Run):
            layer = event.op.layer
            found[layer] = found.get(layer, 0) + sum(after)
            after = []
        elif isinstance(event, Store):
            found[layer] = found.get(layer, 0) + event.size
        elif isinstance(event, WeightLoad):
            after.append(len(event.chunk.data))
        elif isinstance(event, Load):
            after.append(event.size)
        else:
            after.append(len(event.data()))
    return found


def _compiled(
    machine: NpuMachine, graph: Graph, image: Image, program: Program, report: Report
) -> Compiled:
    places, outputs = {}, {}
    for tensor in (*graph.inputs, *graph.outputs):
        region, offset = image.places[id(tensor)]
        byte = program.regions[region][0] + offset
        places[tensor.name] = byte, tensor
    for tensor in graph.outputs:
        size = Layout.of(machine, tensor).words * WORD_BYTES
        outputs[tensor.name] = (
            places[tensor.name][0] // machine.bus_bytes, size // machine.bus_bytes,
        )  # fmt: skip
    program = replace(program, outputs=outputs)
    return Compiled(machine, graph, program, places, report)


__all__ = ["Compiled", "Compiler", "LayerReport", "Op", "Report", "compile_graph"]
