"""Compiler of the `npu` engine: a graph and a machine give a program. Ref: docs/npu_compiler.md."""
