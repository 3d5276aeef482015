"""The judge: a classifier of clean images, trained apart, that says what a generated image shows.

A network that guides the sampling is pleased with its own work: guidance raises exactly the probability it
would then report. The judge shares no weights and no noise with the guide, and nothing here imports one.

The one that ships, for MNIST, is a transformers ``ResNetForImageClassification`` of one channel that reads images in
model range [-1, 1], as do all that ``training/train_judge.py`` makes. Any other image classifier of transformers
judges too: its own image processor resizes and normalises for it. The class takes uint8 images in either case.
"""

from __future__ import annotations

import copy
import logging
import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    ResNetForImageClassification,
)
from transformers.utils import IMAGE_PROCESSOR_NAME, cached_file

from ..data.images import IMAGE_SIZE, to_model_range
from ..weights import JUDGE_FOLDER

logger = logging.getLogger(__name__)


class Judgement(NamedTuple):
    """What the judge says of N images: probabilities float32 (N, num_classes), and features float32 (N, D).

    Features are the input of the last layer, a mean over positions where it has several.
    """

    probabilities: Tensor
    features: Tensor


class Judge:
    """A classifier of clean images, in batches, on the device of its model; safe in several threads at once.

    Args:
        model: an image classifier of transformers; run in float32 and evaluation mode.
        processor: its image processor, which resizes and normalises images of any size, grey or colour. Without one
            the model is shown images in [-1, 1], which must have its ``config.num_channels`` and ``config.image_size``
            (28x28 where it has none).

    Raises:
        ValueError: the model has no linear layer with an output per class, so that there are no features.
    """

    def __init__(self, model: PreTrainedModel, processor: Any | None = None):
        self.model, self.processor = model.float().eval(), processor
        names: Any = model.config.id2label
        self.class_names: tuple[str, ...] = tuple(names[index] for index in range(len(names)))
        self._outputs = list(range(len(names)))  # of the model, one per class
        heads = [part for part in model.modules() if isinstance(part, nn.Linear) and part.out_features == len(names)]
        if not heads:
            raise ValueError(
                f"The judge is a {type(model).__name__} without a linear layer of {len(names)} outputs, one per class, "
                "whose input would be its features; give another image classifier."
            )
        self._head, self._lock = heads[-1], threading.Lock()

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Judge:
        """Load an image classifier and, where it has one, its processor, from a folder or a Hub id."""
        model = AutoModelForImageClassification.from_pretrained(folder, use_safetensors=True)
        has_processor = cached_file(folder, IMAGE_PROCESSOR_NAME, _raise_exceptions_for_missing_entries=False)
        if not has_processor and type(model) is not ResNetForImageClassification:  # what train_judge.py makes
            logger.warning("The judge %s has no image processor: it is shown images in [-1, 1].", folder)
        return cls(model, AutoImageProcessor.from_pretrained(folder) if has_processor else None)

    def of_classes(self, class_names: Sequence[str]) -> Judge:
        """This judge for the classes of a data set, in their order: by their names, which it may know among others.

        Where it knows none of the names, but as many classes, they are taken by index, which is logged. Some of the
        names, or none and another number, are a ValueError.
        """
        known = {name: index for index, name in enumerate(self.class_names)}
        missing = [name for name in class_names if name not in known]
        if missing and (len(missing), len(known)) != (len(class_names), len(class_names)):
            raise ValueError(
                f"The judge names the classes {_shortened(self.class_names)}, the data set {_shortened(class_names)}: "
                "give a judge that was trained on this data set, or one of as many classes in the same order."
            )
        if missing:
            pairs = [f"{own!r} is {name!r}" for own, name in zip(self.class_names, class_names, strict=True)]
            logger.warning("The judge knows other names; its classes are taken in order: %s.", _shortened(pairs))
        judge = copy.copy(self)
        judge._outputs = self._outputs if missing else [known[name] for name in class_names]
        judge.class_names = tuple(class_names)
        return judge

    def to(self, device: str | torch.device) -> Judge:
        """Move the model; results come back on the CPU."""
        self.model.to(device)
        return self

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """The shape (C, H, W) of the images that it reads; None where its processor makes any fit."""
        if self.processor is not None:
            return None
        size = getattr(self.model.config, "image_size", IMAGE_SIZE)
        return (self._channels, *((size, size) if isinstance(size, int) else size))

    @property
    def settings(self) -> list[Any]:
        """What its values depend on beside the model: outputs and processor, if it has one or leaves outputs out."""
        whole = self._outputs == list(range(self.model.config.num_labels))
        processor = None if self.processor is None else self.processor.to_dict()
        return [] if whole and processor is None else [self._outputs, processor]

    @torch.no_grad()
    def __call__(self, images: Tensor, batch_size: int = 500) -> Judgement:
        """Judge images uint8 (N, H, W) or, in colour, (N, 3, H, W), N at least 1; 0 is background.

        The result is on the CPU and does not depend on the batch size. Another type or shape is a ValueError.
        """
        if self.image_shape is None:
            wanted, fits = "H, W) or (N, 3, H, W", images.ndim == 3 or (images.ndim == 4 and images.shape[1] == 3)
        else:
            shape = self.image_shape[1:] if self.image_shape[0] == 1 else self.image_shape
            wanted, fits = ", ".join(map(str, shape)), tuple(images.shape[1:]) == shape
        if images.dtype != torch.uint8 or not fits or len(images) == 0:
            raise ValueError(
                f"images must be uint8 (N, {wanted}) with N at least 1, got {images.dtype} {tuple(images.shape)}; "
                "mnist_guided_pipeline.data.images.to_uint8 converts model range."
            )
        probabilities, features, seen = [], [], []
        with self._lock:
            handle = self._head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
            try:
                for batch in images.split(batch_size):
                    logits = self.model(self._prepared(batch).to(self.model.device)).logits[:, self._outputs]
                    pooled = seen.pop()
                    probabilities.append(logits.softmax(dim=1).cpu())
                    features.append((pooled if pooled.ndim == 2 else pooled.flatten(1, -2).mean(dim=1)).cpu())
            finally:
                handle.remove()
        return Judgement(torch.cat(probabilities), torch.cat(features))

    def predict(self, images: Tensor, batch_size: int = 500) -> Tensor:
        """Probabilities float32 (N, num_classes) of uint8 images; see :meth:`__call__`."""
        return self(images, batch_size).probabilities

    def features(self, images: Tensor) -> Tensor:
        """Features float32 (N, D) of uint8 images; see :meth:`__call__`."""
        return self(images).features

    @property
    def _channels(self) -> int:
        return getattr(self.model.config, "num_channels", 3)

    def _prepared(self, images: Tensor) -> Tensor:
        """What the model is shown, float32 (N, C, H, W)."""
        if self.processor is None:
            return to_model_range(images)
        images = images if images.ndim == 4 else images.unsqueeze(1)
        if images.shape[1] != self._channels:
            change = transforms.rgb_to_grayscale if self._channels == 1 else transforms.grayscale_to_rgb
            images = change(images)
        return self.processor(images, return_tensors="pt")["pixel_values"]


def load_judge() -> Judge:
    """The judge that comes with the package; needs no network."""
    return Judge.from_pretrained(JUDGE_FOLDER)


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
