"""``GuidedDenoiser``: a denoiser that wraps any denoiser and guides it, under the scheduler that drives it.

It is called as the denoiser is, with the sample that the scheduler hands out, and answers as the denoiser does, with
guidance added (``guidance.py`` has the rules and their sources). Nothing else in this package guides.

The noise level of a step is read from the scheduler itself, so a pipeline that knows nothing of guidance can drive it::

    unet = GuidedDenoiser(unet, classifier, scheduler, class_labels=[3] * 16)
    images = DDPMPipeline(unet=unet, scheduler=scheduler)(batch_size=16).images

A denoiser that is told the classifier's posterior where it is told no label (``needs_posterior``) shares the
classifier's one pass over a step with guidance.

Networks that were trained on a variance-preserving noise schedule also run under flow schedulers: they are shown the
preserving sample of the same signal-to-noise ratio, and their prediction is turned into what the scheduler takes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .arguments import check_interval, check_number, parse_scales, resolve_labels
from .guidance import (
    extrapolated_prediction,
    guidance_factor,
    guided_prediction,
    has_signal,
    in_interval,
    read_and_score,
    rescaled_prediction,
)
from .networks import (
    Wrapper,
    check_space,
    is_conditional,
    mean_prediction,
    needs_posterior,
    note_classes,
    null_label,
    num_classes,
    predict,
    predicts_variance,
)
from .noise import (
    NoiseLevel,
    noise_level,
    predicted_epsilon,
    predicted_x0,
    prediction_target,
    preserving_equivalent,
    preserving_levels,
    step_index,
)
from .schedulers import (
    check_scheduler,
    describe_noise,
    preserving_table,
    scheduler_prediction_type,
    scheduler_schedule,
)


class Seen(NamedTuple):
    """What the networks see of a step.

    Attributes:
        sample: (B, ...), on the networks' own noise schedule.
        timestep: theirs, 0-d or (B,).
        level: theirs, of ``sample``.
        scheduler_level: of the sample that the scheduler handed out.
    """

    sample: Tensor
    timestep: Tensor
    level: NoiseLevel
    scheduler_level: NoiseLevel


class GuidedDenoiser(Wrapper):
    """A denoiser guided by a classifier; arguments not named here are those of a pipeline's call.

    Args:
        denoiser: of this package, a ``UNet2DModel`` or a ``DiTTransformer2DModel`` (``networks.py``).
        classifier: ``forward(sample, timestep)`` with output ``.logits`` (B, num_classes); None where every scale is 0.
        scheduler: the very object that drives the sampling.
        class_labels: one class index per sample of the batch; or a float tensor (B, num_classes), the weights of
            classes of which any will do; None does not guide. It may be set anew between calls.
        guidance_scale: s >= 0, one number or one per sample; 1 is Bayes' rule. It may be set anew at any step.
        weak_denoiser: of lower quality, for autoguidance.
        particles: the particles of a call (``particles.py``), whose rows are the batch; None for none.
        training_noise: the noise schedule that the networks were trained on, from
            :func:`~mnist_guided_pipeline.sampling.schedulers.describe_noise`; that of ``scheduler`` if None.

    Raises:
        TypeError: an argument of the wrong kind.
        ValueError: an argument that does not fit, or a scheduler under which the samples would be wrong.
    """

    def __init__(
        self,
        denoiser: Any,
        classifier: Any | None,
        scheduler: Any,
        class_labels: Any,
        guidance_scale: float | Sequence[float] | Tensor = 1.0,
        guidance_interval: tuple[float, float] = (0.0, math.inf),
        *,
        cfg_scale: float = 1.0,
        classifier_temperature: float = 1.0,
        guidance_rescale: float = 0.0,
        weak_denoiser: Any | None = None,
        autoguidance_scale: float = 1.0,
        particles: Any | None = None,
        training_noise: dict[str, Any] | None = None,
    ):
        super().__init__()
        noise = dict(training_noise or describe_noise(scheduler))
        check_scheduler(scheduler, noise)
        self.denoiser, self.classifier, self.weak_denoiser = denoiser, classifier, weak_denoiser
        check_space("classifier", classifier, denoiser)
        check_space("weak_denoiser", weak_denoiser, denoiser)
        if classifier is not None:
            note_classes(denoiser, num_classes(classifier) or 0)
        self.scheduler = scheduler
        self.guidance_interval = check_interval("guidance_interval", guidance_interval)
        self.cfg_scale = check_number("cfg_scale", cfg_scale, 0.0, meaning=" (1 is off)")
        self.classifier_temperature = check_number("classifier_temperature", classifier_temperature, 1e-6)
        self.guidance_rescale = check_number("guidance_rescale", guidance_rescale, 0.0, 1.0)
        self.autoguidance_scale = check_number("autoguidance_scale", autoguidance_scale, 0.0, meaning=" (1 is off)")
        self.training_noise = noise
        if self._takes_variance() and not predicts_variance(denoiser):
            raise ValueError(
                f"{type(scheduler).__name__} reads a variance (variance_type {scheduler.config.variance_type!r}) that "
                f"{type(denoiser).__name__} does not predict; use variance_type='fixed_small'."
            )
        self.particles: Any = particles
        self._levels = network_levels(scheduler, noise)
        self._in_interval = True
        if cfg_scale != 1.0 and not is_conditional(denoiser):
            raise ValueError(
                f"cfg_scale is {cfg_scale}, but the denoiser is not class-conditional; leave cfg_scale at 1, or load a "
                "denoiser that was trained with num_classes."
            )
        if is_conditional(denoiser) and null_label(denoiser) is None and not needs_posterior(denoiser):
            if class_labels is None or cfg_scale != 1.0:
                raise ValueError(
                    f"{type(denoiser).__name__} has no null class, so it always needs a label; give class_labels, and "
                    "leave cfg_scale at 1."
                )
        if autoguidance_scale != 1.0 and weak_denoiser is None:
            raise ValueError(
                f"autoguidance_scale is {autoguidance_scale}, but there is no weak_denoiser; leave it at 1, or give "
                "one."
            )
        self.class_labels = class_labels
        labels = self.class_labels
        if classifier is None and self._wants_posterior(denoiser, labels):
            raise ValueError(
                f"{type(denoiser).__name__} is told the classifier's posterior where it is not told a label, and there "
                "is no classifier; load one, or give class_labels with cfg_scale=1."
            )
        scales = parse_scales("guidance_scale", guidance_scale, 1 if labels is None else len(labels))
        if classifier is None and labels is not None and bool((scales > 0).any()):
            raise ValueError(
                "guidance_scale is above 0, but there is no classifier; load one, or use guidance_scale=0."
            )
        self.guidance_scale: float | Tensor = scales if scales.ndim else float(scales)

    @property
    def class_labels(self) -> Tensor | None:
        """The labels, int64 (B,) or class weights (B, num_classes)."""
        return self._class_labels

    @class_labels.setter
    def class_labels(self, labels: Any) -> None:
        if labels is not None:
            count = num_classes(self.denoiser) if self.classifier is None else num_classes(self.classifier)
            labels = resolve_labels(labels, {index: str(index) for index in range(count or 0)})
            label_given = is_conditional(self.denoiser) and self.cfg_scale != 0.0
            if labels.is_floating_point() and label_given and not needs_posterior(self.denoiser):
                raise ValueError(
                    "class_labels are distributions over classes, which a class-conditional denoiser cannot take; use "
                    "cfg_scale=0, so that the classifier alone guides."
                )
        self._class_labels = labels

    @property
    def config(self) -> Any:
        """The wrapped denoiser's settings."""
        return self.denoiser.config

    def forward(self, sample: Tensor, timestep: Tensor | float, return_dict: bool = True) -> Any:
        """The guided prediction.

        Args:
            sample: (B, ...), in the scheduler's model-input space.
            timestep: an element of ``scheduler.timesteps``.
            return_dict: return the wrapped denoiser's own output object rather than a tuple.

        Raises:
            ValueError: there is not one label per sample.
        """
        labels = self._class_labels
        if labels is not None and len(labels) != len(sample):
            raise ValueError(f"class_labels are {len(labels)}, but the batch has {len(sample)} samples; give one each.")
        if labels is not None:
            self._class_labels = labels = labels.to(sample.device)
        seen = see(self.scheduler, sample, timestep, self._levels)
        if getattr(self.scheduler, "state_in_first_order", True):  # a two-stage step is guided as a whole
            self._in_interval = in_interval(seen.level.ratio, self.guidance_interval)

        logits, score = self._read(seen, labels)
        output, prediction = self._predict(seen, labels, logits)
        if score is not None and self.particles is not None:
            prediction = self._guided_particles(prediction, score, logits, labels, seen)
        elif score is not None:
            prediction = self._guided(prediction, score, seen.level, self.guidance_scale)
        if self._levels is not None:
            prediction = self._to_flow(prediction, seen)
        if self._takes_variance():
            prediction = torch.cat([prediction, output.sample[:, prediction.shape[1] :]], dim=1)
        if not return_dict:
            return (prediction,)
        return dataclasses.replace(output, sample=prediction)

    def _takes_variance(self) -> bool:
        """Whether the scheduler reads a variance beside the prediction."""
        return self.scheduler.config.get("variance_type") in ("learned", "learned_range")

    def _wants_posterior(self, denoiser: Any | None, labels: Tensor | None) -> bool:
        """Whether a denoiser is called with the classifier's posterior, rather than with classes alone or nothing."""
        classes_alone = labels is not None and not labels.is_floating_point() and self.cfg_scale == 1.0
        return needs_posterior(denoiser) and not classes_alone

    def _read(self, seen: Seen, labels: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """One pass of the classifier: its logits (B, num_classes), by temperature, and its gradient (B, ...).

        Each is None where nobody wants it.
        """
        guided_to = labels if self._guides_at(seen.level) else None
        wants_posterior = any(self._wants_posterior(each, labels) for each in (self.denoiser, self.weak_denoiser))
        if self.classifier is None or (guided_to is None and not wants_posterior):
            return None, None
        sample, score = seen.sample.to(_dtype_of(self.classifier)), None
        if guided_to is not None:
            temperature = self.classifier_temperature
            logits, score = read_and_score(self.classifier, sample, seen.timestep, guided_to, temperature)
        else:
            logits = self.classifier(sample, seen.timestep, return_dict=False)[0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits / self.classifier_temperature, score

    def _predict(self, seen: Seen, labels: Tensor | None, logits: Tensor | None) -> tuple[Any, Tensor]:
        """The denoiser's output, and its prediction with classifier-free and autoguidance in the sample's type.

        Outside the interval nothing is extrapolated; a ``cfg_scale`` below 1 names the base, and stays.
        """
        posterior = None if logits is None else logits.softmax(dim=-1)
        cfg_scale = self.cfg_scale if self._in_interval else min(self.cfg_scale, 1.0)
        output, prediction = self._conditional(self.denoiser, seen, labels, posterior, cfg_scale)
        if self._in_interval and self.autoguidance_scale != 1.0:
            _, weak = self._conditional(self.weak_denoiser, seen, labels, posterior, min(cfg_scale, 1.0))
            prediction = extrapolated_prediction(weak, prediction, self.autoguidance_scale)
        return output, prediction

    def _conditional(
        self, denoiser: Any, seen: Seen, labels: Tensor | None, posterior: Tensor | None, cfg_scale: float
    ) -> tuple[Any, Tensor]:
        """The output of a denoiser, and its prediction by classifier-free guidance, without a learned variance."""
        sample = seen.sample.to(_dtype_of(denoiser))
        unlabelled = posterior if needs_posterior(denoiser) else None
        label_given = labels is not None and cfg_scale != 0.0 and is_conditional(denoiser)
        if labels is not None and labels.is_floating_point() and posterior is not None:  # p(y | x, y is one of these)
            labels = labels * posterior
            labels = labels / labels.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(labels.dtype).tiny)
        output = predict(denoiser, sample, seen.timestep, labels if label_given else unlabelled)
        prediction = mean_prediction(output.sample, sample).to(seen.sample.dtype)
        if label_given and cfg_scale != 1.0:
            without = mean_prediction(predict(denoiser, sample, seen.timestep, unlabelled).sample, sample)
            prediction = extrapolated_prediction(without.to(seen.sample.dtype), prediction, cfg_scale)
        return output, prediction

    def _guides_at(self, level: NoiseLevel) -> bool:
        """Whether the classifier guides at this level; a tensor of scales is not read."""
        wanted = isinstance(self.guidance_scale, Tensor) or self.guidance_scale > 0
        return self._in_interval and wanted and has_signal(level.alpha, self.training_noise["law"])

    def _guided_particles(self, prediction: Tensor, score: Tensor, logits: Any, labels: Any, seen: Seen) -> Tensor:
        """As :meth:`_guided`, for the particles that go on, in the place of those that do not."""
        rows, scale, log_likelihood = self.particles.arrive(
            seen.sample, seen.level, self.guidance_scale, logits, labels
        )
        sample, prediction, score = seen.sample[rows], prediction[rows], score[rows]
        guided = self._guided(prediction, score, seen.level, scale)
        x0 = predicted_x0(guided, sample, seen.level, self.training_noise["prediction_type"])
        self.particles.leave(sample, seen.level, scale, log_likelihood, score, x0)
        return guided

    def _guided(self, prediction: Tensor, score: Tensor, level: NoiseLevel, scale: float | Tensor) -> Tensor:
        """The prediction with the classifier's gradient added."""
        noise = self.training_noise
        factor = guidance_factor(level.alpha, level.sigma, noise["prediction_type"], noise.get("sigma_data"))
        if isinstance(scale, Tensor):
            scale = scale.to(score).reshape(-1, *(1,) * (score.ndim - 1))
        guided = guided_prediction(prediction, score.to(prediction.dtype), factor, scale)
        return guided if self.guidance_rescale == 0 else rescaled_prediction(guided, prediction, self.guidance_rescale)

    def _to_flow(self, prediction: Tensor, seen: Seen) -> Tensor:
        """A variance-preserving prediction as what the flow scheduler takes."""
        trained = self.training_noise["prediction_type"]
        x0 = predicted_x0(prediction, seen.sample, seen.level, trained)
        noise = predicted_epsilon(prediction, seen.sample, seen.level, trained)
        return prediction_target(x0, noise, seen.scheduler_level, scheduler_prediction_type(self.scheduler))


def see(scheduler: Any, sample: Tensor, timestep: Tensor | float, levels: NoiseLevel | None) -> Seen:
    """What the networks see of a sample (B, ...), in model-input space, at the step that the scheduler has reached.

    ``levels`` are those of :func:`network_levels`.
    """
    level = noise_level(scheduler, step_index(scheduler, timestep), timestep)
    if levels is None:
        return Seen(sample, torch.as_tensor(timestep, device=sample.device), level, level)
    divisor, equivalent_timestep, equivalent = preserving_equivalent(level, levels)
    time = torch.full((), equivalent_timestep, device=sample.device)
    return Seen(sample / divisor, time, equivalent, level)


def network_levels(scheduler: Any, training_noise: dict[str, Any]) -> NoiseLevel | None:
    """The networks' own noise levels, where they are variance-preserving and the scheduler is a flow; else None."""
    if training_noise["law"] == "preserving" and scheduler_schedule(scheduler) == "flow":
        return preserving_levels(preserving_table(training_noise))
    return None


def _dtype_of(network: Any) -> torch.dtype:
    """The type that a network computes in; that of its first parameter is read faster than ``network.dtype``."""
    first = next(network.parameters(), None)  # an exact denoiser may have none
    if first is None or first.dtype.itemsize == 1:  # stored in float8, computed in something wider
        return network.dtype
    return first.dtype
