"""The MAC path: weights, lanes, steps and output of CONV, DEPTHWISE, MATMUL, POOL."""
