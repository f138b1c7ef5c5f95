"""What surrounds one machine of `numpy_faults.py`: host and end of a run of each engine.

`sim/lanes/axi_lanes.h` and `lanes_*.cpp` in Python. Ports are integers by name.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from bankside.isa.npu_commands import REGIONS
from bankside.isa.program import Program
from bankside.registry import Registry
from bankside.sim.lanes.benches import ARRAY, NPU, PIM
from bankside.sim.lanes.numpy_axi import (
    Drive,
    Memory,
    Ports,
    ReadChannel,
    RegisterReads,
    WriteChannel,
    register_writes,
)

_FETCH_SEED = 0x9E3779B9
#: Cycles that a machine has to become ready.
_READY_CYCLES = 100_000


class World(ABC):
    """One machine's surroundings.

    Attributes:
        early: inputs of a cycle follow its outputs, which depend on registers only; else those of
            the next cycle do.
        memory: main memory beside the design, if any. status, end, counters: after the run.
    """

    early: bool

    def __init__(self, names: Iterable[str]) -> None:
        self.ports: Ports = dict.fromkeys(names, 0)
        self.memory = Memory(b"", 0)
        self.status = self.end = 0
        self.counters: list[int] = []

    def fork(self) -> World:
        """Another machine in the same state."""
        other = copy.copy(self)
        other.ports, other.memory = dict(self.ports), self.memory.fork()
        return other

    @abstractmethod
    def set_up(self, program: Program) -> Iterator[Drive | None]:
        """From power-on to the first cycle of the run: what is done in each cycle; None: outputs
        are looked at without a cycle.
        """

    @abstractmethod
    def over(self) -> bool:
        """Whether the host sees in this cycle that the run is over."""

    @abstractmethod
    def drive(self, cycle: int, over: bool) -> bool:
        """A cycle of the host; true when the run is over and its registers have been read."""

    def delivers(self, other: World) -> bool:
        """Whether both runs delivered the same."""
        return self.memory.same(other.memory)

    def image(self, size: int) -> bytes:
        """What was delivered, `size` bytes."""
        return bytes(self.memory[i] for i in range(size))


class AxiWorld(World):
    """`array` and `npu`: main memory, words of the npu's stream, registers."""

    early = True

    def __init__(self, machine: Any, program: Program, names: Iterable[str]) -> None:
        super().__init__(names)
        self.npu = machine.engine == "npu"
        self.numbers = (NPU if self.npu else ARRAY).defines(machine)
        self.before = self.now = 0
        image = np.ascontiguousarray(program.host_in).tobytes()
        self.memory = Memory(image, machine.config.memory.bytes)
        words = np.asarray(program.words or (0,), "<u8").tobytes()
        self.words = Memory(words, len(words))
        self.first_words = (*program.words, 0)[
            : 0 if self.npu else machine.config.array.program_words
        ]
        self.channels = self._channels(machine.config.memory)
        self.reads: RegisterReads | None = None

    def _channels(self, memory: Any) -> list[tuple[ReadChannel | WriteChannel, str]]:
        """Channels and the attributes of their memories, in the order of a cycle."""
        size, depth = self.numbers["BUS_BITS"] // 8, self.numbers["BURSTS"]
        timing = [memory.read_latency_cycles, memory.write_latency_cycles, memory.beat_cycles, 0, 0]
        if self.npu:
            timing[3:] = memory.jitter_cycles, memory.seed
        port = "m0_axi_" if self.npu else "m_axi_"
        found: list[tuple[ReadChannel | WriteChannel, str]] = [
            (ReadChannel(port, size, depth, timing), "memory"),
            (WriteChannel(port, size, depth, timing), "memory"),
        ]
        if self.npu:
            fetch = [*timing[:4], timing[4] ^ _FETCH_SEED or timing[4]]
            found.append((ReadChannel("m1_axi_", 8, 2, fetch), "words"))
        return found

    def fork(self) -> World:
        other = super().fork()
        assert isinstance(other, AxiWorld)
        other.channels, other.reads = copy.deepcopy((self.channels, self.reads))
        return other

    def _bench(self, now: int) -> None:
        for channel, memory in self.channels:
            channel.drive(self.ports, getattr(self, memory), now)

    def _cycle(self, host: Drive) -> Drive:
        def drive(ports: Ports) -> None:
            self._bench(self.now)
            host(ports)
            self.now += 1

        return drive

    def set_up(self, program: Program) -> Iterator[Drive | None]:
        ports, numbers = self.ports, self.numbers
        ports["rst"] = 1
        for self.now in range(3):
            yield lambda ports: None
        self.now, ports["rst"] = 3, 0
        writes: list[tuple[str, Sequence[int]]] = [("PROGRAM", self.first_words)]
        if self.npu:
            bounds = [number for region in program.regions for number in region]
            bounds += [0] * (2 * REGIONS - len(bounds))
            writes = [("QBASE", (0, len(program.words))), ("REGION", bounds)]
        for name, values in writes:
            for drive in register_writes(ports, numbers[name], values):
                yield self._cycle(drive)
        yield self._cycle(self._start)
        ports["s_axil_awvalid"] = ports["s_axil_wvalid"] = 0
        for _ in range(16):
            yield None
            if not self.over():
                break
            yield self._cycle(lambda ports: None)
        self.before = self.now

    def _start(self, ports: Ports) -> None:
        ports |= {"s_axil_awaddr": self.numbers["CONTROL"], "s_axil_wdata": self.numbers["START"]}
        ports |= dict.fromkeys(("s_axil_awvalid", "s_axil_wvalid", "s_axil_bready"), 1)
        ports["s_axil_wstrb"] = 0xFF

    def over(self) -> bool:
        return not self.ports["events"] >> self.numbers["TRACE_RUNNING"] & 1

    def drive(self, cycle: int, over: bool) -> bool:
        self._bench(cycle + self.before)
        if not over:
            return False
        if self.reads is None:
            self.reads = RegisterReads(self._report())
            self.ports["s_axil_bready"] = 0
        if not self.reads.drive(self.ports):
            return False
        self.status, *others = self.reads.values
        self.counters = others[1 if self.npu else 2 :]
        self.end = self._end(self.status)
        return True

    def _report(self) -> list[int]:
        """Addresses of the registers that are read after a run; stall counters at the end."""
        n = self.numbers
        first = [n["STATUS"], n["CYCLES"], *([] if self.npu else [n["POSITION"]])]
        return first + [n["COUNTERS"] + 8 * i for i in range(n["REASONS"])]

    def _end(self, status: int) -> int:
        if status & self.numbers["STATUS_FAULT" if self.npu else "STATUS_ERROR"]:
            return 1
        done = self.numbers["STATUS_DONE"]
        return 0 if (status & done if self.npu else status == done) else 2


# --- pim ------------------------------------------------------------------------------------------
class PimWorld(World):
    """The host of a rank: bursts in, bursts out."""

    early = False

    def __init__(self, machine: Any, program: Program, names: Iterable[str]) -> None:
        super().__init__(names)
        self.numbers = PIM.defines(machine)
        self.refresh = int(machine.refresh)
        self.bytes = self.numbers["BURST_BITS"] // 8
        image = np.ascontiguousarray(program.host_in).tobytes()
        starts = range(0, len(image), self.bytes)
        self.bursts = tuple(int.from_bytes(image[i : i + self.bytes], "little") for i in starts)
        self.sent: list[int] = []
        self.taken = 0
        self.offered = self.done = False

    def fork(self) -> World:
        other = super().fork()
        assert isinstance(other, PimWorld)
        other.sent = list(self.sent)
        return other

    def set_up(self, program: Program) -> Iterator[Drive | None]:
        def nothing(ports: Ports) -> None:
            pass

        ports = self.ports
        ports |= {"refresh": self.refresh, "host_out__ready": 1, "rst": 1}
        yield nothing
        yield nothing
        ports["rst"] = 0
        for _ in range(_READY_CYCLES):
            yield None
            if ports["ready"]:
                break
            yield nothing
        ports["program_en"] = 1
        for ports["program_addr"], ports["program_data"] in enumerate(program.words):
            yield nothing
        ports["program_en"] = 0
        self._offer()
        ports["start"] = 1
        yield nothing
        ports["start"] = 0

    def _offer(self) -> None:
        self.offered = self.taken < len(self.bursts)
        self.ports["host_in__valid"] = int(self.offered)
        if self.offered:
            self.ports["host_in__payload"] = self.bursts[self.taken]

    def over(self) -> bool:
        return self.done or bool(self.ports["error"])

    def drive(self, cycle: int, over: bool) -> bool:
        ports = self.ports
        if over:
            bits = (ports["error"], ports["violation"], ports["unrefreshable"])
            self.status = sum(bool(bit) << i for i, bit in enumerate(bits))
            self.end = 0 if self.done else 1 if ports["error"] else 2
            width = self.numbers["COUNTER_BITS"]
            places = range(0, width * self.numbers["REASONS"], width)
            self.counters = [ports["counts"] >> at & (1 << width) - 1 for at in places]
            return True
        if ports["host_out__valid"]:
            self.sent.append(ports["host_out__payload"])
        self.done = bool(ports["done"])
        if self.offered and ports["host_in__ready"]:
            self.taken += 1
            self._offer()
        return False

    def delivers(self, other: World) -> bool:
        assert isinstance(other, PimWorld)
        return self.sent == other.sent

    def image(self, size: int) -> bytes:
        sent = b"".join(burst.to_bytes(self.bytes, "little") for burst in self.sent)
        return sent[:size].ljust(size, b"\0")


#: Engine -> its surroundings, of (machine, program, names of the ports), at power-on.
WORLDS: Registry[Any] = Registry("engine")
for _name, _world in (("array", AxiWorld), ("npu", AxiWorld), ("pim", PimWorld)):
    WORLDS.add(_name, _world)
