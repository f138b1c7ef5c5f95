"""Exact scheduling, allocation and fusion of operator graphs, with heuristics and legality rules.

Ref: docs/scheduling.md.
"""
