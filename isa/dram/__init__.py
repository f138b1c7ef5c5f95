"""DRAM standards as timing-constraint tables."""
