"""DRAM devices and timing checkers generated from the constraint tables."""
