"""RTL of the `npu` engine."""
