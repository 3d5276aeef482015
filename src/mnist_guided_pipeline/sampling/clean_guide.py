"""``CleanClassifierGuide``: a classifier of clean images guides through the denoiser's prediction of the clean sample.

The classifier reads ``decode(E[x0 | x])`` in place of ``x``, and the gradient is taken through classifier, decoder and
denoiser (Chung et al. 2023, https://arxiv.org/abs/2209.14687, "diffusion posterior sampling"; Bansal et al. 2023,
https://arxiv.org/abs/2302.07121, "forward universal guidance"). No classifier has to be trained on noise. It is biased:
``p(y | E[x0 | x])`` stands for ``E[p(y | x0) | x]``, and the two agree only where little noise is left. A step costs a
pass through the denoiser more than with a noise-aware guide, and the way back through all three networks.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from .latents import denormalise
from .networks import Wrapper, is_conditional, mean_prediction, needs_posterior, null_label, predict, sample_shape
from .noise import NoiseLevel, flow_levels, per_sample, predicted_x0, training_levels
from .schedulers import describe_noise

_GREY = (0.299, 0.587, 0.114)  # of red, green and blue, as Pillow's mode L has them


class CleanGuideOutput(BaseOutput):
    """``logits`` (B, num_classes)."""

    logits: Tensor


class CleanClassifierGuide(Wrapper):
    """A classifier of clean images with the interface of a noise-aware one, for a pipeline or ``GuidedDenoiser``.

    It lives in memory: a pipeline is saved with ``classifier=None``, and the guide is made anew.

    Args:
        classifier: ``classifier(images).logits`` (B, num_labels), such as a transformers
            ``AutoModelForImageClassification``. Not the judge: it would then mark its own work. Images come with as
            many channels as its ``config.num_channels`` says (grey is repeated, colour becomes grey) and resized to its
            ``config.image_size``. Without a ``vae`` it is shown samples of the denoiser's own space.
        denoiser: of any kind that a pipeline takes; it predicts without a label.
        vae: the pipeline's, or None.
        scheduler: one with the noise schedule and prediction type that the denoiser was trained on.
        image_mean: of the classifier's image processor, for pixels in [0, 1]; with ``image_std`` 0.5 it is shown
            [-1, 1]. One number, or one per channel.
        image_std: likewise.

    Raises:
        ValueError: a classifier that does not say how many classes it knows, a denoiser that cannot be called without
            a label, or a noise schedule that is neither variance-preserving nor a flow.

    Example::

        reader = AutoModelForImageClassification.from_pretrained(folder)
        pipe.register_modules(classifier=CleanClassifierGuide(reader, pipe.denoiser, pipe.vae, pipe.scheduler))
    """

    def __init__(
        self,
        classifier: Any,
        denoiser: Any,
        vae: Any | None,
        scheduler: Any,
        image_mean: float | tuple[float, ...] = 0.5,
        image_std: float | tuple[float, ...] = 0.5,
    ):
        super().__init__()
        name, noise = type(classifier).__name__, describe_noise(scheduler)
        classes = getattr(getattr(classifier, "config", None), "num_labels", None)
        if classes is None:
            raise ValueError(
                f"classifier is a {name}, whose config has no num_labels; give a transformers image classifier, or "
                "any module with config.num_labels whose output has logits."
            )
        if needs_posterior(denoiser) or (is_conditional(denoiser) and null_label(denoiser) is None):
            raise ValueError(
                f"denoiser is a {type(denoiser).__name__} that cannot predict without a label or a posterior; a clean "
                "classifier needs one that is unconditional or has a null class."
            )
        if noise["law"] not in ("preserving", "flow"):
            raise ValueError(
                f"scheduler is a {type(scheduler).__name__} with the noise schedule {noise['law']!r}; give one that is "
                "variance-preserving or a flow, such as that of the denoiser's training."
            )
        self.denoiser, self.vae, self.classifier = denoiser, vae, classifier
        self.config = FrozenDict(num_classes=int(classes), sample_shape=list(sample_shape(denoiser)))
        self.image_mean, self.image_std = image_mean, image_std
        self._flow_steps = int(scheduler.config.num_train_timesteps) if noise["law"] == "flow" else None
        self._prediction_type = noise["prediction_type"]
        if self._flow_steps is None:
            table = training_levels(scheduler)
            self._log_ratios = (table.sigma / table.alpha).log().clamp(max=20.0)  # infinite where there is no signal

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = True) -> Any:
        """Logits (B, num_classes) for noisy samples (B, *sample_shape).

        Args:
            sample: in the denoiser's model-input space and type.
            timestep: 0-d or (B,), also fractional.
            return_dict: return a :class:`CleanGuideOutput` rather than a tuple.
        """
        prediction = mean_prediction(predict(self.denoiser, sample, timestep).sample, sample)
        x0 = predicted_x0(prediction, sample, self._level(timestep, sample), self._prediction_type)
        if self.vae is not None:
            x0 = self.vae.decode(denormalise(x0, self.vae.config)).sample
        first = next(self.classifier.parameters(), x0)
        logits = self.classifier(self._as_classifier_wants(x0).to(first.dtype)).logits
        return CleanGuideOutput(logits=logits) if return_dict else (logits,)

    def _level(self, timestep: Tensor, sample: Tensor) -> NoiseLevel:
        """The noise level of a timestep; between two of a table, the logarithm of its ratio is interpolated."""
        time = torch.as_tensor(timestep, dtype=torch.float64, device="cpu").reshape(-1)
        if self._flow_steps is not None:
            return NoiseLevel(*(per_sample(values, sample) for values in flow_levels(time, self._flow_steps)))
        below = time.floor().clamp(0, len(self._log_ratios) - 2).long()
        logs = torch.lerp(self._log_ratios[below], self._log_ratios[below + 1], (time - below).clamp(0.0, 1.0))
        alpha, sigma = torch.sigmoid(-2 * logs).sqrt(), torch.sigmoid(2 * logs).sqrt()
        return NoiseLevel(per_sample(alpha, sample), per_sample(sigma, sample))

    def _as_classifier_wants(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] with the channels, size and normalisation of the classifier; vectors as they are."""
        if images.ndim != 4:
            return images
        wanted, size = (getattr(self.classifier.config, name, None) for name in ("num_channels", "image_size"))
        if wanted == 3 and images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        elif wanted == 1 and images.shape[1] == 3:
            images = (images * images.new_tensor(_GREY).reshape(1, 3, 1, 1)).sum(dim=1, keepdim=True)
        size = (size, size) if isinstance(size, int) else size
        if size is not None and tuple(size) != images.shape[2:]:
            images = nn.functional.interpolate(images, tuple(size), mode="bilinear", antialias=True)
        mean, std = (images.new_tensor(value).reshape(1, -1, 1, 1) for value in (self.image_mean, self.image_std))
        return (images / 2 + 0.5 - mean) / std
