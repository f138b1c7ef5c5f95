"""Operands on which the units of the `array` engine must agree with `numerics_array`.

Ref: `numerics_vectors` explains the table.
"""

from itertools import product
from random import Random

from bankside.isa import numerics_array as ref
from bankside.isa.numerics import FP32_MAX, SCORE_FRAC_BITS, fp32_add, fp32_pack, reciprocal
from bankside.isa.numerics_vectors import (
    FP16_CORNERS,
    FP32_CORNERS,
    Operands,
    UnitVectors,
    random_denominator,
    random_fp32,
)

SIGN = 1 << 31
FP32_SIGNED = (*FP32_CORNERS, *(c | SIGN for c in FP32_CORNERS if c))
HALF_STEPS = (
    *(0x33000000, 0x33000001, 0x33800000, 0x387FC000, 0x387FDFFF, 0x387FE000, 0x387FFFFF),
    *(0x477FE000, 0x477FEFFF, 0x477FF000, 0x47800000, 0x7F7F0000, 0x7F7F7FFF, 0x7F7F8000),
    *(0x00808000, 0x00818000, 0x3F801000, 0x3F803000, 0x3F801001, 0x7F7FEFFF, 0x7F7FF000),
)
"""FP32 around the ends and the ties of FP16, bf16 and TF32."""


def fp32_of(x: float) -> int:
    """FP32 bits of a number, by `fp32_pack`."""
    above, below = x.as_integer_ratio()
    return fp32_pack(above, 1 - below.bit_length())


def random_16(rng: Random) -> int:
    """Any 16 bits; one in four has a small magnitude (subnormal in one format or the other)."""
    bits = rng.getrandbits(16)
    return bits & 0x83FF if rng.random() < 0.25 else bits


def random_tf32(rng: Random) -> int:
    """A normal TF32; half of them have exponents for which products do not leave FP32."""
    wide = rng.getrandbits(1)
    x = random_fp32(rng, 1, 254) if wide else random_fp32(rng, 96, 158)
    return x & ~0x1FFF


def _below(rng: Random) -> int:
    """Arguments of exp2: mostly of a magnitude from 2^-20 to 2^9."""
    wide = rng.random() < 0.1
    return SIGN | random_fp32(rng, 1 if wide else 107, 254 if wide else 136)


def _below_corners() -> list[Operands]:
    halves = [n + d for n in (0, 1, 24, 25, 63, 125, 126, 127) for d in (0.25, 0.5, 0.75, 1)]
    near = [h + sign * 2.0**-s for h in halves for s in (16, 17, 18) for sign in (-1, 0, 1)]
    found = {fp32_of(-x) for x in near} | {c | SIGN for c in FP32_CORNERS if c}
    return [(x,) for x in sorted(found | {0, ref.MARKER})]


def _distance(x: int) -> Operands:
    a = ref.distance(x)
    return a >> SCORE_FRAC_BITS, a & (1 << SCORE_FRAC_BITS) - 1


def _mixed(rng: Random) -> int:
    """FP32 of which most have a few places after the point."""
    wide = rng.random() < 0.2
    return random_fp32(rng, 1 if wide else 120, 254 if wide else 153)


def _step(new: int, old: int) -> Operands:
    return new, old, fp32_add(new, ref.negate(old))


def _step_corners() -> list[Operands]:
    values = [
        fp32_of(float(v)) for v in (-300, -255, -129, -2, -1, 0, 1, 2, 126, 255, 256, 1 << 30)
    ]
    pairs = [(ref.MARKER, ref.MARKER), *((v, ref.MARKER) for v in values)]
    pairs += [(a, b) for a, b in product(values, repeat=2) if ref.fp32_max(a, b) == a]
    return [_step(a, b) for a, b in pairs]


def _step_random(rng: Random) -> Operands:
    old = rng.randint(-(1 << rng.randrange(1, 30)), 1 << rng.randrange(1, 30))
    gap = rng.randrange(1 << rng.randrange(1, 12))
    return _step(ref.ceil32(fp32_pack(old + gap, 0)), ref.ceil32(fp32_pack(old, 0)))


def _mulq_corners() -> list[Operands]:
    some = [reciprocal(d) for d in (1, 3, 1 << 23, (1 << 24) - 1, 1 << 24, 3 << 24, 1 << 47)]
    some.append(reciprocal((1 << 48) - 1))
    # The product lies below 2^-126 and is rounded up to it.
    carry = (0x00800001, *reciprocal((1 << 24) + 2))
    return [carry, *((x, q, e) for x in FP32_SIGNED for q, e in some)]


def _mulq_random(rng: Random) -> Operands:
    q, e = reciprocal(random_denominator(rng))
    kind = rng.random()
    # Results at both ends of FP32 and in between: the field falls by about e - 24.
    low, high = (e - 26, e - 20) if kind < 0.2 else (1, 254) if kind < 0.8 else (e + 226, e + 232)
    low = max(1, min(low, 254))
    return random_fp32(rng, low, max(low, min(high, 254))), q, e


def _random_denominator_fp32(rng: Random) -> int:
    return random_fp32(rng, 98, 154) & ~SIGN


ARRAY_UNITS: dict[str, UnitVectors] = {
    "decode": UnitVectors(
        ("bits", "format"),
        ("y",),
        lambda bits, fmt: (ref.decode(bits, fmt),),
        lambda: [
            (b | s, f)
            for b in (*FP16_CORNERS, 0x7F, 0x80, 0x7F7F, 0x7F80, 0x7F81)
            for s in (0, 0x8000)
            for f in (0, 1)
        ],
        lambda rng: (random_16(rng), rng.getrandbits(1)),
    ),
    "to_tf32": UnitVectors(
        ("x",),
        ("y",),
        lambda x: (ref.to_tf32(x),),
        lambda: [
            (x | s,) for x in (*FP32_CORNERS, *HALF_STEPS) for s in (0, SIGN) if x | s != SIGN
        ],
        lambda rng: (random_fp32(rng),),
    ),
    "tf32_mul": UnitVectors(
        ("a", "b"),
        ("y",),
        lambda a, b: (ref.tf32_mul(a, b),),
        lambda: list(product(sorted({ref.to_tf32(x) for x in FP32_SIGNED}), repeat=2)),
        lambda rng: (random_tf32(rng), random_tf32(rng)),
    ),
    "exp2_split": UnitVectors(
        ("x",),
        ("n", "f"),
        ref.exp2_split,
        _below_corners,
        lambda rng: (_below(rng),),
    ),
    "distance": UnitVectors(
        ("x",),
        ("n", "f"),
        _distance,
        _below_corners,
        lambda rng: (_below(rng),),
    ),
    "ceil32": UnitVectors(
        ("x",),
        ("y",),
        lambda x: (ref.ceil32(x),),
        lambda: [(x,) for x in (*FP32_SIGNED, ref.MARKER, FP32_MAX, FP32_MAX | SIGN)],
        lambda rng: (_mixed(rng),),
    ),
    "round16": UnitVectors(
        ("x", "format"),
        ("y",),
        lambda x, fmt: (ref.round16(x, fmt),),
        lambda: [
            (x | s, f)
            for x in (*FP32_CORNERS, *HALF_STEPS)
            for s in (0, SIGN)
            for f in (0, 1)
            if x | s != SIGN
        ],
        lambda rng: (random_fp32(rng, *rng.choice(((1, 254), (99, 146)))), rng.getrandbits(1)),
    ),
    "step": UnitVectors(
        ("new", "old", "difference"),
        ("k",),
        lambda new, old, _: (ref.step(new, old),),
        _step_corners,
        _step_random,
    ),
    "denominator": UnitVectors(
        ("x",),
        ("y",),
        lambda x: (ref.denominator(x),),
        lambda: [(x,) for x in (*FP32_CORNERS, 0x337FFFFF, 0x4B7FFFFF, 0x4B800000)],
        lambda rng: (_random_denominator_fp32(rng),),
    ),
    "mulq": UnitVectors(
        ("x", "q", "e"),
        ("y",),
        lambda x, q, e: (ref.mulq(x, q, e),),
        _mulq_corners,
        _mulq_random,
    ),
}
