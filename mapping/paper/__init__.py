"""Numbers of published designs, recomputed from their parameters."""
