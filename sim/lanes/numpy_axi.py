"""Memory with timing and host of machines with AXI, in Python: `sim/rtl/axi_bench.h` for
`numpy_worlds.py`. Ports are integers by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

Ports = dict[str, int]
#: What drives a machine in one cycle: it reads outputs and writes inputs.
Drive = Callable[[Ports], object]

_OKAY, _DECODE_ERROR = 0, 3
#: Cycles that a host waits for the answer of a register. The machines answer within five, and
#: `kPatience` of axi_bench.h, 4,096 for each of some ten registers, would take half an hour here.
_PATIENCE = 1 << 7


class Memory:
    """Bytes of a machine: the image of the program, zeros behind it, and what was changed."""

    def __init__(self, image: bytes, size: int) -> None:
        self.image, self.size = image, size
        self.changed: dict[int, int] = {}

    def fork(self) -> Memory:
        other = Memory(self.image, self.size)
        other.changed = dict(self.changed)
        return other

    def __getitem__(self, address: int) -> int:
        if address in self.changed:
            return self.changed[address]
        return self.image[address] if address < len(self.image) else 0

    def __setitem__(self, address: int, value: int) -> None:
        self.changed[address] = value

    def holds(self, address: int, count: int) -> bool:
        return address < self.size and count <= self.size - address

    def read(self, address: int, count: int) -> int:
        return int.from_bytes([self[address + i] for i in range(count)], "little")

    def same(self, other: Memory) -> bool:
        """Whether two machines with the same image have the same bytes."""
        return all(self[a] == other[a] for a in self.changed.keys() | other.changed.keys())


class ReadChannel:
    """Read bursts of the port `prefix`, in order. timing: read latency, write latency, cycles of a
    beat, jitter, seed.
    """

    def __init__(self, prefix: str, size: int, depth: int, timing: Sequence[int]) -> None:
        self.prefix, self.size, self.depth = prefix, size, depth
        self.latency, _, self.beat, self.jitter, self.x = timing
        self.next = 0
        self.bursts: list[list[int]] = []  # address, beats, first cycle

    def drive(self, ports: Ports, memory: Memory, now: int) -> None:
        at = self.prefix
        ports[at + "arready"] = len(self.bursts) < self.depth
        if ports[at + "arvalid"] and ports[at + "arready"]:
            first = now + self.latency + self._late()
            self.bursts.append([ports[at + "araddr"], ports[at + "arlen"] + 1, first])
        ready = self.bursts and now >= max(self.bursts[0][2], self.next)
        ports[at + "rvalid"] = int(bool(ports[at + "rready"] and ready))
        if not ports[at + "rvalid"]:
            return
        burst = self.bursts[0]
        inside = memory.holds(burst[0], self.size)
        ports[at + "rdata"] = memory.read(burst[0], self.size) if inside else 0
        ports[at + "rresp"] = _OKAY if inside else _DECODE_ERROR
        ports[at + "rlast"] = burst[1] == 1
        burst[0] += self.size
        burst[1] -= 1
        self.next = now + self.beat
        if not burst[1]:
            self.bursts.pop(0)

    def _late(self) -> int:
        if not self.jitter:
            return 0
        for by in (13, -17, 5):
            self.x ^= (self.x << by if by > 0 else self.x >> -by) & 0xFFFFFFFF
        return self.x % (self.jitter + 1)


class WriteChannel:
    """Write bursts of the port `prefix`, in order; each ends with its last beat."""

    def __init__(self, prefix: str, size: int, depth: int, timing: Sequence[int]) -> None:
        self.prefix, self.size, self.depth = prefix, size, depth
        self.latency, self.beat = timing[1], timing[2]
        self.next = self.error = 0
        self.addresses: list[int] = []
        self.responses: list[tuple[int, int]] = []

    def drive(self, ports: Ports, memory: Memory, now: int) -> None:
        at = self.prefix
        ports[at + "awready"] = len(self.addresses) < self.depth
        if ports[at + "awvalid"] and ports[at + "awready"]:
            self.addresses.append(ports[at + "awaddr"])
        room = self.addresses and len(self.responses) < self.depth
        ports[at + "wready"] = int(bool(now >= self.next and room))
        if ports[at + "wvalid"] and ports[at + "wready"]:
            self._take(ports, memory, now)
        answers = self.responses and self.responses[0][0] <= now
        ports[at + "bvalid"] = int(bool(ports[at + "bready"] and answers))
        if ports[at + "bvalid"]:
            ports[at + "bresp"] = self.responses.pop(0)[1]

    def _take(self, ports: Ports, memory: Memory, now: int) -> None:
        at, address = self.prefix, self.addresses[0]
        data, strobes = ports[at + "wdata"], ports[at + "wstrb"]
        if memory.holds(address, self.size):
            for i in range(self.size):
                if strobes >> i & 1:
                    memory[address + i] = data >> 8 * i & 0xFF
        else:
            self.error = 1
        self.addresses[0] += self.size
        self.next = now + self.beat
        if ports[at + "wlast"]:
            self.responses.append((now + self.latency, _DECODE_ERROR if self.error else _OKAY))
            self.error = 0
            self.addresses.pop(0)


class RegisterReads:
    """One register after the other; 0 where no answer comes."""

    def __init__(self, addresses: Sequence[int]) -> None:
        self.addresses, self.values = addresses, [0] * len(addresses)
        self.done = self.asked = self.waited = 0

    def drive(self, ports: Ports) -> bool:
        """The inputs of a cycle; whether all have been read."""
        self.waited += 1
        late = self.waited > _PATIENCE
        ports["s_axil_arvalid"], ports["s_axil_rready"] = int(not self.asked), int(self.asked)
        if not self.asked:
            ports["s_axil_araddr"] = self.addresses[self.done]
            self.asked = ports["s_axil_arready"]
        elif ports["s_axil_rvalid"] or late:
            self.values[self.done] = ports["s_axil_rdata"] if ports["s_axil_rvalid"] else 0
            late = True
        if late:
            self.done, self.asked, self.waited = self.done + 1, 0, 0
        over = self.done >= len(self.addresses)
        if over:
            ports["s_axil_arvalid"] = ports["s_axil_rready"] = 0
        return over


def register_writes(ports: Ports, address: int, values: Sequence[int]) -> Iterator[Drive]:
    """What each cycle does until all are written, or no answer comes."""
    addressed = sent = answered = waited = 0
    while answered < len(values) and waited <= _PATIENCE:

        def drive(ports: Ports) -> None:
            nonlocal addressed, sent, answered, waited
            ports["s_axil_bready"], ports["s_axil_wstrb"] = 1, 0xFF
            ports["s_axil_awvalid"] = int(addressed < len(values))
            ports["s_axil_awaddr"] = address + 8 * addressed
            ports["s_axil_wvalid"] = int(sent < len(values))
            ports["s_axil_wdata"] = values[sent] if sent < len(values) else 0
            addressed += ports["s_axil_awvalid"] & ports["s_axil_awready"]
            sent += ports["s_axil_wvalid"] & ports["s_axil_wready"]
            waited += 1
            if ports["s_axil_bvalid"]:
                answered, waited = answered + 1, 0

        yield drive
    ports["s_axil_awvalid"] = ports["s_axil_wvalid"] = ports["s_axil_bready"] = 0
