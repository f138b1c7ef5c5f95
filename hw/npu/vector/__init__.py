"""Vector unit of the `npu` engine: elementwise operations, softmax, norms, copies."""
