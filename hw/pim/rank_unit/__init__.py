"""Rank unit of the `pim` engine: staging with re-layout, reduction, softmax, normalisation."""
