"""Values that come from outside: limbs of signals of all lanes, checked against the design."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from bankside.errors import ConfigError
from bankside.sim.lanes.places import Place

_LIMB = (1 << 32) - 1


def limbs(values: Iterable[int], width: int) -> NDArray[np.uint32]:
    """[n, ceil(width / 32)] of integers."""
    count = -(-width // 32)
    rows = [[int(v) >> 32 * i & _LIMB for i in range(count)] for v in values]
    return np.array(rows, np.uint32).reshape(-1, count)


def ints(rows: NDArray[np.uint32]) -> list[int]:
    """Integers of limbs."""
    return [sum(int(v) << 32 * i for i, v in enumerate(row)) for row in rows]


def count_of_lanes(lanes: int) -> int:
    """As given. Raises ConfigError below 1."""
    if lanes < 1:
        raise ConfigError(f"{lanes} lanes; expected 1 or more")
    return lanes


def count_of_cycles(cycles: int) -> int:
    """As given. Raises ConfigError below 0."""
    if cycles < 0:
        raise ConfigError(f"{cycles} cycles; expected 0 or more: lanes cannot go back")
    return cycles


def place_of(places: Mapping[tuple[str, str], Place], kind: str, path: str) -> Place:
    """The place of a kind with a path. Raises ConfigError where there is none: what has that name,
    or the nearest names.
    """
    if (kind, path) in places:
        return places[kind, path]
    names = [p for k, p in places if k == kind]
    others = [k for k, p in places if p == path]
    if kind == "net" and not names:
        help_ = "these lanes have no nets: make them with nets=True"
    elif others:
        help_ = f"it is of kind {' and '.join(others)}"
    else:
        help_ = f"nearest: {', '.join(get_close_matches(path, names, 3, 0)) or 'none'}"
    raise ConfigError(f"no {kind} {path!r} in the design; {help_}")


def word_of(place: Place, word: int) -> int:
    """The number of a word of a memory. Raises ConfigError for one that it does not have."""
    if not 0 <= word < place.depth:
        raise ConfigError(
            f"{place.kind} {place.path!r} has {place.depth} words; got word {word}; expected 0 to "
            f"{place.depth - 1}"
        )
    return word


def rows_of(values: NDArray[np.integer] | int, place: Place, lanes: int) -> NDArray[np.uint32]:
    """[lanes, ceil(width / 32)]: an integer for all lanes, or limbs of every lane, low limb first
    (of up to 32 bits also [lanes]).

    Raises ConfigError for another shape or type, and for values that the place has no bits for.
    """
    if isinstance(values, (int, np.integer)):
        _check_range(int(values), place, "")
        return np.tile(limbs([int(values)], place.width), (lanes, 1))
    rows = np.asarray(values)
    name = f"{place.kind} {place.path!r}"
    if rows.dtype.kind not in "bui":
        raise ConfigError(
            f"{name}: values of type {rows.dtype}; expected an integer, or 32-bit limbs as "
            f"`limbs(values, {place.width})` makes them"
        )
    if rows.shape not in ((lanes, place.limbs), *([(lanes,)] if place.limbs == 1 else [])):
        raise ConfigError(
            f"{name} of {place.width} bits: values of shape {list(rows.shape)}; expected "
            f"[{lanes}, {place.limbs}], as `limbs(values, {place.width})` of {lanes} integers has"
        )
    rows = rows.reshape(lanes, place.limbs)
    _check_limbs(rows, place)
    return rows.astype(np.uint32)


def _check_limbs(rows: NDArray[np.integer], place: Place) -> None:
    most = np.full(place.limbs, _LIMB, np.uint64)
    most[-1] = (1 << place.width - 32 * (place.limbs - 1)) - 1
    wrong = (rows < 0) | (rows.astype(np.uint64) > most)
    if not wrong.any():
        return
    lane, limb = (int(i) for i in np.argwhere(wrong)[0])
    found = int(rows[lane, limb])
    if 0 <= found <= _LIMB:
        _check_range(sum(int(v) << 32 * i for i, v in enumerate(rows[lane])), place, lane)
    raise ConfigError(
        f"{place.kind} {place.path!r}: limb {limb} of lane {lane} is {found}; expected 0 to "
        f"2^32 - 1: `limbs(values, {place.width})` splits integers"
    )


def _check_range(value: int, place: Place, lane: int | str) -> None:
    if 0 <= value < 1 << place.width:
        return
    problem = "a negative value" if value < 0 else "a value with more"
    where = "" if lane == "" else f" in lane {lane}"
    shown = f"{value}" if value < 0 else f"{value:#x}"
    raise ConfigError(
        f"{place.kind} {place.path!r} has {place.width} bits; got {problem}: {shown}{where}; "
        f"expected 0 to 2^{place.width} - 1: cut it with & {(1 << place.width) - 1:#x}"
    )
