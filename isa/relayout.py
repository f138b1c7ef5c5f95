"""Re-layout between host bursts and staging, as permutations of NumPy arrays.

A host burst is C*NE FP16 elements; the staging holds pieces (chip, address) of NE elements.
Ref: docs/pim.md section 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ProgramError
from bankside.isa.spec import load_spec

RAW, BIT, HEAD = (load_spec("pim").enums["layout"][name] for name in ("raw", "bit", "head"))


def _check(shape: tuple[int, ...], layout: int, chips: int, nhc: int, cpt: int) -> None:
    if layout not in (RAW, BIT, HEAD):
        raise ProgramError(f"layout {layout} is not known; expected raw (0), bit (1) or head (2)")
    if layout != HEAD:
        return
    if nhc < 1 or chips % nhc:
        raise ProgramError(f"layout head: N_hc = {nhc} must divide the {chips} chips")
    if cpt < 1 or cpt % (chips // nhc):
        raise ProgramError(
            f"layout head: cpt = {cpt} must be a multiple of the {chips // nhc} heads side by side"
        )
    if shape[0] % cpt:
        raise ProgramError(f"layout head: {shape[0]} bursts; expected a multiple of cpt = {cpt}")


def relayout(
    bursts: NDArray[Any], layout: int, *, chips: int, elements: int, nhc: int = 1, cpt: int = 1
) -> NDArray[Any]:
    """Pieces that HWR writes: shape [n, C, NE], [address - base, chip, position].

    bursts : [n, C*NE], any element type. nhc, cpt : geometry registers, used by layout head.
    Raises ProgramError on an unknown layout or counts that do not fit together.
    """
    bursts = np.asarray(bursts)
    if bursts.ndim != 2 or bursts.shape[1] != chips * elements:
        raise ProgramError(f"bursts have shape {bursts.shape}; expected (n, {chips * elements})")
    _check(bursts.shape, layout, chips, nhc, cpt)
    n, heads = len(bursts), chips // nhc
    if layout == RAW:
        return bursts.reshape(n, chips, elements).copy()
    if layout == BIT:
        return np.ascontiguousarray(bursts.reshape(n, elements, chips).swapaxes(1, 2))
    # Sent: lane, head h, burst nb of the head, address g in the burst, position, sub-chip.
    sent = bursts.reshape(n // cpt, heads, cpt // heads, heads, elements, nhc)
    return np.ascontiguousarray(sent.transpose(0, 2, 3, 1, 5, 4)).reshape(n, chips, elements)


def inverse(
    pieces: NDArray[Any], layout: int, *, chips: int, elements: int, nhc: int = 1, cpt: int = 1
) -> NDArray[Any]:
    """Bursts that HRD sends for `pieces` [n, C, NE]: shape [n, C*NE], inverse of `relayout`."""
    pieces = np.asarray(pieces)
    if pieces.ndim != 3 or pieces.shape[1:] != (chips, elements):
        raise ProgramError(f"pieces have shape {pieces.shape}; expected (n, {chips}, {elements})")
    _check(pieces.shape, layout, chips, nhc, cpt)
    n, heads = len(pieces), chips // nhc
    if layout == RAW:
        return pieces.reshape(n, chips * elements).copy()
    if layout == BIT:
        return np.ascontiguousarray(pieces.swapaxes(1, 2)).reshape(n, chips * elements)
    held = pieces.reshape(n // cpt, cpt // heads, heads, heads, nhc, elements)
    return np.ascontiguousarray(held.transpose(0, 3, 1, 2, 5, 4)).reshape(n, chips * elements)


def staging_column(
    chip: NDArray[Any] | int, address: NDArray[Any] | int, *, chips: int, nhc: int
) -> NDArray[Any]:
    """Column of the staging that holds the piece (chip, absolute address)."""
    return (np.asarray(chip) + nhc * np.asarray(address)) % chips
