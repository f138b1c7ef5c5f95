"""Order of FP32 numbers."""

from amaranth.hdl import Mux, Value


def above(a: Value, b: Value) -> Value:
    """Whether `a` > `b`: FP32 numbers (zero is +0) or the marker, which is below every number.

    Equal to comparing order keys, but without the inversions, of which the exported Verilog makes
    one expression per bit.

    Ref: `bankside.isa.numerics_array.fp32_max`.
    """
    return Mux(a[31], b[31] & (a[:31] < b[:31]), b[31] | (a[:31] > b[:31]))
