"""What stands beside the GPUs: host memory, PIM of several kinds, arrays, NPUs."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, model_validator

from bankside.config import DRAM_STANDARDS, HardwareConfig, PimHardware
from bankside.config_array import ArrayHardware
from bankside.config_npu import NpuHardware
from bankside.errors import ConfigError
from bankside.mapping.system.sourced import Count, Positive, Sourced
from bankside.registry import nearest
from bankside.schema import key_problem

H = TypeVar("H", bound=HardwareConfig)


@lru_cache(maxsize=64)
def _hardware(kind: type[H], name: str) -> H:
    return kind.load(name)


def _resolved(kind: type[H], value: str | H) -> H:
    return _hardware(kind, value) if isinstance(value, str) else value


def _check_hardware(kind: type[H], value: str | H) -> None:
    if isinstance(value, str):
        try:
            _hardware(kind, value)
        except ConfigError as bad:
            raise key_problem("hardware", str(bad)) from bad


def _check_standard(name: str) -> None:
    if name not in DRAM_STANDARDS:
        raise key_problem(
            "standard",
            f"is {name!r}{nearest(name, DRAM_STANDARDS)}; choose from: {', '.join(DRAM_STANDARDS)}",
        )


class Host(Sourced):
    """The CPU's side.

    Attributes:
        memory_bytes, memory_gbps: capacity and peak bandwidth of all channels.
        channels, standard: memory channels and their DRAM.
        compute_tflops: of the CPUs on 16-bit numbers; None: not known.
        energy_per_byte_pj: of memory traffic; None: not known.
    """

    memory_bytes: Positive
    memory_gbps: Positive
    channels: Count
    standard: str
    compute_tflops: Positive | None = None
    energy_per_byte_pj: Positive | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_standard(self.standard)
        return self

    @property
    def memory_bandwidth(self) -> float:
        """Bytes per second."""
        return self.memory_gbps * 1e9


class _MemoryPim(Sourced):
    """PIM that is told by its capacity and bandwidth.

    Attributes:
        memory_bytes: of the memory it computes in.
        bandwidth_gbps: internal, of all of it together.
        max_intensity: operations per byte that it can do at that bandwidth; None: no limit (the
            assumption of the papers that use it as a baseline).
        energy_per_byte_pj: of internal traffic; None: not known.
        energy_per_flop_pj: of an operation; None: not known.
    """

    memory_bytes: Positive
    bandwidth_gbps: Positive
    max_intensity: Positive | None = None
    energy_per_byte_pj: Positive | None = None
    energy_per_flop_pj: Positive | None = None

    @property
    def bandwidth(self) -> float:
        """Bytes per second inside."""
        return self.bandwidth_gbps * 1e9

    @property
    def flops(self) -> float:
        """Operations per second; infinite without `max_intensity`."""
        return self.bandwidth * self.max_intensity if self.max_intensity else float("inf")


class HbmPim(_MemoryPim):
    """Units at the banks of HBM.

    Attributes:
        place: `gpu` (the GPUs' own memory) or `added` (more memory beside it).
    """

    place: Literal["gpu", "added"]


class LogicPim(_MemoryPim):
    """Units on the logic die of the GPUs' HBM. Ref: Duplex, arXiv 2409.01141."""


class RankPim(_MemoryPim):
    """Units in the buffer chips of the host's DIMMs; the memory is the host's."""


class DimmPim(Sourced):
    """Units at the banks of the host's DIMMs; their time comes from `sim.timing`.

    Attributes:
        hardware: one rank, preset of the engine `pim`, or such a description in place.
        query_lanes: multiply-accumulates per fetched element at most; a mapping uses as many as
            query heads share a key head, up to this.
        memory_bytes: of all ranks.
        channels, dimms_per_channel, ranks_per_dimm: geometry.
        ranksets: groups of ranks of which one communicates while the others compute.
        energy_per_byte_pj: of traffic inside the ranks; None: not known.
    """

    hardware: str | PimHardware
    query_lanes: Literal[1, 2, 4, 8]
    memory_bytes: Positive
    channels: Count
    dimms_per_channel: Count
    ranks_per_dimm: Count
    ranksets: Count
    energy_per_byte_pj: Positive | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_hardware(PimHardware, self.hardware)
        if self.ranks % self.ranksets:
            raise key_problem(
                "ranksets",
                f"is {self.ranksets}, which does not divide {self.ranks} ranks (channels * "
                f"dimms_per_channel * ranks_per_dimm)",
            )
        return self

    @property
    def ranks(self) -> int:
        """Ranks in all."""
        return self.channels * self.dimms_per_channel * self.ranks_per_dimm

    @property
    def ranks_per_rankset(self) -> int:
        """Ranks of one rankset."""
        return self.ranks // self.ranksets

    def config(self, group: int = 1) -> PimHardware:
        """Hardware of one rank for models of which `group` query heads share a key head."""
        base = _resolved(PimHardware, self.hardware)
        lanes = max(n for n in (1, 2, 4, 8) if n <= min(group, self.query_lanes))
        return base.model_copy(update={"pim": base.pim.model_copy(update={"query_lanes": lanes})})


class _Engine(Sourced):
    """An accelerator of which this package has RTL and a timing model.

    Attributes:
        count: how many.
        memory_bytes, memory_gbps: main memory of each.
        link: to the host or GPU, by name; None: it shares their memory.
        energy_per_byte_pj: of main memory traffic; None: not known.
        energy_per_flop_pj: of an operation; None: not known.
    """

    count: Count
    memory_bytes: Positive
    memory_gbps: Positive
    link: str | None = None
    energy_per_byte_pj: Positive | None = None
    energy_per_flop_pj: Positive | None = None

    @property
    def memory_bandwidth(self) -> float:
        """Bytes per second of each one's main memory."""
        return self.memory_gbps * 1e9


class Array(_Engine):
    """Spatial arrays for attention. Ref: FuseMax, arXiv 2406.10491.

    Attributes:
        hardware: preset of the engine `array`, or such a description in place.
        buffer_bytes: on-chip buffer that tiles are kept in.
        energy_per_buffer_byte_pj: of its traffic; None: not known.
    """

    hardware: str | ArrayHardware
    buffer_bytes: Positive
    energy_per_buffer_byte_pj: Positive | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_hardware(ArrayHardware, self.hardware)
        return self

    def config(self) -> ArrayHardware:
        """Hardware of one array."""
        return _resolved(ArrayHardware, self.hardware)


class Npu(_Engine):
    """int8 command-stream NPUs.

    Attributes:
        hardware: preset of the engine `npu`, or such a description in place.
        weight_bits: width of weights in memory.
    """

    hardware: str | NpuHardware
    weight_bits: Annotated[int, Field(ge=4, le=8)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_hardware(NpuHardware, self.hardware)
        return self

    def config(self) -> NpuHardware:
        """Hardware of one NPU."""
        return _resolved(NpuHardware, self.hardware)
