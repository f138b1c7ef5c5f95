"""TFLite models of one quantised operator, built from the schema, and their execution in LiteRT."""

from collections.abc import Sequence
from dataclasses import dataclass

import flatbuffers
import numpy as np
import tflite
from ai_edge_litert.interpreter import Interpreter, OpResolverType

RESOLVERS = {
    "default": OpResolverType.AUTO,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}
_TYPES = {"int8": tflite.TensorType.INT8, "int32": tflite.TensorType.INT32}


@dataclass
class Tensor:
    """scale, zero: quantisation; several scales: one per index of axis `axis`. data: constant."""

    shape: Sequence[int]
    scale: Sequence[float]
    zero: int = 0
    data: np.ndarray | None = None
    axis: int = 0

    @property
    def type(self) -> str:
        return "int8" if self.data is None else self.data.dtype.name


def _table(b: flatbuffers.Builder, name: str, **fields) -> int:
    getattr(tflite, f"{name}Start")(b)
    for field, value in fields.items():
        getattr(tflite, f"{name}Add{field}")(b, value)
    return getattr(tflite, f"{name}End")(b)


def _tables(b: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return b.EndVector()


def _numbers(b: flatbuffers.Builder, values, dtype) -> int:
    return b.CreateNumpyVector(np.asarray(values, dtype))


def _tensor(b: flatbuffers.Builder, index: int, tensor: Tensor) -> int:
    zeros = [tensor.zero] * len(tensor.scale)
    quantization = _table(
        b, "QuantizationParameters", Scale=_numbers(b, tensor.scale, np.float32),
        ZeroPoint=_numbers(b, zeros, np.int64), QuantizedDimension=tensor.axis,
    )  # fmt: skip
    name, shape = b.CreateString(f"t{index}"), _numbers(b, tensor.shape, np.int32)
    return _table(
        b, "Tensor", Shape=shape, Type=_TYPES[tensor.type], Buffer=index + 1, Name=name,
        Quantization=quantization,
    )  # fmt: skip


def _buffer(b: flatbuffers.Builder, data: np.ndarray | None) -> int:
    if data is None:
        return _table(b, "Buffer")
    vector = _numbers(b, np.frombuffer(data.tobytes(), np.uint8), np.uint8)
    return _table(b, "Buffer", Data=vector)


def model(operator: str, version: int, inputs: Sequence[Tensor], output: Tensor, options) -> bytes:
    """A model of one operator. options: (name of the table, fields)."""
    b = flatbuffers.Builder(1024)
    tensors = [*inputs, output]
    table, fields = options
    chosen = _table(b, table, **fields)
    code = getattr(tflite.BuiltinOperator, operator)
    codes = [_table(b, "OperatorCode", DeprecatedBuiltinCode=code, BuiltinCode=code,
                    Version=version)]  # fmt: skip
    all_inputs = _numbers(b, range(len(inputs)), np.int32)
    outputs = _numbers(b, [len(inputs)], np.int32)
    operation = _table(
        b, "Operator", OpcodeIndex=0, Inputs=all_inputs, Outputs=outputs,
        BuiltinOptionsType=getattr(tflite.BuiltinOptions, table), BuiltinOptions=chosen,
    )  # fmt: skip
    fed = [i for i, tensor in enumerate(inputs) if tensor.data is None]
    graph = _table(
        b, "SubGraph", Tensors=_tables(b, [_tensor(b, i, t) for i, t in enumerate(tensors)]),
        Inputs=_numbers(b, fed, np.int32), Outputs=outputs, Operators=_tables(b, [operation]),
    )  # fmt: skip
    buffers = [_buffer(b, None), *(_buffer(b, tensor.data) for tensor in tensors)]
    whole = _table(
        b, "Model", Version=3, OperatorCodes=_tables(b, codes), Subgraphs=_tables(b, [graph]),
        Buffers=_tables(b, buffers),
    )  # fmt: skip
    b.Finish(whole, b"TFL3")
    return bytes(b.Output())


def run(content: bytes, values: Sequence[np.ndarray], resolver: str) -> np.ndarray:
    """Output of a model for its inputs."""
    interpreter = Interpreter(
        model_content=content, experimental_op_resolver_type=RESOLVERS[resolver], num_threads=1
    )
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), values, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
