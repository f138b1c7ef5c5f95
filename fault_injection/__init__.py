"""Soft-error campaigns and protection."""
