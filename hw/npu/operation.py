"""A dispatched operation of the kernel engine: opcode, mode and the state registers it copies.

Ref: isa/npu.yaml; docs/npu.md sections 2 to 5.
"""

from amaranth.hdl import Shape, signed, unsigned
from amaranth.lib import data
from amaranth.utils import bits_for

from bankside.isa.npu_machine import WORD_BYTES, NpuMachine
from bankside.isa.spec import load_spec

__all__ = ["MAC_OPERATIONS", "VECTOR_OPERATIONS", "opcode", "operation_layout", "register_shapes"]

MAC_OPERATIONS = ("CONV", "DEPTHWISE", "MATMUL", "POOL")
VECTOR_OPERATIONS = ("ELEMENTWISE", "SOFTMAX", "NORM", "COPY")

_SHARED = ("ifm", "ifm_sy", "ifm_sx", "ifm2", "ifm2_sy", "ifm2_sx", "ofm", "ofm_sy", "ofm_sx")
_SIZES = ("ifm_h", "ifm_w", "ifm_c", "ofm_h", "ofm_w", "ofm_c", "block", "n0", "n1", "n2")
_KERNEL = (
    *("kernel_h", "kernel_w", "stride_y", "stride_x"),
    *("pad_top", "pad_left", "dilation_y", "dilation_x"),
)
_FLAGS = (*("ifm_bits", "ifm2_bits", "ofm_bits", "weight_mode", "lut_enable", "depend", "wide"),)
_STRIDES = ("src_s0", "src_s1", "src_s2", "dst_s0", "dst_s1", "dst_s2")


def opcode(name: str) -> int:
    """Opcode of the command `name`."""
    return load_spec("npu").commands[name].opcode


def register_shapes(machine: NpuMachine) -> dict[str, Shape]:
    """Width of every state register that an operation of the kernel engine copies.

    A register value that does not fit its shape is beyond what the machine can do: fault 2 at
    dispatch, for operations that use the register.
    """
    word = bits_for(machine.shared_words - 1)
    byte = word + bits_for(WORD_BYTES - 1)
    shapes = {
        **dict.fromkeys((*_SHARED, "scale", "lut"), unsigned(word)),
        **dict.fromkeys(_SIZES, unsigned(16)),
        **dict.fromkeys(_KERNEL, unsigned(8)),
        **dict.fromkeys(_FLAGS, unsigned(1)),
        **dict.fromkeys(("ifm_zero", "ifm2_zero", "ofm_zero", "ofm_min", "ofm_max"), signed(16)),
        **dict.fromkeys(("a_mult", "b_mult", "o_mult"), signed(32)),
        **dict.fromkeys(("a_shift", "b_shift", "o_shift"), signed(8)),
        **dict.fromkeys(("src", "dst"), unsigned(byte)),
        **dict.fromkeys(_STRIDES, signed(byte + 1)),
        "ifm2_broadcast": unsigned(3),
        "weights": unsigned(bits_for(machine.weight_words - 1)),
        **dict.fromkeys(("weight_format", "scale_mode", "rounding"), unsigned(2)),
        "left_shift": unsigned(5),
        "epsilon": unsigned(32),
        "epsilon_shift": unsigned(6),
    }
    numbers = load_spec("npu").enums["register"]
    return {name: shapes[name] for name in sorted(shapes, key=numbers.__getitem__)}


def operation_layout(machine: NpuMachine) -> data.StructLayout:
    """What waits in the kernel queue.

    `opcode`; `mode`: the field `mode` or `op` of the command (0 where it has none); then the state
    registers by their names in isa/npu.yaml. Derived numbers are computed in the engines.
    """
    return data.StructLayout({"opcode": 8, "mode": 2, **register_shapes(machine)})
