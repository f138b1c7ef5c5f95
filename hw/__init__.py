"""RTL: every synthesisable unit, written in Amaranth."""
