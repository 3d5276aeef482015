r"""What an autoencoder is worth: how it copies, what draws of its latent space give, and its likelihood.

A variational autoencoder has a prior, N(0, I), that its encoder was held to. A plain one has none: nothing in its
training says where latents lie, so draws from N(0, I) mostly miss them. What can be done for both is to fit a Gaussian
to the latents of the training set afterwards (Ghosh et al. 2020, https://arxiv.org/abs/1903.12436, section 4). Both are
measured, for both kinds, so that the difference shows.

*How likely a variational autoencoder finds images*: its evidence lower bound, and the importance-weighted one.

With K draws z_k from the encoder's Gaussian q(z | x) and log-weights log w_k = log p(x | z_k) + log p(z_k) -
log q(z_k | x), in nats per image:

    ELBO    = E_q[log p(x | z)] - KL(q(z | x) || N(0, I))         (Kingma and Welling 2014, equation 3)
    L_K     = E[log((w_1 + ... + w_K) / K)]                       (Burda et al. 2016, equation 8)

    ELBO = L_1 <= L_K <= L_{K+1} <= log p(x),    L_K -> log p(x)  (their theorem 1)

https://arxiv.org/abs/1312.6114 and https://arxiv.org/abs/1509.00519. The mean of -L_K over the test set is the usual
estimate of the negative log-likelihood (NLL), from above.

p(x | z) is a product of Bernoulli pixels, so what counts as x must be said with every value:

* ``"grey"``: the grey values themselves, read as Bernoulli probabilities. The binary cross-entropy is then not the
  logarithm of a normalised density, and values compare only with others of this kind.
* ``"threshold"``: pixels above one half are 1, the others 0.
* ``"stochastic"``: each pixel is drawn once, 1 with probability its grey value, from a seed.

Encoder and decoder both see x. Values of differently binarised images do not compare.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data.images import to_unit_range
from ..data.posteriors import decode_images, encode_latents, posterior_draw, reconstruct
from ..seeding import keyed_generator
from ..training.losses import reconstruction_loss
from .metrics import judge_fid
from .scores import Reference, measured, proportion

BINARISATIONS = ("grey", "threshold", "stochastic")

_BATCH = 500
_ROWS = 4_000  # latents decoded at a time for the likelihood


def prior_draws(vae: Any, count: int, seed: int = 0) -> Tensor:
    """Draws of N(0, I), float32 (count, *latent_shape)."""
    return torch.randn(count, *vae.latent_shape, generator=keyed_generator(seed, "prior"))


def fitted_draws(vae: Any, images: Tensor, count: int, seed: int = 0) -> Tensor:
    """Draws float32 (count, *latent_shape) of a Gaussian fitted to the latents of ``images``: mean, full covariance."""
    noise = torch.randn(len(images), *vae.latent_shape, generator=keyed_generator(seed, "posterior"))
    latents = encode_latents(vae, images, noise).flatten(1).double()
    values, vectors = torch.linalg.eigh(torch.cov(latents.T).reshape(latents.shape[1], -1))
    normal = torch.randn(count, latents.shape[1], generator=keyed_generator(seed, "fitted"), dtype=torch.float64)
    draws = latents.mean(dim=0) + (normal * values.clamp_min(0).sqrt()) @ vectors.T
    return draws.float().reshape(count, *vae.latent_shape)


@torch.no_grad()
def measure_autoencoder(vae: Any, reference: Reference, num_images: int, seed: int = 0) -> dict[str, Any]:
    """Reconstruction of the reference's whole test set, and ``num_images`` samples of each Gaussian against it.

    Returns:
        Values by name: ``mse`` (per pixel, unit range), ``bce`` and ``kl`` (nats per image; no ``kl`` of a plain
        autoencoder), ``reconstruction_accuracy`` and ``reconstruction_fid`` by the judge, ``prior_fid`` of draws from
        N(0, I), ``fitted_fid`` of draws from the Gaussian fitted to the training latents, ``num_parameters`` and
        ``latent_size``.
    """
    judge, test, real = reference.judge, reference.test, reference.judgement.features
    sums = torch.zeros(3, dtype=torch.float64)
    for batch in test.images.split(_BATCH):
        unit = to_unit_range(batch).to(vae.device)
        posterior = vae.encode((unit * 2.0 - 1.0).to(vae.dtype)).latent_dist
        logits = vae.decode_logits(posterior.mode())
        terms = (
            reconstruction_loss(logits, unit, "mse") / batch[0].numel(),
            reconstruction_loss(logits, unit, "bce"),
            posterior.kl(),
        )
        sums += torch.stack([term.double().sum().cpu() for term in terms])
    count = len(test)
    mse, bce, kl = (sums / count).tolist()

    judged = judge(reconstruct(vae, test.images))
    hits = int((judged.probabilities.argmax(dim=1) == test.labels).sum())
    prior = judge.features(decode_images(vae, prior_draws(vae, num_images, seed)))
    fitted = judge.features(decode_images(vae, fitted_draws(vae, reference.train.images, num_images, seed)))
    return {
        "mse": measured(mse, count),
        "bce": measured(bce, count),
        **({"kl": measured(kl, count)} if vae.config.variational else {}),
        "reconstruction_accuracy": proportion(hits, count),
        "reconstruction_fid": measured(judge_fid(real, judged.features), count),
        "prior_fid": measured(judge_fid(real, prior), num_images),
        "fitted_fid": measured(judge_fid(real, fitted), num_images),
        "num_parameters": sum(parameter.numel() for parameter in vae.parameters()),
        "latent_size": prior_draws(vae, 1).numel(),
    }


class Likelihood(NamedTuple):
    """Values of N images, in nats, float64 (N,) each.

    Attributes:
        reconstruction: -E_q[log p(x | z)], from the draws.
        kl: KL(q(z | x) || N(0, I)), in closed form.
        importance_weighted: the bound L_K on log p(x), from the same draws.
    """

    reconstruction: Tensor
    kl: Tensor
    importance_weighted: Tensor

    @property
    def elbo(self) -> Tensor:
        """The evidence lower bound on log p(x)."""
        return -(self.reconstruction + self.kl)


def check_has_likelihood(vae: Any, reconstruction: str | None) -> None:
    """Refuse an autoencoder whose training defines no likelihood of Bernoulli pixels.

    Raises:
        ValueError: a plain one, or one of another ``reconstruction`` term than ``"bce"`` (None: it is not known).
    """
    if not vae.config.variational:
        raise ValueError(
            "vae is a plain autoencoder (variational is false in its config): it has no prior and no likelihood. "
            "Give a variational one."
        )
    if reconstruction not in (None, "bce"):
        raise ValueError(
            f"vae was trained with reconstruction {reconstruction!r}: a likelihood of Bernoulli pixels is defined for "
            "--reconstruction bce only."
        )


def binarise(images: Tensor, how: str, seed: int = 0) -> Tensor:
    """What counts as x: uint8 images as float32 (N, C, H, W) in unit range, by one of :data:`BINARISATIONS`.

    A draw of ``"stochastic"`` depends on the seed and the image's place alone.

    Raises:
        ValueError: another way.
    """
    unit = to_unit_range(images)
    if how == "grey":
        return unit
    if how == "threshold":
        return (unit > 0.5).float()
    if how == "stochastic":
        return torch.stack(
            [torch.bernoulli(image, generator=keyed_generator(seed, "binarise", i)) for i, image in enumerate(unit)]
        )
    raise ValueError(f"binarisation must be one of {', '.join(BINARISATIONS)}, got {how!r}.")


@torch.no_grad()
def image_likelihood(vae: Any, images: Tensor, num_importance_samples: int, seed: int = 0) -> Likelihood:
    """The bounds of every image, float (N, C, H, W) in unit range, such as :func:`binarise` makes.

    The K = ``num_importance_samples`` draws of an image depend on the seed and its place alone; 200 to 5,000 are usual.

    Raises:
        ValueError: K is below 1.
    """
    count = num_importance_samples
    if count < 1:
        raise ValueError(f"num_importance_samples must be at least 1 (200 is usual), got {count}.")
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    size = max(1, _ROWS // count)
    for start in tqdm(range(0, len(images), size), desc="likelihood", unit="batch", disable=None, leave=False):
        batch = images[start : start + size].to(vae.device, vae.dtype)
        posterior = vae.encode(batch * 2.0 - 1.0).latent_dist
        noise = torch.stack(
            [
                torch.randn(count, *vae.latent_shape, generator=keyed_generator(seed, "importance", start + row))
                for row in range(len(batch))
            ]
        ).to(batch)
        log_weights, reconstruction = _log_weights(vae, batch, posterior, noise)
        bound = torch.logsumexp(log_weights, dim=1) - math.log(count)
        parts.append((reconstruction.mean(dim=1).cpu(), posterior.kl().double().cpu(), bound.cpu()))
    return Likelihood(*(torch.cat(part) for part in zip(*parts, strict=True)))


def measure_likelihood(
    vae: Any, images: Tensor, how: str, num_importance_samples: int, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """``negative_elbo`` and ``negative_log_likelihood`` of uint8 images, binarised as ``how`` says.

    Each is a mean in nats per image, with the standard error that the choice of N images leaves.
    """
    found = image_likelihood(vae, binarise(images, how, seed), num_importance_samples, seed)
    return {
        name: {
            **measured(-bound.mean().item(), len(bound)),
            "standard_error": (bound.std() / len(bound) ** 0.5).item() if len(bound) > 1 else None,
        }
        for name, bound in (("negative_elbo", found.elbo), ("negative_log_likelihood", found.importance_weighted))
    }


def _log_weights(vae: Any, images: Tensor, posterior: Any, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The log-weights and -log p(x | z_k), float64 (B, K) each, from standard noise (B, K, *latent_shape).

    With z = mean + std * noise, the constants of both Gaussians cancel in log p(z) - log q(z | x).
    """
    rows, count = noise.shape[:2]
    latents = posterior_draw(posterior.mean[:, None], posterior.std[:, None], noise)
    pieces = []
    for first in range(0, count, _ROWS):
        chunk = latents[:, first : first + _ROWS]
        targets = images[:, None].expand(-1, chunk.shape[1], *images.shape[1:]).flatten(0, 1)
        logits = vae.decode_logits(chunk.flatten(0, 1))
        pieces.append(reconstruction_loss(logits, targets.float(), "bce").double().reshape(rows, -1))
    reconstruction = torch.cat(pieces, dim=1)
    latents, noise, logvar = latents.double(), noise.double(), posterior.logvar.double()
    prior_to_posterior = 0.5 * ((noise**2 - latents**2).flatten(2).sum(2) + logvar.flatten(1).sum(1)[:, None])
    return prior_to_posterior - reconstruction, reconstruction
