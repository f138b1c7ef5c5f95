"""Rank unit of the `pim` engine: staging with re-layout, cross-chip reduction, softmax, normalisation."""
