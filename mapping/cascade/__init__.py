"""Cascades of Einsums as data, and what follows from them."""
