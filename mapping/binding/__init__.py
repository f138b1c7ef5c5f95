"""Bindings: which Einsum of a cascade runs as which block on which unit, as YAML files."""
