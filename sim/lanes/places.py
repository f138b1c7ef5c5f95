"""Where everything lies in the compiled design, and what C needs to know of that."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bankside.sim.lanes.segment import LIMB


@dataclass(frozen=True)
class Place:
    """A register, memory, port or net of the whole design.

    kind: `flop`, `memory`, `input`, `output`, `net`. offset: bytes in q (flop), m (memory), t
    (port, and the flag of a net). init: its first value, of a memory one per word.
    """

    kind: str
    path: str
    width: int
    depth: int
    offset: int
    init: tuple[int, ...] = ()

    @property
    def limbs(self) -> int:
        return -(-self.width // 32)


@dataclass(frozen=True)
class Design:
    """C text and the places in it. readers: classes of functions that read an input."""

    text: str
    places: tuple[Place, ...]
    q_bytes: int
    t_bytes: int
    m_bytes: int
    readers: Mapping[str, int]


_CONSTANT = re.compile(r"K\((0x[0-9a-f]+)u\)")


def pooled(text: str) -> str:
    """Constants as operands in memory: a broadcast of an immediate is two more instructions. Those
    of all zeros and ones need none.
    """
    pool: dict[str, int] = {}

    def place(match: re.Match[str]) -> str:
        if match[1] in ("0x0", "0xffffffff"):
            return match[0]
        return f"KM({pool.setdefault(match[1], len(pool))})"

    head, _, body = text.partition("\n")
    body = _CONSTANT.sub(place, body)
    return "\n".join([head, _pool(pool), body])


def _pool(pool: Iterable[str]) -> str:
    """The compiler must not see the values, or it would make immediates of them again."""
    numbers = ", ".join(f"{value}u" for value in pool) or "0"
    return (
        f'__asm__(".section .rodata\\n.balign 64\\n.type bankside_pool, @object\\n'
        f'bankside_pool: .long {numbers.replace("u", "")}\\n.previous\\n");\n'
        f'extern const uint32_t bankside_pool[] __attribute__((visibility("hidden")));\n'
        f"#define KM(index) BROADCAST(&bankside_pool[index])"
    )


def first_values(places: Iterable[Place]) -> str:
    """What is not zero at power-on."""
    rows = []
    for place in places:
        for word, value in enumerate(place.init):
            for limb in range(place.limbs):
                part = value >> 32 * limb & 0xFFFFFFFF
                if part:
                    single = place.kind == "flop" and place.width == 1
                    offset = place.offset + LIMB * (word * place.limbs + limb)
                    rows.append(
                        f"{{{int(place.kind == 'memory')}, {int(single)}, {offset}, {part}u}}"
                    )
    return (
        f"const struct first_value bankside_first_values[] = {{{', '.join(rows) or '{0}'}}};\n"
        f"const uint64_t bankside_first_value_count = {len(rows)};"
    )
