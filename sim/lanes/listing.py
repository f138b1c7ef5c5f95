"""What the runtime calls, in order, as C tables (runtime.h)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bankside.sim.lanes.activity import literal
from bankside.sim.lanes.effects import Effects, Item, ModuleEffects, port_span, tables
from bankside.sim.lanes.functions import Functions
from bankside.sim.lanes.netlist import Instance, width_of
from bankside.sim.lanes.schedule import Call


class Listing(Functions):
    """Functions of a module with their names in C; of the top, all tables."""

    made: Mapping[int, Listing]

    def _function(self, number: int) -> str:
        return f"{self.name}_{number}"

    def _called(self, call: Call) -> str:
        return f"{self.made[id(call.instance.module)].name}_phase{call.phase.number}"

    def writes_below(self) -> bool:
        return bool(self.edge) or any(
            self.made[id(i.module)].writes_below() for i in self.module.instances
        )

    def _with_writes(self) -> Iterator[tuple[Instance, Listing, tuple[int, int, int]]]:
        """Instances in which memories are written, and where their parts lie."""
        for instance in self.module.instances:
            code = self.made[id(instance.module)]
            if code.writes_below():
                yield instance, code, self.layout.below[id(instance)]

    def regions(self, q: int) -> Iterator[tuple[int, int, int]]:
        """(offset, limbs, bits) of the registers of the module and those below."""
        words = list(self.layout.q)
        many = sum(w.limbs for w in words if w.width > 1)
        single = sum(w.width == 1 for w in words)
        if words:
            yield q, many, single
        for instance in self.module.instances:
            below = self.layout.below[id(instance)][0]
            yield from self.made[id(instance.module)].regions(q + below)

    def _bit(self, number: int) -> int:
        return 1 << self.activity.classes[number]

    def _class(self, number: int) -> str:
        return literal(self._bit(number))

    def _call_row(self, call: Call) -> str:
        """Its class, and who reads its outputs (this cycle) and its registers (the next)."""
        q, t, m = self.layout.below[id(call.instance)]
        own = self.activity.instances[id(call.instance)]
        outputs, registers = 0, own
        for word in call.instance.outputs.values():
            if self._below(word) is None:
                outputs |= self.activity.of([word])
            else:
                registers |= self.activity.of([word])
        masks = f"{literal(own)}, {literal(outputs)}, {literal(registers)}"
        return f"{{{self._called(call)}, {q}, {t}, {m}, {masks}}}"

    def _items(self) -> list[list[Item]]:
        """Before the inputs of a cycle are known, after, at the edge."""
        effects: dict[int, ModuleEffects] = {}
        for key, code in self.made.items():
            effects[key] = ModuleEffects(code, effects)
        own = ModuleEffects(self, effects)
        out: list[list[Item]] = [[], [], []]
        number = 0
        for phase, functions in zip(self.plan.phases, self.phases, strict=True):
            for function in functions:
                if function.call is None:
                    row = f"{{{self._function(number)}, 0, 0, 0, {self._class(number)}, 0, 0}}"
                else:
                    row = self._call_row(function.call)
                found = own.function(number, function)
                out[bool(phase.needs) or phase.last].append(Item(row, found))
                number += 1
        for function in self.edge:
            row = f"{{{self._function(number)}, 0, 0, 0, {self._class(number)}, 0, 0}}"
            out[2].append(Item(row, own.function(number, function)))
            number += 1
        for instance, code, (q, t, m) in self._with_writes():
            found = Effects()
            found.add(effects[id(instance.module)].edge(), q, t, m)
            readers = self.activity.instances.get(id(instance), 0)
            row = f"{{{code.name}_edge, {q}, {t}, {m}, {literal(readers)}, 0, {literal(readers)}}}"
            out[2].append(Item(row, found))
        return out

    def _memory_ports(self) -> int:
        """Of all memories, here and below: words that a part of a cycle touches at most."""
        here = sum(cell.memory is not None for cell in self.module.cells)
        here += sum(len(memory.reads) + len(memory.writes) for memory in self.module.memories)
        below = (self.made[id(instance.module)] for instance in self.module.instances)
        return here + sum(code._memory_ports() for code in below)

    def tables(self) -> str:
        """For the runtime: what to call before the inputs of a cycle are known, and after."""
        items = self._items()
        out = []
        for name, content in zip(("before", "after", "edge"), items, strict=True):
            rows = ", ".join(item.row for item in content) or "{0}"
            out.append(f"const struct item bankside_{name}[] = {{{rows}}};")
            out.append(f"const uint64_t bankside_{name}_count = {len(content)};")
        ports = self.layout.ports
        inputs = [port_span(ports[p], word.width) for p, word in self.module.inputs.items()]
        outputs = [port_span(ports[p], width_of(sig)) for p, sig in self.module.outputs.items()]
        every = [item for content in items for item in content]
        out.append(tables(every, len(every) - len(items[2]), inputs, outputs))
        rows_of_q = list(self.regions(0))
        out.append(
            f"const struct region bankside_regions[] = "
            f"{{{', '.join(f'{{{o}, {v}, {b}}}' for o, v, b in rows_of_q) or '{0, 0, 0}'}}};"
        )
        out.append(f"const uint64_t bankside_region_count = {len(rows_of_q)};")
        layout = self.layout
        out.append(f"const uint64_t bankside_memory_ports = {self._memory_ports()};")
        for name in ("q", "t", "m"):
            out.append(
                f"const uint64_t bankside_{name}_bytes = {getattr(layout, name + '_bytes')};"
            )
        return "\n".join(out)
