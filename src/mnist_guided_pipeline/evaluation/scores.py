"""What a set of images is worth: figures by the judge, each with its number of images, and the floors beside them.

A *figure* is ``{"value": ..., "num_images": ...}``, with ``"interval"`` (95 percent, Wilson) where it is a share of the
images. Names that start with ``judge_`` are measured in the judge's features: they do not compare with figures in
Inception's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..data.images import LabelledImages, to_model_range, to_uint8
from ..seeding import keyed_generator
from .judge import Judge, Judgement
from .metrics import (
    confusion_matrix,
    judge_fid,
    judge_kid,
    memorisation,
    nearest_neighbours,
    precision_recall_density_coverage,
    wilson_interval,
)

__all__ = ["Reference", "check_enough", "figure", "floors", "score_images", "share"]

_MIN_IMAGES_PER_CLASS = 10
_BATCH = 500


@dataclass(frozen=True)
class Reference:
    """Real images, and what the judge makes of the test set.

    Attributes:
        train: what the model was trained on; for memorisation and the floor.
        test: what generated images are compared with.
        judgement: the judge's probabilities and features of ``test``.
    """

    train: LabelledImages
    test: LabelledImages
    judgement: Judgement

    @classmethod
    def of(cls, train: LabelledImages, test: LabelledImages, judge: Judge) -> Reference:
        """Judge the test set.

        Raises:
            ValueError: the judge knows other classes than the data set has.
        """
        if judge.class_names != test.class_names:
            raise ValueError(
                f"The judge names the classes {', '.join(judge.class_names)}, the data set "
                f"{', '.join(test.class_names)}: give a judge that was trained on this data set."
            )
        return cls(train, test, judge(test.images))

    @cached_property
    def held_out_distances(self) -> Tensor:
        """Distance (M,) of each test image to its nearest training image, measured once for all runs."""
        return nearest_neighbours(self.test.images, self.train.images)[0]


def check_enough(num_images: int, num_classes: int) -> None:
    """Refuse sets so small that their figures mean nothing.

    Raises:
        ValueError: fewer than 10 images a class.
    """
    if num_images < _MIN_IMAGES_PER_CLASS * num_classes:
        raise ValueError(
            f"num_images must be at least {_MIN_IMAGES_PER_CLASS * num_classes} ({_MIN_IMAGES_PER_CLASS} a class), got "
            f"{num_images}: figures of fewer mean nothing."
        )


def figure(value: float, num_images: int) -> dict[str, Any]:
    """A figure without an interval."""
    return {"value": value, "num_images": num_images}


def share(count: int, num_images: int) -> dict[str, Any]:
    """A figure that is a share of the images, with its Wilson interval of 95 percent."""
    interval = list(wilson_interval(count, num_images))
    return {"value": count / num_images, "interval": interval, "num_images": num_images}


def score_images(
    chunks: Iterable[Tensor],
    labels: Tensor | None,
    judge: Judge,
    reference: Reference,
    check_memorisation: bool = True,
) -> dict[str, Any]:
    """Score images by the judge, read chunk by chunk; only features and probabilities of all of them are kept.

    Args:
        chunks: uint8 (n, 28, 28) each, N in all, at least 10 a class.
        labels: wanted classes int64 (N,) in the order of the chunks; None leaves out what needs them.
        judge: never the guide.
        reference: real images.
        check_memorisation: compare with the training set, pixel by pixel.

    Returns:
        Figures by name: ``accuracy`` of the wanted class, ``confusion_matrix`` (counts, rows wanted, columns seen),
        ``accuracy_per_class`` and ``judge_fid_per_class`` (by class name, of classes with at least 2 images),
        ``class_shares`` (by class name, of the images that the judge takes for that class), ``judge_fid``,
        ``judge_kid``, ``judge_precision``, ``judge_recall``, ``judge_density``, ``judge_coverage``, ``near_copies``,
        ``closer_than_typical`` and ``copying_z``; ``metrics.py`` says what they are.

    Raises:
        ValueError: too few images for figures that mean anything.
    """
    pixels, probabilities, features = [], [], []
    for chunk in chunks:
        judgement = judge(chunk, batch_size=_BATCH)
        probabilities.append(judgement.probabilities)
        features.append(judgement.features)
        if check_memorisation:
            pixels.append(chunk)
    predicted, fake = torch.cat(probabilities).argmax(dim=1), torch.cat(features)
    names = reference.test.class_names
    check_enough(len(fake), len(names))

    figures: dict[str, Any] = {}
    if labels is not None:
        matrix = confusion_matrix(labels, predicted, len(names))
        figures["accuracy"] = share(int(matrix.trace()), len(labels))
        figures["confusion_matrix"] = matrix.tolist()
        figures["accuracy_per_class"], figures["judge_fid_per_class"] = {}, {}
        for index, name in enumerate(names):
            real = reference.judgement.features[reference.test.labels == index]
            wanted = fake[labels == index]
            if min(len(real), len(wanted)) > 1:
                figures["accuracy_per_class"][name] = share(int(matrix[index, index]), len(wanted))
                figures["judge_fid_per_class"][name] = figure(judge_fid(real, wanted), len(wanted))
    counts = torch.bincount(predicted, minlength=len(names)).tolist()
    figures["class_shares"] = {name: share(count, len(fake)) for name, count in zip(names, counts, strict=True)}
    figures |= _distances(reference.judgement.features, fake)
    if check_memorisation:
        copies = memorisation(
            torch.cat(pixels), reference.train.images, reference.test.images, reference.held_out_distances
        )
        for name in ("near_copies", "closer_than_typical"):
            figures[name] = share(round(getattr(copies, name) * len(fake)), len(fake))
        figures["copying_z"] = figure(copies.copying_z, len(fake))
    return figures


@torch.no_grad()
def floors(reference: Reference, judge: Judge, vae: Any | None, num_images: int, seed: int = 0) -> dict[str, Any]:
    """What perfect images would reach, by the same code and with as many images as there are.

    Args:
        reference: real images.
        judge: as for the images.
        vae: of the pipeline; None leaves the reconstructions out.
        num_images: N of the set that the floors stand beside.
        seed: of the choice of training images.

    Returns:
        Sets of figures: ``judge`` (its accuracy on the test set), ``real_training_images`` (a random N of them, against
        the test set; no accuracy, as the judge was trained on them) and ``vae_reconstructions`` (of the first N test
        images, from the posterior mean, against the whole test set).
    """
    train, test = reference.train, reference.test
    hits = int((reference.judgement.probabilities.argmax(dim=1) == test.labels).sum())
    found: dict[str, Any] = {"judge": {"accuracy": share(hits, len(test))}}
    chosen = torch.randperm(len(train), generator=keyed_generator(seed, "floor"))[:num_images]
    real = judge(train.images[chosen], batch_size=_BATCH).features
    found["real_training_images"] = _distances(reference.judgement.features, real)
    if vae is not None:
        batches = test.images[:num_images].split(_BATCH)
        decoded = (
            to_uint8(vae(to_model_range(batch).to(vae.device, vae.dtype)).sample.float().cpu()) for batch in batches
        )
        found["vae_reconstructions"] = score_images(
            decoded, test.labels[:num_images], judge, reference, check_memorisation=False
        )
    return found


def _distances(real: Tensor, fake: Tensor) -> dict[str, Any]:
    """The figures in the judge's features, (N, D) against (M, D)."""
    manifold = precision_recall_density_coverage(real, fake)
    values = {"judge_fid": judge_fid(real, fake), "judge_kid": judge_kid(real, fake)}
    values |= {f"judge_{name}": value for name, value in manifold._asdict().items()}
    return {name: figure(value, len(fake)) for name, value in values.items()}
