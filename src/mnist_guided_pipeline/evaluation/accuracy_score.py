"""Classification accuracy score: what a classifier learns from generated images alone.

A small network is trained on generated images with the classes they were wanted as, and tested on real ones
(Ravuri and Vinyals 2019, https://arxiv.org/abs/1905.10887). Wrong labels, missing shapes and false detail all cost
accuracy; a judge that likes the images does not help. The same network trained on as many real images is the floor.

The recipe is fixed, so that scores compare: two convolutions and two linear layers, 1,500 updates of 128 images,
AdamW under a one-cycle schedule, each image shifted by up to two pixels. It has nothing of the guide or the judge: no
noise, no batch norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..data.images import LabelledImages, to_model_range
from ..seeding import keyed_generator
from .scores import proportion

Network = TypeVar("Network", bound=nn.Module)

_UPDATES, _BATCH_SIZE, _LEARNING_RATE, _MAX_SHIFT = 1_500, 128, 3e-3, 2


def classification_accuracy_score(
    images: Tensor, labels: Tensor, test: LabelledImages, num_updates: int = _UPDATES
) -> dict[str, Any]:
    """Train on images uint8 (N, H, W) or (N, 3, H, W) and the classes (N,) that each was wanted as, test on real ones.

    Returns:
        A proportion of the test images, as ``scores.proportion`` makes it, and ``num_training_images``.
    """
    inputs = to_model_range(images)

    def losses(network: nn.Module) -> Iterator[Tensor]:
        order, generator = torch.empty(0, dtype=torch.int64), keyed_generator(0, "order")
        while True:
            while len(order) < _BATCH_SIZE:
                order = torch.cat([order, torch.randperm(len(inputs), generator=generator)])
            batch, order = order[:_BATCH_SIZE], order[_BATCH_SIZE:]
            yield F.cross_entropy(network(_shifted(inputs[batch], generator)), labels[batch])

    network = fit(lambda: _network(test.image_shape, len(test.class_names)), losses, num_updates, seed=0)
    with torch.no_grad():
        predicted = torch.cat([network(to_model_range(batch)).argmax(dim=1) for batch in test.images.split(1000)])
    hits = int((predicted == test.labels).sum())
    return {**proportion(hits, len(test)), "num_training_images": len(images)}


def fit(
    build: Callable[[], Network], losses: Callable[[Network], Iterator[Tensor]], num_updates: int, seed: int
) -> Network:
    """Build a small network and train it by AdamW in one cycle of the learning rate; it comes in evaluation mode.

    Each loss () is asked for after the update before it; the seed is that of the weights and of dropout.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(keyed_generator(seed, "weights").initial_seed())
        network = build().train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=num_updates)
        bar = tqdm(total=num_updates, desc="training a small network", unit="update", disable=None, leave=False)
        with bar:
            for loss in islice(losses(network), num_updates):
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                cycle.step()
                bar.update()
    return network.eval()


def _network(image_shape: tuple[int, int, int], num_classes: int) -> nn.Sequential:
    """Images (B, *image_shape) in model range to logits (B, num_classes)."""
    channels, height, width = image_shape
    places = (height // 4) * (width // 4)
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * places, 128), nn.ReLU(), nn.Dropout(0.3)),
        nn.Linear(128, num_classes),
    )


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of the images (B, C, H, W) moved by up to two pixels both ways, background filled in."""
    count, channels, height, width = images.shape
    padded = F.pad(images, (_MAX_SHIFT,) * 4, value=-1.0)
    down, right = torch.randint(0, 2 * _MAX_SHIFT + 1, (2, count, 1, 1, 1), generator=generator)
    rows, columns = torch.arange(height)[:, None] + down, torch.arange(width) + right
    return padded[torch.arange(count)[:, None, None, None], torch.arange(channels)[:, None, None], rows, columns]
