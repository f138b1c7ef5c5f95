"""Compiled RTL: Verilator and cocotb."""
