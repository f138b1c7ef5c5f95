"""The combinational units of the `array` engine by the name of their test vectors.

Ref: `bankside.isa.numerics_array_vectors.ARRAY_UNITS` has an entry for each of them.
"""

from collections.abc import Callable

from amaranth.lib import wiring

from bankside.hw.arith.exp2_array import Distance, Exp2Split
from bankside.hw.arith.lane_units import Ceil32, Denominator, Mulq, Round16, Step
from bankside.hw.arith.tf32 import Decode, Tf32Mul, ToTf32

ARRAY_COMBINATIONAL: dict[str, Callable[[], wiring.Component]] = {
    "decode": Decode,
    "to_tf32": ToTf32,
    "tf32_mul": Tf32Mul,
    "exp2_split": Exp2Split,
    "distance": Distance,
    "ceil32": Ceil32,
    "round16": Round16,
    "step": Step,
    "denominator": Denominator,
    "mulq": Mulq,
}
