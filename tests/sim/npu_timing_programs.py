"""Random machines and programs of the `npu` engine that exercise time alone.

Their data mean nothing: transfers go anywhere, operations meet no zero points, records or waits
that a useful program needs. Every 8 bytes of main memory are a legal header of a packed tile, so
tiles of any size begin at any word.
"""

import numpy as np

from bankside.config_npu import NpuConfig, NpuHardware, NpuMemoryConfig
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.program import Program
from bankside.isa.spec import load_spec

SPEC = load_spec("npu")
IMAGE_BYTES = 1 << 14


def random_machine(rng: np.random.Generator) -> NpuMachine:
    """Any MACs and profile with random queues, buffers and latencies."""
    npu = NpuConfig(
        macs=int(rng.choice([32, 64, 128, 256])), profile=str(rng.choice(["u55", "llm"])),
        queue_depth=int(rng.choice([1, 2, 4, 15])), weight_bytes=1 << 16,
    )  # fmt: skip
    memory = NpuMemoryConfig(
        read_latency_cycles=int(rng.choice([1, 2, 9, 40])),
        jitter_cycles=int(rng.choice([0, 0, 1, 7, 100])), seed=int(rng.integers(1, 1 << 32)),
        write_latency_cycles=int(rng.choice([1, 5, 30])),
        beat_cycles=int(rng.choice([1, 1, 2, 5])), outstanding=int(rng.choice([1, 2, 3, 8])),
    )  # fmt: skip
    return NpuMachine.of(NpuHardware(name="random", engine="npu", npu=npu, memory=memory))


def legal_headers(rng: np.random.Generator, size: int) -> np.ndarray:
    """Bytes, every 8 of which are the header of a packed tile."""
    words = np.zeros((size // 8, 8), np.uint8)
    words[:, 0] = rng.integers(0, 9, len(words))
    words[:, 1] = rng.integers(0, 256, len(words))
    words[:, 2] = rng.integers(0, 2, len(words))
    return words.reshape(-1)


class TimingProgram:
    """Builds one program; a register that already has its value is seldom sent again."""

    def __init__(self, rng: np.random.Generator, machine: NpuMachine) -> None:
        self.rng, self.machine = rng, machine
        self.words: list[int] = []
        self.registers: dict[str, int] = {}

    def _int(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def _maybe(self, chance: float = 0.5) -> int:
        return int(self.rng.random() < chance)

    def emit(self, name: str, **operands: int) -> None:
        self.words.append(SPEC.encode(name, where=name, **operands))

    def set(self, **values: int) -> None:
        for name, value in values.items():
            if self.registers.get(name, 0) != value or self._maybe(0.1):
                self.emit("SET", reg=name, value=value)
                self.registers[name] = value

    def build(self, length: int) -> Program:
        self._measured()
        kinds = (self._transfer, self._mac, self._vector, self._wait, self._little, self._mac)
        weights = (0.28, 0.26, 0.1, 0.14, 0.08, 0.14)
        for _ in range(length):
            kinds[self.rng.choice(len(kinds), p=weights)]()
        self.emit("STOP")
        if self._maybe(0.2):
            self.words += [self.words[-1]] * self._int(1, 40)  # fetched, never executed
        image = legal_headers(self.rng, IMAGE_BYTES).view("<u2")
        image = image.reshape(-1, self.machine.burst_elements).astype(np.uint16)
        half = IMAGE_BYTES // 2
        return Program(
            "npu", tuple(self.words), image, regions=((0, IMAGE_BYTES), (half, half), (half, half))
        )

    def _measured(self) -> None:
        if self._maybe(0.3):
            self.emit("PMU", enable=0)

    def _little(self) -> None:
        if self._maybe(0.6):
            self.emit("PMU", enable=self._maybe())
            return
        # Many at once, after a wait that has filled the command FIFO: fetching is too slow.
        many = self._maybe(0.2)
        if many:
            self.emit("KERNEL_WAIT", outstanding=0)
        for _ in range(self._int(50, 90) if many else 1):
            self.emit("IRQ", code=self._int(0, 65535))

    def _wait(self) -> None:
        self.emit(
            "DMA_WAIT" if self._maybe() else "KERNEL_WAIT", outstanding=int(self.rng.choice(4))
        )

    def _transfer(self) -> None:
        """Packed weights must not come from memory that the program writes: region 2 is written,
        region 0 read into the weight buffer, each in its half. What packed tiles an operation
        meets must not depend on time, hence the waits.
        """
        bus, half = self.machine.bus_bytes, IMAGE_BYTES // 2
        direction = self._int(0, 2)
        row = self._int(1, int(self.rng.choice([1, 2, 8, half // bus // 2]))) * bus
        rows = self._int(1, min(6, half // row))
        step = self._int(0, (half - row) // max(rows - 1, 1) // bus) * bus
        offset = self._int(0, (half - row - step * (rows - 1)) // bus) * bus
        self.set(region=(self._int(0, 1), 0, 2)[direction], rows=rows, row_bytes=row,
                 row_step=step, offset=offset, buf=self._int(0, 40) * bus,
                 buf_step=self._int(1, 9) * bus)  # fmt: skip
        followed = direction == 1 and not self.machine.wide
        if followed:
            self.emit("KERNEL_WAIT", outstanding=0)
        self.emit("DMA", direction=direction)
        if followed:
            self.emit("DMA_WAIT", outstanding=0)
        if self._maybe(0.3):
            self._transfer()

    def _mac(self) -> None:
        wide = self.machine.wide
        name = str(self.rng.choice(["CONV", "CONV", "DEPTHWISE", "POOL", *["MATMUL"] * wide]))
        formats = ("raw8",) if name == "DEPTHWISE" else ("raw8", "w4")
        self.set(
            ofm_h=self._int(1, 4), ofm_w=self._int(1, 6), ofm_c=self._int(1, 40),
            ifm_c=self._int(1, int(self.rng.choice([4, 40, 130]))), block=self._int(1, 20),
            kernel_h=self._int(1, 3), kernel_w=self._int(1, 2),
            weight_mode=self._maybe() if wide else 0, scale_mode=self._int(0, 2),
            weight_format=SPEC.enums["weight_format"][
                str(self.rng.choice(formats)) if wide else "packed"
            ],
            weights=self._int(0, 3), lut_enable=self._maybe(0.3), depend=self._maybe(0.6),
        )  # fmt: skip
        self.emit(name, **({"mode": self._maybe()} if name == "POOL" else {}))

    def _vector(self) -> None:
        name = str(self.rng.choice(["ELEMENTWISE", "SOFTMAX", "NORM", "COPY"]))
        self.set(
            ofm_h=self._int(1, 2), ofm_w=self._int(1, 3), ofm_c=self._int(1, 20),
            n0=self._int(1, 3), n1=self._int(1, 4), n2=self._int(1, 5),
        )  # fmt: skip
        self.set(depend=self._maybe())
        operands = {"ELEMENTWISE": {"op": self._int(0, 3)}, "NORM": {"mode": self._maybe()}}
        self.emit(name, **operands.get(name, {}))


def random_program(rng: np.random.Generator, machine: NpuMachine, length: int) -> Program:
    """About `length` operations, transfers and waits."""
    return TimingProgram(rng, machine).build(length)
