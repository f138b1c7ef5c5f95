"""Floating-point and fixed-point units."""
