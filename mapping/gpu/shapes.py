"""Arguments of the cost functions: numbers or arrays that broadcast, never negative."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bankside.errors import ConfigError


def spread(**sizes: ArrayLike) -> tuple[tuple[int, ...], tuple[NDArray, ...]]:
    """Broadcast named arguments.

    Returns:
        The common shape, and each argument as a flat array of real numbers.

    Raises:
        ConfigError: they do not broadcast, or one is negative or not a number; by name.
    """
    arrays = {name: np.asarray(value, float) for name, value in sizes.items()}
    for name, array in arrays.items():
        if array.size and not array.min() >= 0:
            raise ConfigError(f"{name} is {array.min():g}; expected 0 or more; correct the shape")
    try:
        full = np.broadcast_arrays(*arrays.values())
    except ValueError as error:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ConfigError(f"sizes do not broadcast: {shapes}; give equal shapes or 1") from error
    return full[0].shape, tuple(array.ravel() for array in full)
