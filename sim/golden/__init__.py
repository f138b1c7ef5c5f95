"""Bit-exact reference models."""
