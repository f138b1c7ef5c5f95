"""Random graphs of quantised layers, of every kind."""

from bankside.sim.random_npu_graphs import KINDS, RandomGraphs

__all__ = ["KINDS", "RandomGraphs"]
