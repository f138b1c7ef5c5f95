"""Graphs of what other parts of the project describe: networks of the npu, layers of a model."""

from __future__ import annotations

import numpy as np

from bankside.errors import ConfigError
from bankside.mapping import npu_graph
from bankside.mapping.scheduling.generators import Maker
from bankside.mapping.scheduling.graph import Graph, Task
from bankside.mapping.workload import Architecture, Batch, Operator, operators


# --- networks of the npu --------------------------------------------------------------------------
def of_npu_graph(network: npu_graph.Graph) -> Graph:
    """A network of the npu's compiler: one task per layer, weights and biases as one tensor.

    A tensor that several layers write (views of it) becomes one tensor per view; who reads it
    reads all of them.
    """
    sizes: dict[str, int] = {}
    tasks: list[Task] = []
    parts: dict[int, list[str]] = {}
    for tensor in (*network.inputs, *network.persistent):
        sizes[tensor.name] = _tensor_bytes(tensor)
        parts[id(tensor)] = [tensor.name]
    for layer in network.layers:
        inputs = []
        for tensor in layer.inputs:
            base = tensor.base
            if id(base) not in parts:  # a constant
                sizes[base.name] = _tensor_bytes(base)
                parts[id(base)] = [base.name]
            inputs += parts[id(base)]
        whole = ()
        if weights := _weight_bytes(layer):
            sizes[f"{layer.name}.w"] = weights
            whole = (f"{layer.name}.w",)
        written = layer.output
        name = f"{written.name}'" if written.persistent else written.name
        sizes[name] = _tensor_bytes(written)
        known = [] if written.of is None else parts.get(id(written.base), [])
        parts[id(written.base)] = [*known, name]
        names = tuple(dict.fromkeys((*inputs, *whole)))
        tasks.append(Task(layer.name, names, name, whole, macs=layer.macs, kind=layer.kind))
    outputs = [name for tensor in network.outputs for name in parts[id(tensor)]]
    return Graph(network.name, sizes, tuple(tasks), tuple(outputs))


def _tensor_bytes(tensor: npu_graph.Tensor) -> int:
    return int(np.prod(tensor.shape)) * tensor.element_bytes


def _weight_bytes(layer: npu_graph.Layer) -> int:
    arrays = (getattr(layer, name, None) for name in ("weights", "bias", "scales", "table"))
    return sum(array.nbytes for array in arrays if array is not None)


# --- layers of a language model -------------------------------------------------------------------
def of_workload(arch: Architecture, batch: Batch, layer: int = 0) -> Graph:
    """One layer of a language model (`mapping.workload`): a chain of operators with the residual
    stream beside it; cached keys and values are a tensor in memory.

    Args:
        layer: which of `arch.layers`.

    Raises:
        ConfigError: the batch is an array of points, not one.
    """
    make = Maker(f"{arch.name}, layer kind {layer}")
    x = residual = ""
    cached: list[str] = []
    stored: list[str] = []
    for op in operators(arch, arch.layers[layer], batch):
        if not x:
            x = residual = make.given("x", _bytes(op, "input_bytes"))
        inputs = [x, residual] if op.kind == "add" else [x]
        if op.kind == "cache":
            cached.append(make.task(op.name, inputs, _bytes(op, "kv_written_bytes"), kind=op.kind))
            stored += cached
            continue
        if op.kind == "attention":
            past = _bytes(op, "kv_bytes") - sum(make.sizes[t] for t in cached)
            inputs += [*cached, *([make.given(f"{op.name}.past", past)] if past > 0 else [])]
        x = make.task(
            op.name, inputs, _bytes(op, "output_bytes"),
            weights=_bytes(op, "weight_bytes"), whole=inputs[1:] if op.kind == "attention" else (),
            macs=round(float(op.matrix_flops) / 2), kind=op.kind,
        )  # fmt: skip
        if op.kind == "add":
            residual = x
    return make.graph(x, *stored)


def _bytes(op: Operator, field: str) -> int:
    value = np.asarray(getattr(op, field))
    if value.ndim:
        raise ConfigError(
            f"operator {op.name!r}: {field} has shape {value.shape}; expected one point, so give a "
            f"batch of numbers"
        )
    return round(float(value))
