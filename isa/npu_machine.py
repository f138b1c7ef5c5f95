"""The numbers of one `npu` machine, derived once from its configuration.

Golden model, timing model, RTL, program checks and compiler all read them here. Ref: docs/npu.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bankside.config_npu import NpuHardware

WORD_BYTES = 32
"""Bytes of a shared buffer word: 32 int8 or 16 int16 channels of one position."""
DEPTH = 8
"""Products that one lane adds per cycle."""
DECODED = 8
"""Weights that the decoder gives per cycle."""
_UNITS = {32: (1, 4, 1, 1), 64: (1, 8, 1, 2), 128: (2, 8, 2, 4), 256: (4, 8, 4, 8)}

# Latencies in cycles (docs/npu.md section 5).
SETUP = 4
MAC_LATENCY = 6
OUTPUT_LATENCY = 8
VECTOR_LATENCY = 8


@dataclass(frozen=True)
class NpuMachine:
    """Geometry of one machine; cycles are of the clock domain `npu`."""

    config: NpuHardware

    engine: ClassVar[str] = "npu"
    clock_domain: ClassVar[str] = "npu"

    @classmethod
    def of(cls, config: NpuHardware) -> NpuMachine:
        """Machine of a configuration."""
        return cls(config)

    @property
    def macs(self) -> int:
        return self.config.npu.macs

    @property
    def wide(self) -> bool:
        """Profile `llm`."""
        return self.config.npu.profile == "llm"

    @property
    def positions(self) -> int:
        """U: positions of a microblock (grid mode)."""
        return _UNITS[self.macs][0]

    @property
    def channels(self) -> int:
        """L: output channels of a microblock (grid mode)."""
        return _UNITS[self.macs][1]

    @property
    def lanes(self) -> int:
        """N = U * L: lanes, and output channels of a microblock in row mode."""
        return self.positions * self.channels

    @property
    def output_rate(self) -> int:
        """A: results per cycle of the output unit."""
        return _UNITS[self.macs][2]

    @property
    def vector_rate(self) -> int:
        """V: elements per cycle of the elementwise unit."""
        return _UNITS[self.macs][3]

    @property
    def bus_bytes(self) -> int:
        """Width of the data port."""
        return 128 if self.wide else 8

    @property
    def weight_port_bytes(self) -> int:
        """Width of the weight port, a word of the weight buffer."""
        return 256 if self.wide else 8

    @property
    def shared_words(self) -> int:
        return self.config.npu.shared_words

    @property
    def weight_words(self) -> int:
        return self.config.npu.weight_bytes // self.weight_port_bytes

    @property
    def burst_elements(self) -> int:
        """16-bit elements of a row of `Program.host_in` (one beat)."""
        return self.bus_bytes // 2

    @property
    def clock_mhz(self) -> float:
        return float(self.config.clock_mhz)

    def group(self, row_mode: bool) -> int:
        """G: output channels of a unit."""
        return self.lanes if row_mode else self.channels
