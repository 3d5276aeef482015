"""The judge: a classifier of clean images, trained apart, that says what a generated image shows.

A network that guides the sampling is pleased with its own work: guidance raises exactly the probability it
would then report. The judge shares no weights, no loss and no noise with the guide, and nothing here imports
one.

It is a transformers ``ResNetForImageClassification`` of one channel that reads images in model range [-1, 1];
the class takes uint8 images and converts them once. ``training/train_judge.py`` makes it.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification, PreTrainedModel

from ..data.images import IMAGE_SIZE, to_model_range
from ..weights import JUDGE_FOLDER

__all__ = ["Judge", "Judgement", "load_judge"]


class Judgement(NamedTuple):
    """What the judge says of N images.

    Attributes:
        probabilities: float32 (N, num_classes), rows sum to 1.
        features: float32 (N, D), the pooled activations before the last layer, at least 0.
    """

    probabilities: Tensor
    features: Tensor


class Judge:
    """A classifier of clean images, in batches, on the device of its model.

    Args:
        model: an image classifier for one channel of 28x28 pixels in [-1, 1]; run in float32 and evaluation
            mode.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model.float().eval()

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Judge:
        """Load a judge that ``train_judge.py`` saved, from a folder or a Hub id."""
        return cls(AutoModelForImageClassification.from_pretrained(folder, use_safetensors=True))

    def to(self, device: str | torch.device) -> Judge:
        """Move the model; results come back on the CPU all the same."""
        self.model.to(device)
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, in label order."""
        names = self.model.config.id2label
        return tuple(names[index] for index in range(len(names)))

    @torch.no_grad()
    def __call__(self, images: Tensor, batch_size: int = 500) -> Judgement:
        """Judge images in one pass over them.

        Args:
            images: uint8 (N, 28, 28), 0 is background, N at least 1.
            batch_size: images at a time; the result does not depend on it.

        Returns:
            Probabilities and features on the CPU.

        Raises:
            ValueError: the images have another type or shape.
        """
        if images.dtype != torch.uint8 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE) or len(images) == 0:
            raise ValueError(
                f"images must be uint8 (N, {IMAGE_SIZE}, {IMAGE_SIZE}) with N at least 1, got {images.dtype} "
                f"{tuple(images.shape)}; mnist_guided_pipeline.data.images.to_uint8 converts model range."
            )
        probabilities, features = [], []
        for batch in images.split(batch_size):
            pooled = self.model.resnet(to_model_range(batch).to(self.model.device)).pooler_output
            probabilities.append(self.model.classifier(pooled).softmax(dim=1).cpu())
            features.append(pooled.flatten(1).cpu())
        return Judgement(torch.cat(probabilities), torch.cat(features))

    def predict(self, images: Tensor, batch_size: int = 500) -> Tensor:
        """Probabilities float32 (N, num_classes) of images uint8 (N, 28, 28); see :meth:`__call__`."""
        return self(images, batch_size).probabilities

    def features(self, images: Tensor, batch_size: int = 500) -> Tensor:
        """Features float32 (N, D) of images uint8 (N, 28, 28); see :meth:`__call__`."""
        return self(images, batch_size).features


def load_judge() -> Judge:
    """The judge that comes with the package; needs no network."""
    return Judge.from_pretrained(JUDGE_FOLDER)
