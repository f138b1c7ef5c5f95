"""Cycle-exact timing models without data."""
