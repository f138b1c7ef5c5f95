"""The combinational arithmetic units by the name of their test vectors.

Ref: `bankside.isa.numerics_vectors.UNITS` has an entry for each of them.
"""

from collections.abc import Callable

from amaranth.lib import wiring

from bankside.hw.arith.exp2 import CeilInt, Exp2ToFp16, ScoreToFixed, SoftmaxDistance
from bankside.hw.arith.fp16 import Fp16Mul
from bankside.hw.arith.fp32 import Fp32Add, ScaleDown
from bankside.hw.arith.normalise import Normalise

COMBINATIONAL: dict[str, Callable[[], wiring.Component]] = {
    "fp16_mul": Fp16Mul,
    "fp32_add": Fp32Add,
    "scale_down": ScaleDown,
    "score_to_fixed": ScoreToFixed,
    "ceil_int": CeilInt,
    "softmax_distance": SoftmaxDistance,
    "exp2_to_fp16": Exp2ToFp16,
    "normalise": Normalise,
}
