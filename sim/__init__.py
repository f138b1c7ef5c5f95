"""Execution of programs: golden, timing, rtl."""
