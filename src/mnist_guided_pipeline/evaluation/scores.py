"""What a set of images is worth: values by the judge, each with its number of images, and the floors beside them.

A *value* is filed as ``{"value": ..., "num_images": ...}``, with ``"interval"`` (95 percent, Wilson) where it is a
proportion of the images, or ``"range"`` (least and largest) where it is a mean of several draws. Names that start with
``judge_`` are measured in the judge's features: they do not compare with values in Inception's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from ..data.images import LabelledImages
from ..data.posteriors import reconstruct
from ..sampling.arguments import check_choice
from ..seeding import keyed_generator
from .judge import Judge, Judgement
from .metrics import (
    confusion_matrix,
    judge_fid,
    judge_kid,
    near_copies,
    nearest_distances,
    precision_recall_density_coverage,
)
from .records import identity, shown_name
from .samples import wanted_classes

_MIN_IMAGES_PER_CLASS = 10
_FLOOR_DRAWS = 3


@dataclass(frozen=True)
class Reference:
    """Real images and a judge: what the images of every model are measured against.

    Attributes:
        train: what the models were trained on; for memorisation and the floor.
        test: what generated images are compared with.
        judge: never the guide.
        dataset_name: of both sets, as records show it.
        labels: mix of the classes that images are wanted to be, generated ones and those of the floors:
            ``"reference"``, that of the test set, or ``"uniform"``, whose distance from that mix counts too.

    Raises:
        ValueError: the judge knows other classes than the data set has, the test set is too small, or there is no such
            mix.
    """

    train: LabelledImages
    test: LabelledImages
    judge: Judge
    dataset_name: str = "unnamed"
    labels: str = "reference"

    def __post_init__(self) -> None:
        check_choice("labels", self.labels, ("reference", "uniform"))
        if self.judge.class_names != self.test.class_names:
            raise ValueError(
                f"The judge names the classes {', '.join(self.judge.class_names)}, the data set "
                f"{', '.join(self.test.class_names)}: give a judge that was trained on this data set."
            )
        check_enough(len(self.test), len(self.test.class_names), "The number of real images in the test split")

    def check_fits(self, model: Any) -> None:
        """Refuse a model of images of another shape than the data set's, or of other classes."""
        if isinstance(model, DiffusionPipeline):
            num_classes, image_shape = len(model.id2label), model.image_shape
        else:
            num_classes, image_shape = model.config.get("num_classes"), tuple(model.config.get("image_shape") or ())
        if num_classes and num_classes != len(self.test.class_names):
            raise ValueError(
                f"The model has {num_classes} classes, the data set {len(self.test.class_names)}: give the data set "
                "that it was trained on."
            )
        if image_shape != self.test.image_shape:
            raise ValueError(
                f"The model makes images of shape {image_shape}, the data set has those of shape "
                f"{self.test.image_shape}: give the data set that it was trained on, and its resolution."
            )

    @cached_property
    def judgement(self) -> Judgement:
        """The judge's probabilities and features of the test set."""
        return self.judge(self.test.images)

    @cached_property
    def held_out_distances(self) -> Tensor:
        """Distance (M,) of each test image to its nearest training image, measured once for all runs."""
        return nearest_distances(self.test.images, self.train.images)

    @property
    def class_weights(self) -> tuple[int, ...]:
        """How often each class is wanted, in proportion; the images of each class in the test set, or ones."""
        counts = torch.bincount(self.test.labels, minlength=len(self.test.class_names)).tolist()
        return tuple(counts) if self.labels == "reference" else (1,) * len(counts)

    def real_images(self, images: LabelledImages, num_images: int, draw: int = 0) -> LabelledImages:
        """Real images with the wanted mix of labels, none twice as long as there are enough of a class.

        Different draws have no image in common, as long as there are enough of a class.
        """
        labels, numbers = wanted_classes(num_images, len(images.class_names), self.class_weights)
        chosen = torch.empty_like(labels)
        for label in labels.unique().tolist():
            own = (images.labels == label).nonzero().flatten()
            own = own[torch.randperm(len(own), generator=keyed_generator(0, "floor", label))]
            wanted = labels == label
            chosen[wanted] = own[(draw * int(wanted.sum()) + numbers[wanted]) % len(own)]
        return LabelledImages(images.images[chosen], labels, images.class_names)

    @cached_property
    def identities(self) -> dict[str, dict[str, str]]:
        """``judge`` and ``dataset`` as records name them."""
        judge = identity(shown_name(self.judge.model), self.judge.model, *self.judge.settings)
        images = (self.train.images, self.train.labels, self.test.images, self.test.labels)
        return {"judge": judge, "dataset": identity(self.dataset_name, *images)}


def check_enough(num_images: int, num_classes: int, name: str = "num_images") -> None:
    """Refuse sets so small that their values mean nothing, under 10 images per class; ``name`` says which set."""
    if num_images < _MIN_IMAGES_PER_CLASS * num_classes:
        raise ValueError(
            f"{name} must be at least {_MIN_IMAGES_PER_CLASS * num_classes} ({_MIN_IMAGES_PER_CLASS} per class), "
            f"got {num_images}: values of fewer mean nothing."
        )


def measured(value: float, num_images: int) -> dict[str, Any]:
    """A value without an interval."""
    return {"value": value, "num_images": num_images}


def proportion(count: int, num_images: int) -> dict[str, Any]:
    """A value that is a proportion of the images, with its Wilson interval of 95 percent."""
    from scipy.stats import binomtest

    low, high = binomtest(count, num_images).proportion_ci(0.95, method="wilson")
    return {"value": count / num_images, "interval": [float(low), float(high)], "num_images": num_images}


def score_images(
    images: Tensor,
    labels: Tensor | None,
    reference: Reference,
    check_memorisation: bool = True,
) -> dict[str, Any]:
    """Score images uint8 (N, H, W) or (N, 3, H, W), at least 10 per class, by the judge of the reference.

    ``labels`` are the wanted classes int64 (N,); None leaves out what needs them.

    Returns:
        Values by name: ``accuracy`` of the wanted class, ``confusion_matrix`` (counts, rows wanted, columns seen),
        ``accuracy_per_class`` (by class name, of the classes that are wanted), ``judge_fid``, ``judge_kid``,
        ``judge_precision``, ``judge_recall``, ``judge_density``, ``judge_coverage``, and from the pixels
        ``near_copies``; ``metrics.py`` says what they are.

    Raises:
        ValueError: too few images for values that mean anything.
    """
    names = reference.test.class_names
    check_enough(len(images), len(names))
    probabilities, fake = reference.judge(images)

    figures: dict[str, Any] = {}
    if labels is not None:
        matrix = confusion_matrix(labels, probabilities.argmax(dim=1), len(names))
        figures["accuracy"] = proportion(int(matrix.trace()), len(labels))
        figures["confusion_matrix"] = matrix.tolist()
        wanted = matrix.sum(dim=1).tolist()
        figures["accuracy_per_class"] = {
            name: proportion(int(matrix[index, index]), wanted[index])
            for index, name in enumerate(names)
            if wanted[index]
        }
    figures |= _distances(reference.judgement.features, fake)
    if check_memorisation:
        copies = near_copies(images, reference.train.images, reference.held_out_distances)
        figures["near_copies"] = proportion(round(copies * len(fake)), len(fake))
    return figures


@torch.no_grad()
def floors(reference: Reference, vae: Any | None, num_images: int) -> dict[str, Any]:
    """What perfect images would reach, by the same code, with as many images and the same mix of labels.

    Returns:
        Sets of values: ``judge`` (its accuracy on the test set), ``real_training_images`` (means of three draws of N,
        disjoint where there are enough, against the test set; no accuracy, as the judge was trained on them) and, with
        a VAE, ``vae_reconstructions`` (of N test images, from the posterior mean, against the whole test set).
    """
    test = reference.test
    hits = int((reference.judgement.probabilities.argmax(dim=1) == test.labels).sum())
    found: dict[str, Any] = {"judge": {"accuracy": proportion(hits, len(test))}}
    draws = []
    for index in range(_FLOOR_DRAWS):
        real = reference.real_images(reference.train, num_images, index)
        draws.append(_distances(reference.judgement.features, reference.judge(real.images).features))
    found["real_training_images"] = {}
    for name in draws[0]:
        values = [draw[name]["value"] for draw in draws]
        mean = measured(sum(values) / len(values), num_images)
        found["real_training_images"][name] = {**mean, "range": [min(values), max(values)]}
    if vae is not None:
        originals = reference.real_images(test, min(num_images, len(test)))
        decoded = reconstruct(vae, originals.images)
        found["vae_reconstructions"] = score_images(decoded, originals.labels, reference, check_memorisation=False)
    return found


def _distances(real: Tensor, fake: Tensor) -> dict[str, Any]:
    """The values in the judge's features, (N, D) against (M, D)."""
    values = {"judge_fid": judge_fid(real, fake), "judge_kid": judge_kid(real, fake)}
    values |= {f"judge_{name}": value for name, value in precision_recall_density_coverage(real, fake).items()}
    return {name: measured(value, len(fake)) for name, value in values.items()}
