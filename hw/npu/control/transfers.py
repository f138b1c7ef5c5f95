"""Checks of a DMA command, and the transfer that it becomes.

Ref: docs/npu.md sections 6 and 9; `bankside.isa.npu_commands.Command.check`.
"""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from bankside.hw.npu.control.able import any_of
from bankside.hw.npu.control.layouts import SPEC, buffer_bits, dma_layout, region_layout
from bankside.hw.npu.control.registers import state_layout
from bankside.isa.npu_commands import REGIONS, TO_WEIGHTS
from bankside.isa.npu_machine import WORD_BYTES, NpuMachine

__all__ = ["Transfers"]

_COPIED = ("rows", "row_bytes", "row_step", "buf", "buf_step")


class Transfers(wiring.Component):
    """Combinational.

    Members
    -------
    direction : In
    state : In(state_layout)
    regions : In(8 of region_layout)
    transfer : Out(dma_layout)
        Without the position.
    unable, beyond_region, misaligned, outside : Out(1)
        Faults 2, 3, 4, 7.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self._machine = machine
        faults = ("unable", "beyond_region", "misaligned", "outside")
        super().__init__(
            {
                "direction": In(SPEC.commands["DMA"].field_map["direction"].width),
                "state": In(state_layout(machine)),
                "regions": In(data.ArrayLayout(region_layout(), REGIONS)),
                "transfer": Out(dma_layout(machine)),
                **dict.fromkeys(faults, Out(1)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        state, chosen = self.state, Signal(region_layout())
        with m.If(state.region < REGIONS):
            m.d.comb += chosen.eq(self.regions[state.region[: exact_log2(REGIONS)]])
        low = exact_log2(self._machine.bus_bytes)
        aligned = ("offset", "row_bytes", "row_step", "buf", "buf_step")
        m.d.comb += [
            self.transfer.direction.eq(self.direction),
            self.transfer.address.eq(chosen.base + state.offset),
            *(self.transfer[name].eq(state[name]) for name in _COPIED),
            self.unable.eq((state.rows == 0) | (state.row_bytes == 0)),
            self.misaligned.eq(
                any_of(value[:low].any() for value in (chosen.base, *(state[n] for n in aligned)))
            ),
            self.beyond_region.eq(
                self._beyond(m, "offset", "row_step", chosen.size, len(chosen.size))
            ),
        ]
        room = Mux(
            self.direction == TO_WEIGHTS,
            self._machine.config.npu.weight_bytes,
            self._machine.shared_words * WORD_BYTES,
        )
        bits = buffer_bits(self._machine) + 1
        m.d.comb += self.outside.eq(self._beyond(m, "buf", "buf_step", room, bits))
        return m

    def _beyond(self, m: Module, first: str, step: str, size: Value, bits: int) -> Value:
        """Rows from register `first` on, `step` apart, end behind `size` (of `bits` bits).

        A factor that needs more bits takes every other row but the first beyond `size` by itself.
        """
        state = self.state
        more, end = Signal(32, name=f"more_{first}"), Signal(bits + 34, name=f"end_{first}")
        narrow = min(bits, 32)
        product = Signal(2 * narrow, name=f"span_{first}")
        stride = state[step]
        far = (more[narrow:].any() & (stride != 0)) | (stride[narrow:].any() & (more != 0))
        over = product[bits:].any()
        m.d.comb += [
            more.eq(state.rows - 1),
            product.eq(more[:narrow] * stride[:narrow]),
            end.eq(state[first] + product[:bits] + state.row_bytes),
        ]
        return far | over | (end > size)
