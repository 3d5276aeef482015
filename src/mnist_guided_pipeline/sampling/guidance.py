r"""Guidance: pure functions of tensors, one paper each, no network and no scheduler inside.

**Classifier guidance** (Dhariwal and Nichol 2021, https://arxiv.org/abs/2105.05233, section 4; Song et al. 2021,
https://arxiv.org/abs/2011.13456, equation 14). By Bayes' rule the score of the noisy class-conditional density is

    grad_x log p(x | y) = grad_x log p(x) + s * grad_x log p(y | x, t)        with s = 1.

A network gives the first term, the gradient ``g`` of a classifier that has learned to read noisy samples gives the
second. In model-input space, ``x = alpha x0 + sigma eps``, adding ``s g`` to the score moves the network's output by
``s * k * g`` where ``k`` follows from how the output relates to the score:

====================  ===========================  ==========================
``prediction_type``   score of x                   k
====================  ===========================  ==========================
``epsilon``           -p / sigma                   -sigma
``sample``            (alpha p - x) / sigma^2      sigma^2 / alpha
``v_prediction``      -(alpha p + sigma x)/sigma   -sigma / alpha
``flow_prediction``   -(x + alpha p) / sigma       -sigma / alpha
EDM, ``epsilon``      (alpha D - x) / sigma^2      sigma / (alpha sigma_data)
EDM, ``v_prediction`` (alpha D - x) / sigma^2      -sigma / (alpha sigma_data)
====================  ===========================  ==========================

(The ``v_prediction`` row needs alpha^2 + sigma^2 = 1, the flow row alpha + sigma = 1; D is the clean sample that the
preconditioning of Karras et al. 2022 makes of x and p.) The scheduler then steps as ever: nothing else about the
sampler changes, which is why one rule serves all of them. Schedulers that scale their input need no factor of their
own, since ``g`` is taken at the scaled input.

**Classifier-free guidance** (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598, equation 6) and
**autoguidance** (Karras et al. 2024, https://arxiv.org/abs/2406.02507, equation 4) extrapolate between two networks:
from an unconditional to a conditional one, from a weak to a strong one (:func:`extrapolated_prediction`). They
compose with classifier guidance, as all of them are shifts of the same prediction.

**Rescaled guidance** (Lin et al. 2023, https://arxiv.org/abs/2305.08891, equations 15 and 16) takes back the growth
of the prediction's spread (:func:`rescaled_prediction`). A **guidance interval** (Kynkaanniemi et al. 2024,
https://arxiv.org/abs/2404.07724) leaves the noisiest and cleanest levels unguided (:func:`in_interval`).

**Where guidance is off**: outside the interval, and wherever alpha is below 0.005 (0.02 for a flow): there is nothing
to guide by, and k divides by alpha (:func:`has_signal`). A noise schedule with a zero terminal signal begins there.

Only s = 1 draws from p(x | y). For other s guidance alone does not draw from p(x) p(y | x)^s, because noising does not
commute with raising to a power; weighted particles do (``particles.py``). A larger s trades diversity for agreement
with the classifier.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MIN_ALPHA = 5e-3
MIN_FLOW_ALPHA = 2e-2


def class_log_likelihood(logits: Tensor, class_labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability that a classifier gives to what is wanted, computed in float32 (or float64).

    Args:
        logits: (B, num_classes).
        class_labels: int64 (B,), one class per image; or float (B, num_classes), the weight ``q`` of each class, for
            which the result is ``log sum_y q_y p(y | x)``: the evidence that the class is one of several. Weights that
            are zero on a class and one elsewhere mean "anything but that class".
        temperature: the logits are divided by it, positive; it calibrates the classifier and is not a scale.

    Returns:
        (B,).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_probabilities = torch.log_softmax(logits / temperature, dim=-1)
    if class_labels.is_floating_point():
        return torch.logsumexp(log_probabilities + class_labels.to(log_probabilities.dtype).log(), dim=-1)
    return log_probabilities.gather(-1, class_labels.unsqueeze(-1)).squeeze(-1)


def classifier_score(
    classifier: Callable[..., tuple[Tensor, ...]],
    sample: Tensor,
    timestep: Tensor,
    class_labels: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    """The gradient of log p(y | x, t) with respect to the sample the classifier sees; see :func:`read_and_score`."""
    return read_and_score(classifier, sample, timestep, class_labels, temperature)[1]


def read_and_score(
    classifier: Callable[..., tuple[Tensor, ...]],
    sample: Tensor,
    timestep: Tensor,
    class_labels: Tensor,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The classifier's logits, and the gradient of log p(y | x, t) with respect to the sample, in one pass.

    The sum over the batch is differentiated, not the mean, so an image's gradient does not depend on its batch. Works
    under ``torch.no_grad`` and ``torch.inference_mode``.

    Args:
        classifier: ``classifier(sample, timestep, return_dict=False)[0]`` are logits (B, num_classes).
        sample: (B, ...), in model-input space.
        timestep: 0-d or (B,).
        class_labels: as in :func:`class_log_likelihood`.
        temperature: as in :func:`class_log_likelihood`.

    Returns:
        Logits (B, num_classes) without gradient, and the gradient in the shape of ``sample``, in float32 or wider.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = sample.detach().clone().requires_grad_(True)
        logits = classifier(leaf, timestep.clone(), return_dict=False)[0]
        total = class_log_likelihood(logits, class_labels.clone(), temperature).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
    return logits.detach(), gradient.to(torch.promote_types(gradient.dtype, torch.float32))


def guidance_factor(
    alpha: float | Tensor, sigma: float | Tensor, prediction_type: str, sigma_data: float | None = None
) -> float | Tensor:
    """The factor ``k`` of the module's table: a unit of score moves the network's output by ``k``.

    Args:
        alpha: coefficient of the signal, positive where ``k`` divides by it.
        sigma: coefficient of the noise.
        prediction_type: ``"epsilon"``, ``"sample"``, ``"v_prediction"`` or ``"flow_prediction"``.
        sigma_data: the data's standard deviation, for EDM-preconditioned networks; None for all others.

    Raises:
        ValueError: no factor is known for this prediction type.
    """
    if sigma_data is not None:
        if prediction_type in ("epsilon", "v_prediction"):
            return (1.0 if prediction_type == "epsilon" else -1.0) * sigma / (alpha * sigma_data)
    elif prediction_type == "epsilon":
        return -sigma
    elif prediction_type == "sample":
        return sigma**2 / alpha
    elif prediction_type in ("v_prediction", "flow_prediction"):
        return -sigma / alpha
    raise ValueError(f"No guidance rule for prediction_type {prediction_type!r} (sigma_data={sigma_data}).")


def guided_prediction(prediction: Tensor, score: Tensor, factor: float | Tensor, scale: float | Tensor) -> Tensor:
    """Add ``scale * factor * score`` to a network's output.

    Args:
        prediction: the network's output (B, ...), without a learned variance.
        score: from :func:`classifier_score`, the shape of ``prediction``.
        factor: from :func:`guidance_factor`.
        scale: guidance scale s >= 0, a float or a tensor that broadcasts against ``score``.

    Returns:
        The guided output, in the shape and dtype of ``prediction``.
    """
    return prediction + (scale * factor * score).to(prediction.dtype)


def extrapolated_prediction(weak: Tensor, strong: Tensor, scale: float) -> Tensor:
    """``weak + scale * (strong - weak)``: classifier-free guidance, and autoguidance.

    Args:
        weak: prediction without labels, or of the weaker network (B, ...).
        strong: prediction with labels, or of the better network (B, ...).
        scale: 1 gives ``strong``, 0 gives ``weak``, more goes beyond ``strong``.
    """
    return torch.lerp(weak, strong, scale)


def rescaled_prediction(guided: Tensor, unguided: Tensor, amount: float) -> Tensor:
    """Bring the standard deviation of each guided prediction back towards that of the unguided one.

    Args:
        guided: (B, ...).
        unguided: (B, ...).
        amount: 0 leaves ``guided`` as it is, 1 matches the deviations fully; 0.7 in the paper.
    """
    dims = tuple(range(1, guided.ndim))
    factor = unguided.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True)
    return guided * (amount * factor + (1.0 - amount))


def in_interval(ratio: float, interval: tuple[float, float]) -> bool:
    """Whether ``low < sigma / alpha <= high``, the noise levels at which to guide."""
    return interval[0] < ratio <= interval[1]


def has_signal(alpha: float, noise_schedule: str) -> bool:
    """Whether there is enough signal to guide by; see *Where guidance is off* above.

    Args:
        alpha: coefficient of the signal, of the networks' own noise schedule.
        noise_schedule: its kind, such as ``"preserving"`` or ``"flow"``.
    """
    return alpha >= (MIN_FLOW_ALPHA if noise_schedule == "flow" else MIN_ALPHA)
