"""Search over a space of machines and mappings: store, Pareto set. Ref: docs/explore.md."""
