"""Hardware descriptions of the `npu` engine. Ref: docs/npu.md section 1."""

from typing import Literal, Self

from pydantic import Field, model_validator

from bankside.config import HardwareConfig
from bankside.schema import Section, key_problem


class NpuMemoryConfig(Section):
    """Main memory behind both AXI4 ports, as the executions `timing` and `rtl` see it.

    Attributes:
        bytes: size.
        read_latency_cycles: from the acceptance of a read address to its first beat, at least.
        jitter_cycles: up to so many more, different for every burst (docs/npu.md section 7).
        seed: of that sequence.
        write_latency_cycles: from the acceptance of the last beat to the response.
        beat_cycles: cycles per beat.
        outstanding: bursts under way in each direction.
    """

    bytes: int = Field(default=1 << 24, ge=1 << 12, le=1 << 32)
    read_latency_cycles: int = Field(default=32, ge=1, le=4096)
    jitter_cycles: int = Field(default=0, ge=0, le=1024)
    seed: int = Field(default=1, ge=1, le=(1 << 32) - 1)
    write_latency_cycles: int = Field(default=16, ge=1, le=4096)
    beat_cycles: int = Field(default=1, ge=1, le=64)
    outstanding: int = Field(default=8, ge=1, le=64)


class NpuConfig(Section):
    """MACs, buffers and ports.

    Attributes:
        macs: int8 multiply-accumulates per cycle.
        profile: `u55` (weights through a decoder at 8 per cycle, no MATMUL, no row mode) or `llm`
            (wide weight port, W8 and W4, MATMUL).
        shared_words: words of 32 bytes of the shared buffer.
        banks: banks of the shared buffer; transfers and operations must not meet in one.
        weight_bytes: size of the weight buffer.
        accumulators: positions of one accumulator buffer (there are two).
        queue_depth: operations and transfers that wait, each.
    """

    macs: Literal[32, 64, 128, 256]
    profile: Literal["u55", "llm"]
    shared_words: int = Field(default=2048, ge=64, le=65536)
    banks: int = Field(default=16, ge=1, le=64)
    weight_bytes: int = Field(default=65536, ge=1024, le=1 << 22)
    accumulators: int = Field(default=64, ge=4, le=256)
    queue_depth: int = Field(default=4, ge=1, le=15)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.shared_words % self.banks:
            below = self.shared_words // self.banks * self.banks
            raise key_problem(
                "shared_words",
                f"is {self.shared_words}, which does not divide among {self.banks} banks; nearest "
                f"are {below} and {below + self.banks}",
            )
        if self.weight_bytes % 256:
            raise key_problem(
                "weight_bytes", f"is {self.weight_bytes}; expected a multiple of 256"
            )
        return self


class NpuHardware(HardwareConfig):
    """One machine of the `npu` engine."""

    clock_mhz: int = Field(default=500, ge=1, le=10_000)
    npu: NpuConfig
    memory: NpuMemoryConfig = NpuMemoryConfig()
