"""Training losses: pure functions, each a mean over the batch in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..sampling.guidance import MIN_FLOW_ALPHA, class_log_likelihood, guidance_factor, guided_prediction
from ..sampling.noise import NoiseLevel


def reconstruction_loss(logits: Tensor, images: Tensor, kind: str) -> Tensor:
    """Reconstruction term of the ELBO (B,), summed over pixels, of ``images`` (B, C, H, W) in unit range [0, 1].

    ``logits`` are the decoder's output before the sigmoid. ``"bce"`` is the negative log-likelihood in nats of grey
    values read as Bernoulli probabilities, ``"mse"`` the squared error of the unit range.
    """
    if kind == "mse":
        pixels = F.mse_loss(torch.sigmoid(logits.float()), images, reduction="none")
    else:
        pixels = F.binary_cross_entropy_with_logits(logits.float(), images, reduction="none")
    return pixels.flatten(1).sum(dim=1)


def min_snr_weight(level: NoiseLevel, gamma: float, prediction_type: str) -> Tensor:
    """Min-SNR weight (B,) of a denoising loss (Hang et al. 2023, https://arxiv.org/abs/2303.09556, equations 8 and 9).

    The weight on x0 is ``min(SNR, gamma)``, whatever the network predicts; gamma is 5 in the paper.
    """
    snr = (level.alpha / level.sigma) ** 2
    clamped = snr.clamp_max(gamma)
    if prediction_type == "epsilon":
        return clamped / snr.clamp_min(1e-20)
    if prediction_type == "v_prediction":
        return clamped / (snr + 1.0)
    if prediction_type == "flow_prediction":
        return clamped * level.sigma**2
    return clamped


def denoising_loss(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error per sample, predicted (B, ...) against target, weighted by (B,) where given; () in float32."""
    if weight is None:
        return F.mse_loss(prediction.float(), target.float())
    errors = F.mse_loss(prediction.float(), target.float(), reduction="none")
    return (errors.flatten(1).mean(dim=1) * weight).mean()


def guided_denoising_loss(
    prediction: Tensor,
    logits: Tensor,
    labels: Tensor,
    noisy: Tensor,
    target: Tensor,
    level: NoiseLevel,
    prediction_type: str,
    scale: float = 1.0,
) -> Tensor:
    """Denoising loss of a denoiser that a classifier guides towards a class: what guidance should minimise.

    Denoising likelihood score matching (Chao et al. 2022, https://arxiv.org/abs/2203.14206, equation 11): for the true
    class the denoising loss is least where denoiser plus gradient is the class-conditional denoiser, so it trains the
    classifier's gradient, which cross-entropy leaves free where probabilities saturate or noise is large. For any other
    class there is no truth in the data; a class-conditional denoiser's prediction stands in for it.

    Args:
        prediction: the denoiser's output (B, ...).
        logits: the classifier's output (B, num_classes) for ``noisy``.
        labels: int64 (B,), the classes to guide towards.
        noisy: the sample both networks saw (B, ...), requiring grad.
        target: what the guided prediction should be (B, ...), such as ``prediction_target`` of the true class.
        level: coefficients that broadcast against ``noisy``.
        prediction_type: of the denoiser.
        scale: of the guidance.

    Returns:
        () in float32, differentiable twice. Where alpha is below 0.02, least of a guided flow, a level counts
        ``(alpha / 0.02)^2`` times, which takes the rule's factor 1/alpha out again.
    """
    log_likelihood = class_log_likelihood(logits, labels)
    (score,) = torch.autograd.grad(log_likelihood.sum(), noisy, create_graph=True)
    alpha = level.alpha.clamp_min(1e-6)  # a flow ends in alpha = 0, where the weight is zero too
    factor = guidance_factor(alpha, level.sigma, prediction_type)
    guided = guided_prediction(prediction, score.float(), factor, scale)
    weight = (level.alpha.flatten() / MIN_FLOW_ALPHA).clamp_max(1.0) ** 2
    return denoising_loss(guided, target, weight)


def discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Cross-entropy of telling real images from generated ones, (B,) each; () in float32, 2 log 2 for logits of zero.

    Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661, equation 1, with ``D = sigmoid(logits)`` and its sign
    changed. The generated images carry no gradient.
    """
    return F.softplus(-logits_real.float()).mean() + F.softplus(logits_fake.float()).mean()


def generator_loss(logits_fake: Tensor) -> Tensor:
    """Non-saturating loss: the cross-entropy of passing for real, of ``logits_fake`` (B,); () in float32.

    Its gradient stays where the discriminator is sure, unlike that of the discriminator's loss with its sign changed
    (Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661, end of section 3).
    """
    return F.softplus(-logits_fake.float()).mean()


def discriminator_terms(logits_real: Tensor, logits_fake: Tensor) -> dict[str, Tensor]:
    """A discriminator's loss of logits (B,) each, and their means, () each."""
    loss = discriminator_loss(logits_real, logits_fake)
    means = {"logits_real": logits_real.detach().mean(), "logits_fake": logits_fake.detach().mean()}
    return {"discriminator_loss": loss, **means}


def r1_penalty(logits_real: Tensor, images: Tensor, gamma: float) -> Tensor:
    """``gamma / 2 E |grad D(x)|^2`` over real images, which lets adversarial training converge.

    Without it, training circles around the equilibrium where images lie on a thin set, as digits do (Mescheder et al.
    2018, https://arxiv.org/abs/1801.04406, equation 9 and theorem 4.1). The logits (B,) are each of their own image
    (B, ...) alone, which requires grad; the result () is in float32 and differentiable.
    """
    (gradient,) = torch.autograd.grad(logits_real.float().sum(), images, create_graph=True)
    return 0.5 * gamma * gradient.float().square().flatten(1).sum(dim=1).mean()
