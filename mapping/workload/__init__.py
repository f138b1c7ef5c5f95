"""What a language model asks of a machine: its architecture, operators, batches, bytes.

Ref: docs/workloads.md.
"""

from bankside.mapping.workload.architecture import Architecture, LayerKind, Mla, Moe
from bankside.mapping.workload.batch import Batch
from bankside.mapping.workload.operators import head_operators, model_operators, operators
from bankside.mapping.workload.types import Attention, Bits, Elementwise, Gemm, Operator

__all__ = [
    "Architecture",
    "Attention",
    "Batch",
    "Bits",
    "Elementwise",
    "Gemm",
    "LayerKind",
    "Mla",
    "Moe",
    "Operator",
    "head_operators",
    "model_operators",
    "operators",
]
