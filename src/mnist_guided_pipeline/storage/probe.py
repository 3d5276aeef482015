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
def check_label_effect(denoiser: Any, timestep: float = 500.0) -> None:
    """Refuse a class-conditional denoiser whose output does not change with the label; one without classes passes.

    Labels that matter anywhere matter in the middle of the noise schedule, which is the timestep to ask at. The
    denoiser's mode is left as it was.
    """
    count = num_classes(denoiser)
    if count is None:
        return
    null = null_label(denoiser)
    labels = torch.arange(count if null is None else null + 1, device=denoiser.device)
    noise = torch.randn(1, *sample_shape(denoiser), generator=torch.Generator().manual_seed(0))
    noise = noise.to(denoiser.device, denoiser.dtype).expand(len(labels), *noise.shape[1:])
    was_training = denoiser.training
    denoiser.eval()  # dropout would make equal labels differ
    outputs = predict(denoiser, noise, torch.tensor(timestep, device=denoiser.device), labels).sample.float().flatten(1)
    denoiser.train(was_training)
    tolerance = _ROUNDING * outputs.abs().max()
    pairs = list(combinations(range(len(labels)), 2))
    same = [pair for pair in pairs if (outputs[pair[0]] - outputs[pair[1]]).abs().max() <= tolerance]
    if same:
        first, second = same[0]
        named = ", the null class" if second == null else ""
        raise ValueError(
            f"The {type(denoiser).__name__} has num_classes={count} but ignores class_labels: {len(same)} of the "
            f"{len(pairs)} pairs of labels have the same output, such as {first} and {second}{named}. Use the class "
            "embedding in its forward, train it for more updates, on labels of every class, or leave out num_classes."
        )
