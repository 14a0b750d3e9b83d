"""Convert what callers pass as arrays: lists, arrays, torch tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from reflect_rl.errors import SelectionError


def as_array(X: Any) -> np.ndarray:
    """X as a numpy array. Torch tensors may have gradients, be on a GPU, sparse, or of a type that numpy lacks.

    Raises SelectionError for masked values and tensors without values, ValueError or TypeError as numpy does.
    """
    if np.ma.is_masked(X):
        raise SelectionError("an array with masked values is given. Fill them, or leave those items out.")
    if _is_tensor(X):
        return _tensor_array(X)
    if isinstance(X, list | tuple) and X and _is_tensor(X[0]):
        X = [as_array(row) for row in X]
    return np.asarray(X)


def as_floats(X: Any) -> np.ndarray:
    """X as float64. Raises as `as_array` does, and TypeError or OverflowError for values that float64 cannot hold."""
    array = as_array(X)
    if array.dtype.kind not in "fiubOSU":
        raise TypeError(f"these are {array.dtype}")
    with np.errstate(over="ignore"):  # of longer floats: infinity tells it
        return array.astype(np.float64, copy=False)


def _is_tensor(X: Any) -> bool:
    return hasattr(X, "detach") and hasattr(X, "to_dense")


def _tensor_array(tensor: Any) -> np.ndarray:
    try:
        tensor = tensor.detach().cpu().to_dense()
        return tensor.numpy()
    except TypeError:  # bfloat16, float8
        return tensor.float().numpy()
    except (NotImplementedError, RuntimeError) as error:
        raise SelectionError(f"the values of a tensor cannot be read ({str(error).splitlines()[0]}).") from None
