"""GPUs and links. Numbers of real ones: `gpus.yaml`, `links.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from bankside.errors import ConfigError
from bankside.mapping.system.sourced import Count, Positive, Sourced
from bankside.schema import Section, key_problem

Format = Literal["fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4"]

# Formats that can stand for a width, the preferred first.
_OF_WIDTH: dict[int, tuple[Format, ...]] = {
    4: ("fp4",), 8: ("fp8", "int8"), 16: ("bf16", "fp16"), 32: ("tf32", "fp32"), 64: ("fp64",),
}  # fmt: skip

_Tile = Annotated[tuple[Count, Count], Field(strict=False)]


class Peaks(Section):
    """Peak rate of each number format, dense; a format that is not given is not supported."""

    fp64: Positive | None = None
    fp32: Positive | None = None
    tf32: Positive | None = None
    fp16: Positive | None = None
    bf16: Positive | None = None
    fp8: Positive | None = None
    int8: Positive | None = None
    fp4: Positive | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.fp16 is None and self.bf16 is None and self.fp32 is None:
            raise key_problem("fp16", "is missing, and so are bf16 and fp32; give one of them")
        return self

    def of_bits(self, bits: float) -> float:
        """Rate of numbers of that width; of the next wider format where none has just that."""
        for width, formats in _OF_WIDTH.items():
            if width >= bits:
                found = next((rate for f in formats if (rate := getattr(self, f))), None)
                if found:
                    return found
        raise ConfigError(
            f"no number format of {bits} bits or more is known; expected at most 64 bits"
        )


class Link(Sourced):
    """A connection, of which each direction has the whole rate at the same time.

    Attributes:
        name: for people.
        gbps: 10^9 bytes per second in one direction.
        latency_us: from the start of a transfer to its first byte; None: not known.
        energy_per_byte_pj: None: not known.
    """

    name: str
    gbps: Positive
    latency_us: Annotated[float, Field(ge=0)] | None = None
    energy_per_byte_pj: Positive | None = None

    @property
    def bandwidth(self) -> float:
        """Bytes per second in one direction."""
        return self.gbps * 1e9

    @property
    def latency_s(self) -> float:
        """Seconds to the first byte; 0 where it is not known."""
        return (self.latency_us or 0.0) * 1e-6


class Gpu(Sourced):
    """One GPU.

    Attributes:
        name: for people.
        matrix_tflops: peak of the matrix units, 10^12 operations per second (2 per MAC), dense.
        vector_tflops: peak of the other units.
        sms: multiprocessors.
        clock_mhz: at which `matrix_tflops` is reached.
        memory_bytes: nameplate capacity (decimal).
        memory_gbps: peak memory bandwidth, 10^9 bytes per second.
        l2_bytes, l2_gbps: last-level cache; None: not known.
        shared_bytes: shared memory and L1 of one multiprocessor.
        tiles: output tiles (rows, columns) that matrix kernels come in.
        tdp_w: power limit.
        idle_w: power without work; None: not known.
        energy_per_flop_pj: of a matrix operation, operands from on-chip memory included.
        energy_per_byte_pj: of memory traffic.
        bus: link to the host, by name; peer_link: to other GPUs, None without one.
    """

    name: str
    matrix_tflops: Peaks
    vector_tflops: Peaks
    sms: Count
    clock_mhz: Positive
    memory_bytes: Positive
    memory_gbps: Positive
    l2_bytes: Positive | None = None
    l2_gbps: Positive | None = None
    shared_bytes: Positive
    tiles: Annotated[tuple[_Tile, ...], Field(strict=False, min_length=1)]
    tdp_w: Positive
    idle_w: Positive | None = None
    energy_per_flop_pj: Positive | None = None
    energy_per_byte_pj: Positive | None = None
    bus: str
    peer_link: str | None = None

    def matrix_flops(self, bits: float = 16) -> float:
        """Operations per second of the matrix units on numbers of that width."""
        return self.matrix_tflops.of_bits(bits) * 1e12

    @property
    def vector_flops(self) -> float:
        """FP32 operations per second of the other units."""
        return self.vector_tflops.of_bits(32) * 1e12

    @property
    def memory_bandwidth(self) -> float:
        """Bytes per second."""
        return self.memory_gbps * 1e9

    def energy_j(self, flops: object, moved_bytes: object) -> object | None:
        """Energy of operations and memory traffic in joules; None where not known."""
        if self.energy_per_flop_pj is None or self.energy_per_byte_pj is None:
            return None
        return (flops * self.energy_per_flop_pj + moved_bytes * self.energy_per_byte_pj) * 1e-12  # type: ignore[operator]
