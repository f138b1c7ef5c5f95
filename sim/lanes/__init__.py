"""The `lanes` execution: the RTL as C or numpy, one independent machine per SIMD lane."""
