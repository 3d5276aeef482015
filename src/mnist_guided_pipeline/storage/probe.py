"""Probes of trained networks: does a label that is given change the output?

A class-conditional denoiser that ignores its labels still samples good digits, only not the ones that were asked for,
so only a probe shows it. One noise is shown with every label, the null class included, and no two answers may be
equal. The noise is the same for every label, so whatever differs is the labels' doing.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch

from ..sampling.networks import null_label, num_classes, predict, sample_shape

_ROUNDING = 1e-5
"""Largest difference, relative to the outputs, that the order of additions in a batch can make in float32."""


@torch.no_grad()
def check_label_effect(denoiser: Any, timestep: float = 500.0, seed: int = 0) -> None:
    """Refuse a class-conditional denoiser whose output does not change with the label; one without classes passes.

    Labels that matter anywhere matter in the middle of the noise schedule, which is the timestep to ask at. The
    denoiser's mode is left as it was. The error distinguishes a network that ignores its labels from an untrained one,
    whose output is the same for all samples too.
    """
    count = num_classes(denoiser)
    if count is None:
        return
    null = null_label(denoiser)
    name, device, dtype = type(denoiser).__name__, denoiser.device, denoiser.dtype
    labels = torch.arange(count if null is None else null + 1, device=device)
    noise = torch.randn(2, *sample_shape(denoiser), generator=torch.Generator().manual_seed(seed))
    noise = noise.to(device, dtype)
    times = torch.tensor(timestep, device=device)
    was_training = denoiser.training
    denoiser.eval()  # dropout would make equal labels differ
    shown = noise[:1].expand(len(labels), *noise.shape[1:])
    outputs = predict(denoiser, shown, times, labels).sample.float().flatten(1)
    other = predict(denoiser, noise[1:], times, labels[:1]).sample.float().flatten(1)
    denoiser.train(was_training)

    tolerance = _ROUNDING * outputs.abs().max()
    if (outputs - outputs[0]).abs().max() <= tolerance and (other - outputs[0]).abs().max() <= tolerance:
        raise ValueError(
            f"The {name} is untrained: its output is the same for every label and every sample. Train it for more "
            "updates; the first ones, while the learning rate warms up from zero, hardly move its last layer."
        )
    same = [
        (first, second)
        for first, second in combinations(range(len(labels)), 2)
        if (outputs[first] - outputs[second]).abs().max() <= tolerance
    ]
    if same:
        first, second = same[0]
        named = ", the null class" if second == null else ""
        pairs = len(labels) * (len(labels) - 1) // 2
        raise ValueError(
            f"The {name} has num_classes={count} but ignores class_labels: {len(same)} of the {pairs} pairs of "
            f"labels have the same output, such as {first} and {second}{named}. "
            "Use the class embedding in its forward, train it on labels of every class, or leave out num_classes."
        )
