r"""What generated images are worth: pure functions of counts, probabilities, features and pixels.

Features are activations of the judge, (N, D). Distances between the sets are Euclidean and taken in float64,
chunk by chunk, so that 10,000 against 10,000 needs seconds and some hundred megabytes. None of the results
depends on the order of the images or the chunk size, beyond rounding.

Every value of a finite set has a floor that real images reach too: print it beside the value.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def confusion_matrix(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """Counts int64 (num_classes, num_classes): a row per label, a column per prediction, of int64 (N,) both."""
    cells = torch.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def expected_calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Mean gap between confidence and accuracy (Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. 3), in [0, 1].

    Of ``probabilities`` (N, num_classes), rows sum to 1, and ``labels`` int64 (N,). The 15 bins are of equal width
    over the largest probability of a row; each counts by its proportion of the images.
    """
    num_bins = 15
    confidence, predictions = probabilities.double().max(dim=1)
    bins = (confidence * num_bins).long().clamp_max(num_bins - 1)
    gaps = confidence.new_zeros(num_bins).index_add_(0, bins, (predictions == labels).double() - confidence)
    return (gaps.abs().sum() / len(labels)).item()


def judge_fid(features_real: Tensor, features_fake: Tensor) -> float:
    """Frechet distance of two sets of features (Heusel et al. 2017, https://arxiv.org/abs/1706.08500, eq. 6).

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)`` of means m and covariances C of features (N, D) and (M, D).
    These are the judge's in place of Inception's; distances in other feature spaces do not compare. At least 0 up to
    rounding, and biased upwards by an amount that falls as 1/N (Chong and Forsyth 2020,
    https://arxiv.org/abs/1911.07023): compare at one number of images only.

    Raises:
        ValueError: the sets do not match, have fewer than 2 rows, or are not finite.
    """
    _check(features_real, features_fake, at_least=2)
    real, fake = features_real.double(), features_fake.double()
    cov1, cov2 = torch.cov(real.T), torch.cov(fake.T)
    values, vectors = torch.linalg.eigh(cov1)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ cov2 @ root).clamp_min(0).sqrt().sum()  # real, however singular they are
    return ((real.mean(dim=0) - fake.mean(dim=0)).square().sum() + cov1.trace() + cov2.trace() - 2 * overlap).item()


def judge_kid(features_real: Tensor, features_fake: Tensor, chunk_size: int = 1000) -> float:
    """Squared maximum mean discrepancy of features (N, D) and (M, D) under the kernel ``(x.y / D + 1)^3``.

    Binkowski et al. 2018, https://arxiv.org/abs/1801.01401. All pairs are used, not random subsets, so the value needs
    no seed; it is unbiased, so it is about 0 (of either sign) for two sets of one distribution, whatever their sizes.
    Errors as for :func:`judge_fid`.
    """
    _check(features_real, features_fake, at_least=2)
    real, fake = features_real.double(), features_fake.double()

    def kernel_sum(x: Tensor, y: Tensor) -> Tensor:
        return sum(((rows @ y.T / x.shape[1] + 1) ** 3).sum() for rows in x.split(chunk_size))

    def within(x: Tensor) -> Tensor:
        diagonal = ((x.square().sum(dim=1) / x.shape[1] + 1) ** 3).sum()
        return (kernel_sum(x, x) - diagonal) / (len(x) * (len(x) - 1))

    return (within(real) + within(fake) - 2 * kernel_sum(real, fake) / (len(real) * len(fake))).item()


def precision_recall_density_coverage(
    features_real: Tensor, features_fake: Tensor, k: int = 5, chunk_size: int = 1000
) -> dict[str, float]:
    """Compare features (N, D) and (M, D) by the balls that reach to each image's k-th neighbour in its own set.

    Precision and recall: Kynkaanniemi et al. 2019, https://arxiv.org/abs/1904.06991, equation 2. Density and coverage:
    Naeem et al. 2020, https://arxiv.org/abs/2002.09797, section 3. The image itself is no neighbour. Errors as for
    :func:`judge_fid`, with at least k + 1 rows.

    Returns:
        ``precision``, the part of the generated images inside some real image's ball (are they plausible?), ``recall``,
        that of the real ones inside some generated image's (is everything there?), ``density``, the mean number of
        real balls around a generated image, over k (about 1 for equal sets, no upper bound), and ``coverage``, the part
        of the real balls that hold a generated image (recall that outliers cannot inflate).
    """
    _check(features_real, features_fake, at_least=k + 1)
    real, fake = features_real.double(), features_fake.double()
    radius_real, radius_fake = _radii(real, k, chunk_size), _radii(fake, k, chunk_size)
    plausible = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    recalled = covered = memberships = 0
    for rows, radius in zip(real.split(chunk_size), radius_real.split(chunk_size), strict=True):
        distances = torch.cdist(rows, fake)
        inside = distances < radius[:, None]
        plausible |= inside.any(dim=0)
        memberships += int(inside.sum())
        covered += int(inside.any(dim=1).sum())
        recalled += int((distances < radius_fake).any(dim=1).sum())
    return {
        "precision": plausible.double().mean().item(),
        "recall": recalled / len(real),
        "density": memberships / (k * len(fake)),
        "coverage": covered / len(real),
    }


def sliced_wasserstein(first: np.ndarray, second: np.ndarray, directions: int = 64) -> float:
    r"""Sliced 1-Wasserstein distance of two samples (N, d) of one shape, in the units of the data.

    The mean over unit vectors u, random and the same in every call, of ``mean_i |sort(a u)_i - sort(b u)_i|`` (Rabin et
    al. 2011, https://doi.org/10.1007/978-3-642-24785-9_37; Bonneel et al. 2015,
    https://doi.org/10.1007/s10851-014-0506-3, equation 5). Two samples of one distribution are not at distance 0 but at
    a floor that shrinks as they grow.
    """
    if first.shape != second.shape:
        raise ValueError(f"first and second must have one shape (N, d), got {first.shape} and {second.shape}.")
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(first.shape[1], directions))
    axes /= np.linalg.norm(axes, axis=0)
    return float(np.abs(np.sort(first @ axes, axis=0) - np.sort(second @ axes, axis=0)).mean())


def near_copies(generated: Tensor, train: Tensor, held_out_distances: Tensor) -> float:
    """Proportion of images nearer to their nearest training image than all but 1 percent of held-out real ones.

    About 0.01 for a faithful model. Images are uint8 (N, H, W) or (N, 3, H, W); ``held_out_distances`` (M,) are what
    :func:`nearest_distances` finds of real images that the model has not seen.
    """
    distances, reference = nearest_distances(generated, train).double(), held_out_distances.double()
    return (distances < reference.quantile(0.01)).double().mean().item()


def nearest_distances(queries: Tensor, references: Tensor, chunk_size: int = 500) -> Tensor:
    """Euclidean distance float32 (N,) of each query image to the nearest reference image, 0 for a copy.

    Both are uint8 (N, H, W) or (N, 3, H, W), and compared in unit range [0, 1].
    """
    pool = references.flatten(1).float() / 255.0
    half_norms = pool.square().sum(dim=1) / 2
    distances = []
    for batch in queries.split(chunk_size):
        rows = batch.flatten(1).float() / 255.0
        nearest = torch.addmm(half_norms, rows, pool.T, alpha=-1).argmin(dim=1)
        distances.append((rows - pool[nearest]).norm(dim=1))  # recomputed: a copy is at exactly 0
    return torch.cat(distances)


def _radii(features: Tensor, k: int, chunk_size: int) -> Tensor:
    """Distance of each of (N, D) to its k-th neighbour in the set, itself not counted; (N,)."""
    distances = (torch.cdist(rows, features) for rows in features.split(chunk_size))
    return torch.cat([rows.topk(k + 1, largest=False).values[:, k] for rows in distances])


def _check(features_real: Tensor, features_fake: Tensor, at_least: int) -> None:
    for name, features in (("features_real", features_real), ("features_fake", features_fake)):
        if features.ndim != 2 or len(features) < at_least or not torch.isfinite(features).all():
            raise ValueError(
                f"{name} must be (N, D) and finite, N at least {at_least}; got shape {tuple(features.shape)}."
            )
    if features_real.shape[1] != features_fake.shape[1]:
        raise ValueError(
            f"features_real and features_fake must have one width, got {features_real.shape[1]} and "
            f"{features_fake.shape[1]}: take both from the same judge."
        )
