"""What the parts of the MAC path keep of an operation, and the strides derived from it.

Ref: docs/npu.md sections 2, 3 and 5.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from bankside.hw.npu.operation import opcode, operation_layout, register_shapes
from bankside.isa.npu_machine import SETUP, NpuMachine
from bankside.isa.spec import load_spec

__all__ = ["Setup", "geometry_layout", "output_job_layout", "step_job_layout"]

_ENUMS = load_spec("npu").enums
_STEP_FIELDS = (
    *("ifm", "ifm_sy", "ifm_sx", "ifm_h", "ifm_w", "ifm_c", "ifm2", "ifm2_sx"),
    *("ofm_h", "ofm_w", "ofm_c", "weights", "block"),
    *("kernel_h", "kernel_w", "stride_y", "stride_x"),
    *("pad_top", "pad_left", "dilation_y", "dilation_x"),
)
_OUTPUT_FIELDS = (
    *("ofm", "ofm_sy", "ofm_sx", "ofm_h", "ofm_w", "ofm_c", "ofm_zero", "ofm_min", "ofm_max"),
    *("ofm_bits", "block", "scale", "rounding", "lut", "lut_enable"),
)


def step_job_layout(machine: NpuMachine) -> data.StructLayout:
    """Registers for weight unit and steps. `single`: one product per lane and step (DEPTHWISE,
    POOL); `pool`: without weights; `maximum`: POOL max; zero points int8.
    """
    shapes = register_shapes(machine)
    return data.StructLayout(
        {
            **dict.fromkeys(("single", "pool", "maximum", "matmul", "row", "w4"), 1),
            "zero": signed(8),
            "zero2": signed(8),
            **{name: shapes[name] for name in _STEP_FIELDS},
        }
    )


def output_job_layout(machine: NpuMachine) -> data.StructLayout:
    """Registers for the output unit. `channel`: a record for each; `bypass`: none at all."""
    shapes = register_shapes(machine)
    return data.StructLayout(
        {
            **dict.fromkeys(("row", "channel", "bypass", "average"), 1),
            **{name: shapes[name] for name in _OUTPUT_FIELDS},
        }
    )


def geometry_layout(machine: NpuMachine) -> data.StructLayout:
    """Distances in the input, in words (modulo the address).

    origin: word of output position 0, tap 0. step_y, step_x: to the next output row, column.
    tap_y, tap_x: to the next row, column of the window. positions: of the output.
    """
    word = register_shapes(machine)["ifm"]
    names = ("origin", "step_y", "step_x", "tap_y", "tap_x")
    return data.StructLayout({**dict.fromkeys(names, word), "positions": 32})


class Setup(wiring.Component):
    """Takes an operation in its cycle s and derives what the loops need until t0 = s + 4.

    Members
    -------
    start : In(1), operation : In(operation_layout)
        In cycle s.
    job : Out(step_job_layout)
        From s + 1 to the next start.
    geometry : Out(geometry_layout)
        From s + 4 on; `origin` and `positions` from s + 3 on.
    load : Out(1)
        Cycle s + 3: loops are loaded, and run from t0 on.
    busy : Out(1)
        Cycles s + 1 .. s + 3.
    output : Out(output_job_layout)
        Of `operation`, combinational.
    """

    def __init__(self, machine: NpuMachine) -> None:
        self.machine = machine
        super().__init__(
            {
                "start": In(1),
                "operation": In(operation_layout(machine)),
                "job": Out(step_job_layout(machine)),
                "geometry": Out(geometry_layout(machine)),
                "load": Out(1),
                "busy": Out(1),
                "output": Out(output_job_layout(machine)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        phase = Signal(SETUP - 1)
        m.d.comb += [self.busy.eq(phase != 0), self.load.eq(phase[-1])]
        m.d.sync += phase.eq(Cat(self.start, phase)[: SETUP - 1])
        with m.If(self.start):
            self._take(m)
        self._products(m, phase)
        self._output(m)
        return m

    def _take(self, m: Module) -> None:
        op, job = self.operation, self.job
        matmul = op.opcode == opcode("MATMUL")
        pool = op.opcode == opcode("POOL")
        names = [n for n in _STEP_FIELDS if n not in ("kernel_h", "kernel_w")]
        m.d.sync += [
            *(job[name].eq(op[name]) for name in names),
            job.kernel_h.eq(Mux(matmul, 1, op.kernel_h)),
            job.kernel_w.eq(Mux(matmul, 1, op.kernel_w)),
            job.single.eq(pool | (op.opcode == opcode("DEPTHWISE"))),
            job.pool.eq(pool),
            job.maximum.eq(pool & (op.mode == _ENUMS["pool"]["max"])),
            job.matmul.eq(matmul),
            job.row.eq(op.weight_mode if self.machine.wide else 0),
            job.w4.eq(~matmul & ~pool & (op.weight_format == _ENUMS["weight_format"]["w4"])),
            job.zero.eq(Mux(pool, 0, op.ifm_zero)),
            job.zero2.eq(Mux(matmul, op.ifm2_zero, 0)),
        ]
        with m.If(matmul):
            # A matrix is a feature map that is walked position by position.
            m.d.sync += [job[name].eq(1) for name in ("stride_y", "stride_x")]
            m.d.sync += [job[name].eq(0) for name in ("pad_top", "pad_left")]

    def _products(self, m: Module, phase: Signal) -> None:
        """One multiplier for rows and one for columns, used three times."""
        job, geometry = self.job, self.geometry
        back = {}
        for axis, pad in (("y", "pad_top"), ("x", "pad_left")):
            later = Mux(phase[1], job[f"stride_{axis}"], job[f"dilation_{axis}"])
            factor = Signal(8, name=f"factor_{axis}")
            product = Signal.like(job.ifm, name=f"product_{axis}")
            back[axis] = Signal.like(job.ifm, name=f"back_{axis}")
            m.d.comb += [
                factor.eq(Mux(phase[0], job[pad], later)),
                product.eq(factor * job[f"ifm_s{axis}"]),
            ]
            with m.If(phase[0]):
                m.d.sync += back[axis].eq(product)
            with m.If(phase[1]):
                m.d.sync += geometry[f"step_{axis}"].eq(product)
            with m.If(phase[2]):
                m.d.sync += geometry[f"tap_{axis}"].eq(product)
        with m.If(phase[1]):
            m.d.sync += [
                geometry.origin.eq(job.ifm - back["y"] - back["x"]),
                geometry.positions.eq(job.ofm_h * job.ofm_w),
            ]

    def _output(self, m: Module) -> None:
        op, out = self.operation, self.output
        pool = op.opcode == opcode("POOL")
        mode = _ENUMS["scale_mode"]
        m.d.comb += [
            *(out[name].eq(op[name]) for name in _OUTPUT_FIELDS),
            out.row.eq(op.weight_mode if self.machine.wide else 0),
            out.channel.eq(op.scale_mode == mode["channel"]),
            out.bypass.eq(pool | (op.scale_mode == mode["bypass"])),
            out.average.eq(pool & (op.mode == _ENUMS["pool"]["average"])),
        ]
