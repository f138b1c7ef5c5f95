"""Operands on which an arithmetic unit must agree with `numerics`, for every kind of test.

One table describes each combinational unit: port names, the reference as a function of the input
ports, corner operands and a source of random ones.  Unit tests, compiled exhaustive tests and
benches all read it, so a new unit is tested everywhere by adding one entry.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from random import Random

from bankside.isa import numerics as ref

Operands = tuple[int, ...]

FP16_CORNERS = (
    *(0x0000, 0x0001, 0x0002, 0x0200, 0x03FF, 0x0400, 0x0401, 0x07FF, 0x0800),
    *(0x3BFF, 0x3C00, 0x3C01, 0x7800, 0x7BFF, 0x7C00, 0x7C01, 0x7E00, 0x7FFF),
)
"""Zero, ends of the subnormals and of the binades, 1.0 and its neighbours, exponent 31."""

FP32_CORNERS = (
    *(0x00000000, 0x00800000, 0x00800001, 0x00FFFFFF, 0x01000000, 0x0C800000, 0x0D000000),
    *(0x33000000, 0x33800000, 0x33800001, 0x34000000, 0x3EFFFFFF, 0x3F000000, 0x3F7FFFFF),
    *(0x3F800000, 0x3F800001, 0x3FFFFFFF, 0x40000000, 0x4B000000, 0x4B7FFFFF, 0x4B800000),
    *(0x4C000000, 0x54FFFFFF, 0x7E800000, 0x7F000000, 0x7F7FFFFF),
)
"""Zero, ends of the range, 1.0 and numbers 2^23..2^26 away from it, where ties arise."""

SCORE_CORNERS = tuple(s for s in FP32_CORNERS if s >> 23 <= ref.SCORE_EXP_MAX)


@dataclass(frozen=True)
class UnitVectors:
    """Ports, reference and operands of one combinational unit.

    `reference` maps the input words (unsigned or signed as the ports are) to the output words.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reference: Callable[..., Operands]
    corners: Callable[[], list[Operands]]
    random: Callable[[Random], Operands]

    def operands(self, seed: int, count: int) -> list[Operands]:
        """All corners, then `count` random operands that depend on `seed` only."""
        rng = Random(seed)
        return self.corners() + [self.random(rng) for _ in range(count)]


def _signed(values: tuple[int, ...], sign: int) -> list[int]:
    return [*values, *(v | sign for v in values if v)]


def random_fp16(rng: Random) -> int:
    """Any FP16; one in four is subnormal or zero."""
    bits = rng.getrandbits(16)
    return bits & 0x83FF if rng.random() < 0.25 else bits


def random_fp32(rng: Random, low: int = 1, high: int = 254) -> int:
    """A normal FP32 with a biased exponent in low..high; many have few significant bits."""
    significand = rng.getrandbits(23)
    if rng.random() < 0.3:
        significand &= ~((1 << rng.randrange(24)) - 1)
    return rng.getrandbits(1) << 31 | rng.randint(low, high) << 23 | significand


def _fp32_pair(rng: Random) -> Operands:
    """Two FP32 whose exponents differ little (cancellation, ties, sticky) or arbitrarily."""
    a = random_fp32(rng)
    kind = rng.random()
    if kind < 0.15:
        return a, random_fp32(rng)
    near = a >> 23 & 255
    if kind < 0.3:
        b = max(0x00800000, min((a & ref.FP32_MAX) + rng.randint(-3, 3), ref.FP32_MAX))
        return a, b | ~a & 0x80000000
    b = random_fp32(rng, max(1, near - 28), min(254, near + 28))
    return (a, b) if rng.getrandbits(1) else (b, a)


def random_score(rng: Random) -> int:
    """A legal score; most of them within 2^-30..2^15 in magnitude."""
    wide = rng.random() < 0.2
    return random_fp32(rng, 1 if wide else 97, ref.SCORE_EXP_MAX if wide else 142)


def _above(s: int, gap: int) -> Operands:
    """(m, s) with the integer maximum m = ceil(s) + gap, kept within its 44 bits."""
    top = (1 << (ref.SCORE_INT_BITS - 1)) - 1
    return min(ref.ceil_int(s) + gap, top), s


def _distance(m: int, s: int) -> Operands:
    fx = ref.softmax_distance(m, s)
    return min(fx >> ref.SCORE_FRAC_BITS, ref.EXP2_ZERO_N), fx & 0xFFFF


def _exp2(n: int, f: int) -> Operands:
    p = ref.exp2_to_fp16(n << ref.SCORE_FRAC_BITS | f)
    return p, ref.p24(p)


def random_denominator(rng: Random) -> int:
    """1..2^48-1, every length equally likely."""
    bits = rng.randrange(ref.DENOM_BITS)
    return 1 << bits | rng.getrandbits(48) & ((1 << bits) - 1)


DENOM_CORNERS = tuple(
    sorted({max(1, (1 << b) + d) for b in range(ref.DENOM_BITS) for d in (-1, 0, 1)})
) + ((1 << ref.DENOM_BITS) - 1,)


def _normalise_corners() -> list[Operands]:
    accs = _signed(FP32_CORNERS, 0x80000000)
    some = [ref.reciprocal(d) for d in (1, 3, 1 << 23, (1 << 24) - 1, 1 << 24, 3 << 24, 1 << 47)]
    # 65504 and 65520 (the tie above it), the smallest subnormal and its half, 2^-14 from below.
    ends = [0x477FE000, 0x477FEFFF, 0x477FF000, 0x33800000, 0x33000000, 0x33000001, 0x387FFFFF]
    return [(a, q, e) for a in accs + _signed(tuple(ends), 0x80000000) for q, e in some]


def _normalise_random(rng: Random) -> Operands:
    q, e = ref.reciprocal(random_denominator(rng))
    # Aim the result at exponents around the FP16 range; a biased result r needs field r + 88 + e.
    field = e + 88 + rng.randint(-14, 34) if rng.random() < 0.9 else rng.randint(1, 254)
    field = max(1, min(field, 254))
    return random_fp32(rng, field, field), q, e


UNITS: dict[str, UnitVectors] = {
    "fp16_mul": UnitVectors(
        ("a", "b"),
        ("y",),
        lambda a, b: (ref.fp16_mul(a, b),),
        lambda: list(product(_signed(FP16_CORNERS, 0x8000) + [0x8000], repeat=2)),
        lambda rng: (random_fp16(rng), random_fp16(rng)),
    ),
    "fp32_add": UnitVectors(
        ("a", "b"),
        ("y",),
        lambda a, b: (ref.fp32_add(a, b),),
        lambda: list(product(_signed(FP32_CORNERS, 0x80000000), repeat=2)),
        _fp32_pair,
    ),
    "scale_down": UnitVectors(
        ("a", "k"),
        ("y",),
        lambda a, k: (ref.fp32_scale_down(a, k),),
        lambda: list(product(_signed(FP32_CORNERS, 0x80000000), (0, 1, 2, 126, 127, 254, 255))),
        lambda rng: (random_fp32(rng), rng.choice((rng.randrange(256), rng.randrange(24)))),
    ),
    "score_to_fixed": UnitVectors(
        ("s",),
        ("fixed",),
        lambda s: (ref.score_to_fixed(s),),
        lambda: [(s,) for s in _signed(SCORE_CORNERS, 0x80000000)],
        lambda rng: (random_score(rng),),
    ),
    "ceil_int": UnitVectors(
        ("s",),
        ("ceil",),
        lambda s: (ref.ceil_int(s),),
        lambda: [(s,) for s in _signed(SCORE_CORNERS, 0x80000000)],
        lambda rng: (random_score(rng),),
    ),
    "softmax_distance": UnitVectors(
        ("maximum", "s"),
        ("n", "f"),
        _distance,
        lambda: [_above(s, g) for s in _signed(SCORE_CORNERS, 0x80000000) for g in (0, 24, 25)],
        lambda rng: _above(random_score(rng), rng.choice((0, 0, rng.randrange(30), 1 << 40))),
    ),
    "exp2_to_fp16": UnitVectors(
        ("n", "f"),
        ("p", "p24"),
        _exp2,
        lambda: list(product(range(27), (0, 1, 1023, 1024, 1025, 32768, 64512, 65535))),
        lambda rng: (rng.randrange(26), rng.getrandbits(16)),
    ),
    "normalise": UnitVectors(
        ("acc", "q", "e"),
        ("y",),
        lambda acc, q, e: (ref.normalise(acc, q, e),),
        _normalise_corners,
        _normalise_random,
    ),
}
