"""`bankside bench`: speed of the executions, one file per engine."""
