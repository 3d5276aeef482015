r"""The sliced Wasserstein distance of two samples, for data of few dimensions.

Along one direction the 1-Wasserstein distance of two samples of one size is the mean distance of their sorted
projections; the sliced distance is its mean over directions (Rabin et al. 2011,
https://doi.org/10.1007/978-3-642-24785-9_37; Bonneel et al. 2015, https://doi.org/10.1007/s10851-014-0506-3,
equation 5)::

    SW(a, b) = mean over unit vectors u of  mean_i | sort(a u)_i - sort(b u)_i |

It is in the units of the data. Two samples of one law are not at distance 0 but at a *floor*, which shrinks as their
size grows; a distance means something only beside it.
"""

from __future__ import annotations

import numpy as np

__all__ = ["sliced_wasserstein"]


def sliced_wasserstein(first: np.ndarray, second: np.ndarray, directions: int = 64) -> float:
    """Mean 1-Wasserstein distance of two samples over fixed random directions.

    Args:
        first: (N, d).
        second: (N, d).
        directions: how many; they are the same in every call.

    Raises:
        ValueError: the samples differ in shape.
    """
    if first.shape != second.shape:
        raise ValueError(f"first and second must have one shape (N, d), got {first.shape} and {second.shape}.")
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(first.shape[1], directions))
    axes /= np.linalg.norm(axes, axis=0)
    return float(np.abs(np.sort(first @ axes, axis=0) - np.sort(second @ axes, axis=0)).mean())
