"""Mapping policies: what runs where, how long a forward pass takes. Ref: docs/policies.md."""
