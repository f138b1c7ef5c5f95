"""Seconds of kernels that stream elements: norm, rotation, activation, addition.

Ref: docs/gpu.md, section Streams.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bankside.mapping.gpu.gemm import Positive, Share
from bankside.mapping.gpu.shapes import spread
from bankside.mapping.system.gpu import Gpu
from bankside.schema import Section


class ElementwiseParameters(Section):
    """What is calibrated; 2 numbers.

    Attributes:
        start_us: of a kernel, its end included.
        dram_efficiency: share of the memory bandwidth.
    """

    start_us: Positive
    dram_efficiency: Share


def elementwise_seconds(
    p: ElementwiseParameters,
    gpu: Gpu,
    read_bytes: ArrayLike,
    written_bytes: ArrayLike,
    flops: ArrayLike = 0,
) -> NDArray:
    """Seconds of one kernel that reads, writes and computes; 0 where it does nothing."""
    shape, (read, written, flops) = spread(
        read_bytes=read_bytes, written_bytes=written_bytes, flops=flops
    )
    memory = (read + written) / (gpu.memory_bandwidth * p.dram_efficiency)
    seconds = p.start_us * 1e-6 + np.maximum(memory, flops / gpu.vector_flops)
    return np.where(read + written + flops == 0, 0.0, seconds).reshape(shape)


def elementwise_floor(gpu: Gpu, read_bytes: ArrayLike, written_bytes: ArrayLike) -> NDArray:
    """Seconds that no kernel can beat: every byte once at the memory's bandwidth."""
    return np.add(read_bytes, written_bytes) / gpu.memory_bandwidth
