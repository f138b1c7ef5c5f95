"""Which operations the MAC path can do."""

from amaranth.hdl import Value

from bankside.hw.npu.operation import opcode
from bankside.isa.npu_machine import NpuMachine
from bankside.isa.spec import load_spec

__all__ = ["mac_refused"]


def mac_refused(machine: NpuMachine, operation) -> Value:
    """1 when `operation` (operation_layout; CONV, DEPTHWISE, MATMUL or POOL) is beyond `machine`:
    fault 2. For the dispatch; the engine itself does not look.

    Refused: a size, stride, dilation or window of 0; a block of 0 or more positions than there are
    accumulators; an input that is not int8 or a zero point that is not; MATMUL, row mode, raw8, w4
    in the narrow profile, packed in the wide one; w4 for DEPTHWISE; other channels out than in
    (DEPTHWISE, POOL); int16 results of POOL or through a table; an enumeration value without
    meaning; weights that begin outside the buffer.

    Ref: docs/npu.md section 9; `bankside.isa.npu_commands.Command.check`.
    """
    op = operation
    formats = load_spec("npu").enums["weight_format"]
    pool, matmul = op.opcode == opcode("POOL"), op.opcode == opcode("MATMUL")
    depthwise = op.opcode == opcode("DEPTHWISE")
    window = (
        *("kernel_h", "kernel_w", "stride_y", "stride_x", "dilation_y", "dilation_x"),
        *("ifm_h", "ifm_w"),
    )
    bypass = load_spec("npu").enums["scale_mode"]["bypass"]
    refused = [
        *(op[name] == 0 for name in ("ofm_h", "ofm_w", "ofm_c", "ifm_c", "block")),
        *(~matmul & (op[name] == 0) for name in window),
        op.block > machine.config.npu.accumulators,
        op.ifm_bits,
        _beyond_int8(op.ifm_zero),
        (depthwise | pool) & (op.ifm_c != op.ofm_c),
        op.ofm_bits & (pool | op.lut_enable),
        ~pool & (op.scale_mode > bypass),
        matmul & (op.ifm2_bits | _beyond_int8(op.ifm2_zero)),
    ]
    weighted = ~pool & ~matmul
    refused.append(weighted & (op.weights >= machine.weight_words))
    if machine.wide:
        w4 = op.weight_format == formats["w4"]
        raw8 = op.weight_format == formats["raw8"]
        refused += [weighted & ~raw8 & ~w4, depthwise & w4]
    else:
        refused += [matmul, op.weight_mode, weighted & (op.weight_format != formats["packed"])]
    result = refused[0]
    for reason in refused[1:]:
        result = result | reason
    return result


def _beyond_int8(value: Value) -> Value:
    """int16 `value` is not one of int8."""
    return value[7:].any() & ~value[7:].all()
