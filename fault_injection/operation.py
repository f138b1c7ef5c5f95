"""One operation whose result is all that a program is for: where each number of it lies in what the
run delivers, and what a fault did to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bankside.isa.program import Program
from bankside.sim.rtl.referee import Delivered

__all__ = ["Change", "Operation", "places_of", "spans_of"]

I64 = NDArray[np.int64]


class Change(NamedTuple):
    """What a fault did to the result of an operation.

    golden, faulty: [rows, columns] signed integers; bytes that are equal in both count as 0, so
        that only difference and exclusive or of the two mean something.
    outside: bytes that differ elsewhere in what was delivered, without padding of the result.
    whole: as many bytes as without the fault were delivered.
    """

    golden: I64
    faulty: I64
    outside: int
    whole: bool


@dataclass(frozen=True, eq=False)
class Operation:
    """The result of a program with one operation.

    Attributes:
        bits: width of a number, 8 or 16.
        places: [rows, columns], byte of main memory, or of all bursts to the host one after the
            other, at which a number begins; low byte first.
        spans: (first byte, bytes) of what is delivered for it; what is no number is padding, which
            nobody reads.
    """

    engine: Literal["npu", "array", "pim"]
    op: Literal["gemm", "attention"]
    bits: Literal[8, 16]
    places: I64
    spans: tuple[tuple[int, int], ...] = ()

    @cached_property
    def _sorted(self) -> tuple[I64, I64]:
        """Bytes of the result, ascending, and for each number x bytes of a number + byte."""
        size = self.bits // 8
        flat = (self.places.reshape(-1, 1) + np.arange(size)).reshape(-1)
        order = np.argsort(flat, kind="stable")
        return flat[order], order

    def change(self, delivered: Delivered) -> Change:
        """Sort what a faulty run delivered otherwise into the result and the rest."""
        bytes_, numbers = self._sorted
        at = np.minimum(np.searchsorted(bytes_, delivered.address), len(bytes_) - 1)
        inside = bytes_[at] == delivered.address
        found = []
        for data in (delivered.golden, delivered.faulty):
            flat = np.zeros(len(bytes_), np.uint8)
            flat[numbers[at[inside]]] = data[inside]
            signed = flat.view("<i1" if self.bits == 8 else "<i2")
            found.append(signed.astype(np.int64).reshape(self.places.shape))
        padding = np.zeros(len(inside), bool)
        for first, size in self.spans:
            padding |= (delivered.address >= first) & (delivered.address < first + size)
        whole = delivered.golden_size == delivered.faulty_size
        return Change(*found, int((~inside & ~padding).sum()), whole)


def spans_of(program: Program) -> tuple[tuple[int, int], ...]:
    """`Operation.spans` of a program all of whose outputs are the result."""
    size = 2 * program.host_in.shape[1]
    return tuple((first * size, count * size) for first, count in program.outputs.values())


def places_of(collect: Callable[[NDArray[np.uint16]], NDArray], shape: tuple[int, ...]) -> I64:
    """Where `collect` takes the numbers of its result from, in bytes of its argument.

    Args:
        collect: function of uint16 [shape] that moves numbers about and changes none.
    """
    index = np.arange(int(np.prod(shape))).reshape(shape)
    low, high = (collect((index >> bit & 0xFFFF).astype(np.uint16)) for bit in (0, 16))
    return 2 * (low.astype(np.int64) | high.astype(np.int64) << 16)
