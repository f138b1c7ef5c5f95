"""Hardware descriptions of the `array` engine: 2D array of PEs, 1D array of lanes, buffers, memory.

Ref: docs/array.md sections 1 and 2.
"""

from typing import Self

from pydantic import Field, model_validator

from bankside.config import HardwareConfig
from bankside.schema import Section, key_problem

_PAGE_BYTES = 4096


class MemoryConfig(Section):
    """Main memory behind the AXI4 port.

    Attributes:
        bytes: size.
        read_latency_cycles: from the acceptance of a read address to its first beat.
        write_latency_cycles: from the acceptance of the last beat to the response.
        beat_cycles: cycles per beat, of reads and of writes.
        outstanding: bursts that may be under way in each direction.
    """

    bytes: int = Field(default=1 << 24, ge=1 << 12, le=1 << 32)
    read_latency_cycles: int = Field(default=32, ge=1, le=4096)
    write_latency_cycles: int = Field(default=16, ge=1, le=4096)
    beat_cycles: int = Field(default=1, ge=1, le=64)
    outstanding: int = Field(default=16, ge=1, le=256)


class ArrayConfig(Section):
    """The two arrays, their buffers and their control.

    Attributes:
        rows, columns: PEs of the 2D array; the 1D array has a lane per column.
        bus_bytes: width of the memory port and of a buffer word.
        score_registers: score registers of a PE, one per tile in flight.
        row_words: bus words of one row bank (keys and values).
        column_words: bus words of one column bank (queries, scores, probabilities, results).
        lane_words: FP32 words of one accumulator set of a lane (there are two sets).
        chunk_words: chunk maxima that a lane keeps (2-pass cascade: tiles of one row block).
        program_words: command words.
        queue_depth: commands that wait in front of each engine.
        return_cycles: registers between a lane and the top of its column; by default one per row.
        divider_bits: quotient bits per cycle of a lane's divider.
    """

    rows: int = Field(ge=2, le=256)
    columns: int = Field(ge=2, le=256)
    bus_bytes: int = Field(default=32, ge=4, le=128)
    score_registers: int = Field(default=2, ge=1, le=8)
    row_words: int = Field(default=1024, ge=2, le=65536)
    column_words: int = Field(default=512, ge=2, le=65536)
    lane_words: int = Field(default=256, ge=2, le=4096)
    chunk_words: int = Field(default=256, ge=2, le=65536)
    program_words: int = Field(default=4096, ge=16, le=65536)
    queue_depth: int = Field(default=4, ge=1, le=64)
    return_cycles: int | None = Field(default=None, ge=1, le=1024)
    divider_bits: int = Field(default=2, ge=1, le=26)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.bus_bytes & (self.bus_bytes - 1):
            below = 1 << (self.bus_bytes.bit_length() - 1)
            raise key_problem(
                "bus_bytes",
                f"is {self.bus_bytes}, not a power of two; nearest are {below} and {2 * below}",
            )
        return self


class ArrayHardware(HardwareConfig):
    """One machine of the `array` engine."""

    clock_mhz: int = Field(default=940, ge=1, le=10_000)
    array: ArrayConfig
    memory: MemoryConfig = MemoryConfig()

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.memory.bytes % _PAGE_BYTES:
            raise key_problem(
                "memory.bytes",
                f"is {self.memory.bytes}; expected a multiple of {_PAGE_BYTES}, since bursts do "
                f"not cross pages of that size",
            )
        return self
