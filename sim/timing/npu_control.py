"""Command fetch and control of the `npu` engine.

Every command's cycle follows from those before it: both engines execute in order, and what they do
from a dispatch on is decided there. Ref: docs/npu.md section 4.
"""

from __future__ import annotations

from typing import NamedTuple

from bankside.errors import ProgramError
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.program import Program
from bankside.isa.spec import Instruction
from bankside.sim.timing.npu_dma import Dma, Rows, fetch_channel
from bankside.sim.timing.npu_kernel import Kernel, Plans
from bankside.sim.timing.npu_mac import SPEC, weight_layout
from bankside.sim.timing.npu_weight_buffer import WeightBuffer

_NAMES = {code: name for name, code in SPEC.enums["register"].items()}
_TO_MEMORY = SPEC.enums["direction"]["to_memory"]
_TO_WEIGHTS = SPEC.enums["direction"]["to_weights"]
_BURST_WORDS = 16
_FIFO_WORDS = 64
#: Registers that must not be 0, by command (those that time depends on).
_SIZES = ("ofm_h", "ofm_w", "ofm_c")
_WINDOW = ("kernel_h", "kernel_w", "block")
_AT_LEAST_ONE = {
    "DMA": ("rows", "row_bytes"),
    "CONV": (*_SIZES, *_WINDOW, "ifm_c"),
    "DEPTHWISE": (*_SIZES, *_WINDOW),
    "MATMUL": (*_SIZES, "block", "ifm_c"),
    "POOL": (*_SIZES, *_WINDOW),
    "COPY": ("n0", "n1", "n2"),
}


class Idle(NamedTuple):
    """Cycles [first, end) of the control; `reason` is what they count as when nothing of the kernel
    engine happens.
    """

    first: int
    end: int
    reason: str


class Fetch:
    """The words behind m1; received[w] is the cycle in which word w comes."""

    def __init__(self, machine: NpuMachine, words: int) -> None:
        memory = machine.config.memory
        self._channel, self._beat, self._words = fetch_channel(memory), memory.beat_cycles, words
        self.received: list[int] = []

    def word(self, index: int, executed: list[int]) -> int:
        """Cycle in which word `index` comes; `executed`: cycles of the words before it."""
        while len(self.received) <= index:
            begun = len(self.received)
            address = self.received[-1] + 1 if begun else 0
            # Room for 16 words: this one must have left.
            left = begun - (_FIFO_WORDS - _BURST_WORDS) - 1
            if left >= 0:
                address = max(address, executed[left] + 1)
            beats = min(_BURST_WORDS, self._words - begun)
            first, _ = self._channel.burst(address, beats)
            self.received += [first + beat * self._beat for beat in range(beats)]
        return self.received[index]


class Control:
    """Executes one program.

    Attributes: idle: what its cycles count as without the kernel engine, in order and without gaps.
    enabled: [first, end) of the cycles that are counted.
    """

    def __init__(
        self, machine: NpuMachine, program: Program, weights: WeightBuffer, plans: Plans,
        skipping: bool,
    ) -> None:  # fmt: skip
        self.dma, self.kernel = Dma(machine), Kernel(machine, plans, skipping)
        self.idle: list[Idle] = []
        self.enabled: list[list[int]] = [[0, -1]]
        self._machine, self._program, self._weights = machine, program, weights
        self._code = program.instructions()
        self._fetch = Fetch(machine, len(self._code))
        self._executed: list[int] = []
        self._registers = dict.fromkeys(_NAMES.values(), 0)
        self._counting = True

    def run(self) -> int:
        """Cycles of the program. Raises ProgramError when it does not end."""
        end = 0
        for index, ins in enumerate(self._code):
            received = self._fetch.word(index, self._executed)
            ready = max(end, received + 1)
            self._note(end, ready, "fetch")
            cycle = self._execute(index, ins, ready)
            self._executed.append(cycle)
            end = cycle + 1
            if ins.name == "STOP":
                if self._counting:
                    self.enabled[-1][1] = end
                return end
        raise ProgramError(
            f"command {len(self._code)}: the program runs past its end; end it with STOP"
        )

    def _note(self, first: int, end: int, reason: str) -> None:
        if first >= end:
            return
        if self.idle and self.idle[-1].reason == reason:
            first = self.idle.pop().first
        self.idle.append(Idle(first, end, reason))

    def _note_wait(self, first: int, end: int) -> None:
        """The control waits; that counts as `dma` while a transfer is outstanding."""
        until = min(end, max(first, self.dma.complete))
        self._note(first, until, "dma")
        self._note(until, end, "control")

    # --- commands ---

    def _execute(self, index: int, ins: Instruction, ready: int) -> int:
        """Cycle in which a command is executed that can be from `ready` on."""
        if ins.name == "SET":
            self._registers[_NAMES[ins.reg]] = ins.value
        elif ins.name == "PMU":
            self._measure(bool(ins.enable), ready + 1)
        elif ins.name in ("DMA_WAIT", "STOP"):
            return self._wait(ins, ready)
        elif ins.name == "KERNEL_WAIT":
            until = max(ready, _nth_last(self.kernel.operations, ins.outstanding))
            self._note(ready, until + 1, "control")
            return until
        elif ins.name != "IRQ":
            return self._dispatch(f"command {index} {ins.name}", ins, ready)
        self._note(ready, ready + 1, "control")
        return ready

    def _measure(self, enable: bool, cycle: int) -> None:
        if enable and not self._counting:
            self.enabled.append([cycle, -1])
        elif self._counting and not enable:
            self.enabled[-1][1] = cycle
        self._counting = enable

    def _wait(self, ins: Instruction, ready: int) -> int:
        if ins.name == "STOP":
            until = max(ready, self.dma.complete, self.kernel.complete)
        else:
            until = max(ready, _nth_last(self.dma.transfers, ins.outstanding))
        self._note_wait(ready, until + 1)
        return until

    def _dispatch(self, where: str, ins: Instruction, ready: int) -> int:
        for name in _AT_LEAST_ONE.get(ins.name, _SIZES):
            if not self._registers[name]:
                raise ProgramError(f"{where}: register {name} is 0; SET it to at least 1")
        depth = self._machine.config.npu.queue_depth
        queued = self.dma.transfers if ins.name == "DMA" else self.kernel.operations
        cycle = ready
        if len(queued) >= depth:
            cycle = max(ready, _left(queued[-depth]) + 1)
        self._note_wait(ready, cycle)
        self._note(cycle, cycle + 1, "control")
        if ins.name == "DMA":
            self._transfer(where, ins, cycle)
        else:
            self._operation(where, ins, cycle)
        return cycle

    def _transfer(self, where: str, ins: Instruction, cycle: int) -> None:
        registers, regions = self._registers, self._program.regions
        if registers["region"] >= len(regions):
            raise ProgramError(
                f"{where}: region {registers['region']}, but the program has {len(regions)}; SET "
                f"region, or give Program.regions"
            )
        base, _ = regions[registers["region"]]
        rows = Rows(
            base + registers["offset"], registers["rows"], registers["row_bytes"],
            registers["row_step"],
        )  # fmt: skip
        if ins.direction == _TO_WEIGHTS:
            self._weights.load(rows, registers["buf"], registers["buf_step"])
        elif ins.direction == _TO_MEMORY:
            self._weights.overwrite(rows)
        self.dma.dispatch(SPEC.commands["DMA"].opcode, rows, ins.direction == _TO_MEMORY, cycle)

    def _operation(self, where: str, ins: Instruction, cycle: int) -> None:
        registers, words = self._registers, []
        if ins.name in ("CONV", "DEPTHWISE"):
            layout = weight_layout(self._machine, ins.name, registers)
            words = self._weights.tile_words(layout, registers["weights"], where)
        mode = ins.fields.get("op", ins.fields.get("mode", 0))
        self.kernel.dispatch(ins.name, mode, registers, words, cycle)


def _nth_last(entries: list, outstanding: int) -> int:
    """Cycle from which on at most `outstanding` of the entries are not complete."""
    return entries[-1 - outstanding].complete if len(entries) > outstanding else 0


def _left(entry) -> int:
    """Last cycle in which a transfer or an operation is in its queue."""
    return entry.last if hasattr(entry, "last") else entry.start
