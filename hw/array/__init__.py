"""RTL of the `array` engine."""
