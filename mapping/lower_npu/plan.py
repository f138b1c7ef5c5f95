"""Which tensors stay in the shared buffer, and the operations of every layer.

A tensor that does not stay there lives in main memory; layers that use it work on stripes of rows,
whose buffers alternate. Ref: docs/npu_compiler.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bankside.errors import ConfigError
from bankside.isa.npu_machine import NpuMachine
from bankside.mapping.lower_npu.ops import Lowering, Map, Maps, input_rows
from bankside.mapping.lower_npu.storage import (
    WORD_BYTES,
    Buffer,
    Layout,
    Load,
    Op,
    Place,
    Store,
    bank_words,
    to_bytes,
)
from bankside.mapping.npu_graph import Graph, Layer, Tensor
from bankside.mapping.npu_layers import Copy, MatMul, Windowed

Rows = tuple[int, int]


class Full(Exception):
    """The shared buffer is too small for a plan. layer: index; words: needed of room."""

    def __init__(self, layer: int, words: int, room: int) -> None:
        super().__init__(layer)
        self.layer, self.words, self.room = layer, words, room


@dataclass
class Plan:
    """Operations of a graph. stripes: of each layer. buffers: of resident tensors, by id."""

    ops: list[Op]
    stripes: list[int]
    buffers: dict[int, Buffer]
    persistent_words: int
    spilled: list[Tensor] = field(default_factory=list)


class Planner:
    """Plans of one graph for one machine."""

    def __init__(self, machine: NpuMachine, graph: Graph, lowering: Lowering) -> None:
        self.machine, self.graph, self.lowering = machine, graph, lowering
        self.tensors = list(graph.tensors())
        # Large constants are loaded like inputs; small ones come in slots (`schedule`).
        self.loaded = [
            t for t in self.tensors
            if t.data is not None and Layout.of(machine, t).words > bank_words(machine)
        ]  # fmt: skip
        self._own = {id(t) for t in self.tensors if t.data is None or t in self.loaded}
        self._viewed = {
            id(t.of) for layer in graph.layers for t in (*layer.inputs, layer.output) if t.of
        }

    # --- what may live in main memory -----------------------------------------------------------
    def spillable(self, tensor: Tensor) -> bool:
        """Its layers can work on stripes of it."""
        if tensor.persistent or id(tensor) not in self._own or id(tensor) in self._viewed:
            return False
        for layer in self.graph.layers:
            if not any(t is tensor for t in (*layer.inputs, layer.output)):
                continue
            fixed = isinstance(layer, Copy) or (isinstance(layer, MatMul) and layer.b is tensor)
            repeated = layer.output.shape[0] != tensor.shape[0] and not isinstance(layer, Windowed)
            if fixed or repeated:
                return False
        return tensor.shape[0] > 1

    def free(self, tensor: Tensor) -> bool:
        """It passes through main memory anyway."""
        return self._given(tensor) or any(tensor is t for t in self.graph.outputs)

    def _given(self, tensor: Tensor) -> bool:
        """It comes from main memory."""
        return any(tensor is t for t in (*self.graph.inputs, *self.loaded))

    def live(self, index: int) -> list[Tensor]:
        """Tensors (no small constants) that are needed while a layer runs."""
        spans = ((t, *self._span(t)) for t in self.tensors if id(t) in self._own)
        return [t for t, first, last in spans if first <= index <= last]

    def _span(self, tensor: Tensor) -> tuple[int, int]:
        layers = self.graph.layers
        uses = [
            i for i, layer in enumerate(layers)
            if any(t.base is tensor for t in (*layer.inputs, layer.output))
        ]  # fmt: skip
        if tensor.persistent:
            return 0, len(layers) - 1
        return (uses[0], uses[-1]) if uses else (0, 0)

    # --- plan -----------------------------------------------------------------------------------
    def plan(self, spilled: set[int], room: int, share: float) -> Plan:
        """Operations with the tensors of `spilled` (ids) in main memory; room: words for tensors,
        share: part of those left that the stripes of a layer may take.

        Raises Full when a layer does not fit even in stripes of one row.
        """
        self._spilled, self._room, self._share = spilled, room, share
        self._stores: dict[int, list[Store]] = {}
        self._loaded: set[int] = set()
        buffers, persistent = self._buffers(spilled)
        plan = Plan([], [], buffers, persistent)
        plan.spilled = [t for t in self.tensors if id(t) in spilled]
        for index, layer in enumerate(self.graph.layers):
            ops, stripes = self._layer(index, layer, buffers)
            self._note_stores(index, layer, ops, buffers)
            plan.ops += ops
            plan.stripes.append(stripes)
        return plan

    def _buffers(self, spilled: set[int]) -> tuple[dict[int, Buffer], int]:
        """Persistent tensors lie first, in the order in which they are listed."""
        buffers, address = {}, 0
        for tensor in self.tensors:
            if id(tensor) not in self._own or id(tensor) in spilled:
                continue
            layout = Layout.of(self.machine, tensor)
            buffers[id(tensor)] = Buffer(tensor.name, layout.words, self._unit())
        for tensor in self.graph.persistent:
            buffers[id(tensor)].address = address
            address += -(-buffers[id(tensor)].words // self._unit()) * self._unit()
        return buffers, address

    def _unit(self) -> int:
        return max(self.machine.bus_bytes // WORD_BYTES, 1)

    def _layer(self, index: int, layer: Layer, buffers: dict[int, Buffer]) -> tuple[list[Op], int]:
        operands = {id(t): t for t in (*layer.inputs, layer.output)}
        apart = [t for t in operands.values() if id(t) in self._spilled]
        maps = {key: self._resident(t, buffers) for key, t in operands.items() if t not in apart}
        height = layer.output.shape[0]
        if not apart:
            ops = self.lowering.ops(layer, maps, (0, height), False)
            ops[0].loads += self._first_loads(layer, buffers)
            return ops, 1
        rings, step = self._rings(index, layer, apart)
        ops = []
        for stripe, first in enumerate(range(0, height, step)):
            rows = (first, min(first + step, height))
            ops += self._stripe(layer, maps, apart, rings, stripe, rows)
        ops[0].loads += self._first_loads(layer, buffers)
        return ops, -(-height // step)

    def _resident(self, tensor: Tensor, buffers: dict[int, Buffer]) -> Map:
        """A tensor, view or constant in the shared buffer."""
        base = tensor.base
        layout = Layout.of(self.machine, base)
        if base.data is not None and id(base) not in self._own:
            target = self.lowering.constant(to_bytes(base.data, base, layout))
        else:
            target = buffers[id(base)]
        y, x, c = tensor.at
        words = y * layout.sy + x * layout.sx + c // tensor.word_channels
        place = Place(target).moved(words)
        return Map(tensor, place, layout.sy, layout.sx, (0, tensor.shape[0]))

    # --- stripes --------------------------------------------------------------------------------
    def _rings(
        self, index: int, layer: Layer, apart: Sequence[Tensor]
    ) -> tuple[dict[int, list[Buffer]], int]:
        """Two buffers (one where one stripe is all) for each tensor; rows of a stripe."""
        height, bank = layer.output.shape[0], bank_words(self.machine)
        resident = sum(
            Layout.of(self.machine, t).words for t in self.live(index) if id(t) not in self._spilled
        )
        room = int((self._room - resident) * self._share) // bank * bank
        needed = 0
        for count in range(1, height + 1):
            step = -(-height // count)
            sizes = {id(t): self._stripe_words(layer, t, step, bank) for t in apart}
            copies = 1 if step == height else 2
            needed = copies * sum(sizes.values())
            if needed <= room:
                rings = {
                    id(t): [Buffer(f"{t.name} rows", sizes[id(t)], bank) for _ in range(copies)]
                    for t in apart
                }
                return rings, step
        raise Full(index, needed + resident, self._room)

    def _stripe_words(self, layer: Layer, tensor: Tensor, step: int, bank: int) -> int:
        """Of the largest stripe, in whole banks: transfers must not meet operations in one."""
        height = layer.output.shape[0]
        most = max(
            stop - first
            for at in range(0, height, step)
            for first, stop in [_rows_of(layer, tensor, (at, min(at + step, height)))]
        )
        return -(-Layout.of(self.machine, tensor, most).words // bank) * bank

    def _stripe(
        self, layer: Layer, resident: Maps, apart: Sequence[Tensor],
        rings: dict[int, list[Buffer]], stripe: int, rows: Rows,
    ) -> list[Op]:  # fmt: skip
        maps, loads = dict(resident), []
        for tensor in apart:
            ring = rings[id(tensor)]
            buffer, part = ring[stripe % len(ring)], _rows_of(layer, tensor, rows)
            layout = Layout.of(self.machine, tensor)
            maps[id(tensor)] = Map(tensor, Place(buffer), layout.sy, layout.sx, part)
            if tensor is not layer.output:
                loads.append(self._load(tensor, buffer, layout, part))
        ops = self.lowering.ops(layer, maps, rows, stripe % 2 == 1)
        ops[0].loads += loads
        if any(layer.output is t for t in apart):
            buffer = rings[id(layer.output)][stripe % len(rings[id(layer.output)])]
            self._store(layer.output, buffer, rows, ops[-1])
        return ops

    def _load(self, tensor: Tensor, buffer: Buffer, layout: Layout, rows: Rows) -> Load:
        pitch = layout.sy * WORD_BYTES
        offset, size = rows[0] * pitch, (rows[1] - rows[0]) * pitch
        waits = [
            s for s in self._stores.get(id(tensor), ())
            if s.offset < offset + size and offset < s.offset + s.size
        ]  # fmt: skip
        return Load(buffer, 0, tensor, offset, size, waits, ahead=True)

    def _store(self, tensor: Tensor, buffer: Buffer, rows: Rows, after: Op) -> None:
        pitch = Layout.of(self.machine, tensor).sy * WORD_BYTES
        store = Store(buffer, 0, tensor, rows[0] * pitch, (rows[1] - rows[0]) * pitch)
        self._stores.setdefault(id(tensor), []).append(store)
        after.stores.append(store)

    # --- whole tensors --------------------------------------------------------------------------
    def _first_loads(self, layer: Layer, buffers: dict[int, Buffer]) -> Iterator[Load]:
        """Inputs and large constants come before the first layer that reads them."""
        for tensor in layer.inputs:
            base = tensor.base
            if self._given(base) and id(base) not in self._spilled and id(base) not in self._loaded:
                self._loaded.add(id(base))
                buffer = buffers[id(base)]
                yield Load(buffer, 0, base, 0, buffer.words * WORD_BYTES)

    def _note_stores(
        self, index: int, layer: Layer, ops: list[Op], buffers: dict[int, Buffer]
    ) -> None:
        """Outputs of the graph leave after the last layer that writes them."""
        base = layer.output.base
        later = self.graph.layers[index + 1 :]
        wanted = any(base is t for t in self.graph.outputs) and id(base) not in self._spilled
        if wanted and not any(other.output.base is base for other in later):
            self._store(base, buffers[id(base)], (0, base.shape[0]), ops[-1])


def _rows_of(layer: Layer, tensor: Tensor, rows: Rows) -> Rows:
    """Rows of an operand for rows of the output."""
    if tensor is not layer.output and isinstance(layer, Windowed):
        return input_rows(layer, rows)
    return rows


def too_large(machine: NpuMachine, planner: Planner, full: Full) -> ConfigError:
    """The layer that does not fit, what it needs, what would fit."""
    layer = planner.graph.layers[full.layer]
    live = ", ".join(f"{t.name} {Layout.of(machine, t).words}" for t in planner.live(full.layer))
    return layer.refuse(
        f"needs {full.words} words of the shared buffer, {full.room} of the "
        f"{machine.shared_words} of {machine.config.name} are free for tensors (words of tensors "
        f"alive: {live}); use smaller tensors, more rows of fewer columns (they are cut by rows), "
        f"or raise shared_words"
    )
