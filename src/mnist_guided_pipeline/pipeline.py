"""``ClassifierGuidedLatentPipeline``: the life cycle of a sampling call, under any supported diffusers scheduler."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .guidance import classifier_score, guidance_factor, guided_prediction
from .labels import resolve_labels
from .latents import denormalise
from .noise import NoiseLevel, noise_level
from .schedulers import build_scheduler, check_scheduler, describe_noise, scheduler_prediction_type

__all__ = ["ClassifierGuidedLatentPipeline"]

logger = logging.get_logger(__name__)

_MIN_ALPHA = 5e-3  # below this no signal is left to guide by, and the rule divides by it
_DECODE_BATCH = 500


class ClassifierGuidedLatentPipeline(DiffusionPipeline):
    """Class-conditional sampling by classifier guidance, in the latent space of a VAE or in the denoiser's own space.

    At every step the gradient of a noise-aware classifier is added to the denoiser's prediction (``guidance.py`` has
    the rule and its source); the scheduler does the rest and may be swapped without retraining.

    Args:
        vae: autoencoder with the interface of ``AutoencoderKL`` and ``config.latents_mean`` and ``latents_std``; None
            to sample in the denoiser's own space (pixels, 2-D points).
        denoiser: ``forward(sample, timestep, class_labels=None)`` with ``config.sample_shape``.
        classifier: ``forward(sample, timestep)`` giving logits; None where ``guidance_scale`` is 0.
        scheduler: a supported diffusers scheduler. ``clip_sample`` and ``thresholding`` are switched off.
        id2label: class index to class name; ``{0: "0", 1: "1", ...}`` if None.
        training_noise: the noise law that the networks were trained on; that of ``scheduler`` if None. A scheduler
            with another law is refused.
        sampling_defaults: ``guidance_scale``, ``guidance_interval`` and ``num_inference_steps`` that a call uses where
            its arguments are None.
    """

    model_cpu_offload_seq = "denoiser->vae"
    _optional_components = ["vae", "classifier"]
    _callback_tensor_inputs = ["latents", "prediction"]

    def __init__(
        self,
        vae: Any | None,
        denoiser: Any,
        classifier: Any | None,
        scheduler: Any,
        id2label: dict[Any, str] | None = None,
        training_noise: dict[str, Any] | None = None,
        sampling_defaults: dict[str, Any] | None = None,
    ):
        super().__init__()
        scheduler = _without_clipping(scheduler)
        training_noise = training_noise or describe_noise(scheduler)
        self.register_modules(vae=vae, denoiser=denoiser, classifier=classifier, scheduler=scheduler)
        self.register_to_config(
            id2label={str(index): name for index, name in _class_names(id2label, classifier, denoiser).items()},
            training_noise=training_noise,
            sampling_defaults=dict(sampling_defaults or {}),
        )
        self.image_processor = VaeImageProcessor(do_resize=False)

    @property
    def id2label(self) -> dict[int, str]:
        """Class index to class name."""
        return {int(index): name for index, name in self.config.id2label.items()}

    @property
    def guidance_scale(self) -> Any:
        """The guidance scale of the call in progress: a float, or a tensor (B,); a callback may change it."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Length of the sampling loop of the call in progress."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Set to True by a callback to skip the remaining steps."""
        return self._interrupt

    def make_scheduler(self, scheduler_class: type, **options: Any) -> Any:
        """A scheduler of another class that fits these networks: same noise law, same prediction type.

        Example::

            pipe.scheduler = pipe.make_scheduler(EulerDiscreteScheduler, use_karras_sigmas=True)
        """
        return build_scheduler(scheduler_class, dict(self.config.training_noise), **options)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Any = None,
        num_images_per_label: int = 1,
        guidance_scale: float | Sequence[float] | Tensor | None = None,
        cfg_scale: float = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        num_inference_steps: int | None = None,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006 - the signature diffusers has
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw samples.

        Args:
            class_labels: an index, a name of ``id2label``, a list of either, a 1-D integer tensor, or a float tensor
                (L, num_classes) of class weights. None draws unconditional samples.
            num_images_per_label: samples a label (or in all, where ``class_labels`` is None).
            guidance_scale: s >= 0, one number or one a label. 0 is off, 1 is Bayes' rule, more trades diversity for
                agreement with the classifier. None takes ``config.sampling_defaults``, else 1.
            cfg_scale: classifier-free weight for a class-conditional denoiser; 1 uses its conditional prediction as it
                is, 0 its unconditional one.
            guidance_interval: guide only where ``low < sigma / alpha <= high`` (Kynkaanniemi et al. 2024,
                https://arxiv.org/abs/2404.07724). None takes ``config.sampling_defaults``, else every level.
            num_inference_steps: steps of the scheduler. None takes ``config.sampling_defaults``, else 25.
            timesteps: custom timesteps, for schedulers that take them.
            sigmas: custom sigmas, for schedulers that take them.
            eta: stochasticity of DDIM, in [0, 1]; other schedulers ignore it.
            generator: one generator, or one a sample: then a sample does not depend on its batch.
            latents: standard Gaussian noise (B, *sample_shape) to start from.
            output_type: ``"pil"`` (mode L), ``"np"`` (B, 28, 28, 1) or ``"pt"`` (B, 1, 28, 28) in [0, 1], or
                ``"latent"`` (B, *sample_shape), what the denoiser sees.
            return_dict: return an ``ImagePipelineOutput`` rather than a tuple.
            callback_on_step_end: called as ``callback(pipe, step, timestep, tensors)`` after every step; what it
                returns replaces the tensors.
            callback_on_step_end_tensor_inputs: which tensors the callback gets, of ``_callback_tensor_inputs``.

        Returns:
            Samples in label order, ``num_images_per_label`` of each label in turn, as ``.images``.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: an argument that does not fit; the message names it, its value, and what would do.
        """
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        defaults = self.config.sampling_defaults
        if num_inference_steps is None:
            num_inference_steps = defaults.get("num_inference_steps", 25)
        if guidance_interval is None:
            guidance_interval = defaults.get("guidance_interval", (0.0, math.inf))
        if guidance_scale is None:
            guided = class_labels is not None and self.classifier is not None
            guidance_scale = defaults.get("guidance_scale", 1.0) if guided else 0.0
        self.check_inputs(
            class_labels,
            num_images_per_label,
            guidance_scale,
            cfg_scale,
            guidance_interval,
            num_inference_steps,
            timesteps,
            sigmas,
            eta,
            generator,
            latents,
            output_type,
            callback_on_step_end_tensor_inputs,
        )

        device = self._execution_device
        labels, batch_size = self.prepare_labels(class_labels, num_images_per_label, device)
        self._guidance_scale = self.prepare_guidance_scale(guidance_scale, num_images_per_label, labels, device)
        self._interrupt = False
        times = self.prepare_timesteps(num_inference_steps, timesteps, sigmas)
        latents = self.prepare_latents(batch_size, device, generator, latents)
        step_options = self.prepare_step_options(generator, eta)

        self._num_timesteps = len(times)
        order = getattr(self.scheduler, "order", 1)
        network_times = times.to(device)
        in_interval = True
        with self.progress_bar(total=math.ceil(len(times) / order)) as progress_bar:
            for i, t in enumerate(times):
                if self._interrupt:
                    continue
                level = noise_level(self.scheduler, i, t)
                if getattr(self.scheduler, "state_in_first_order", True):  # a two-stage step is guided as a whole
                    in_interval = guidance_interval[0] < level.ratio <= guidance_interval[1]
                sample = self.scale_model_input(latents, t)
                prediction = self.predict(sample, network_times[i], labels, cfg_scale)
                if labels is not None and in_interval and level.alpha >= _MIN_ALPHA and self._guides():
                    prediction = self.guide(prediction, sample, network_times[i], labels, level)
                latents = self.scheduler.step(prediction, t, latents, **step_options, return_dict=False)[0]

                if callback_on_step_end is not None:
                    available = {"latents": latents, "prediction": prediction}
                    chosen = {name: available[name] for name in callback_on_step_end_tensor_inputs}
                    latents = (callback_on_step_end(self, i, t, chosen) or {}).get("latents", latents)
                if (i + 1) % order == 0 or i + 1 == len(times):
                    progress_bar.update()

        images = self.decode_latents(latents, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def check_inputs(
        self,
        class_labels: Any,
        num_images_per_label: int,
        guidance_scale: Any,
        cfg_scale: float,
        guidance_interval: tuple[float, float],
        num_inference_steps: int,
        timesteps: list[int] | None,
        sigmas: list[float] | None,
        eta: float,
        generator: Any,
        latents: Tensor | None,
        output_type: str,
        callback_on_step_end_tensor_inputs: list[str],
    ) -> None:
        """Refuse what cannot work, before any work; see :meth:`__call__` for the arguments."""
        check_scheduler(self.scheduler, self.config.training_noise)
        _check_count("num_images_per_label", num_images_per_label)
        _check_count("num_inference_steps", num_inference_steps)
        if timesteps is not None and sigmas is not None:
            raise ValueError("timesteps and sigmas were both given; give one of them.")
        for name, value in (("timesteps", timesteps), ("sigmas", sigmas)):
            accepted = inspect.signature(self.scheduler.set_timesteps).parameters
            if value is not None and name not in accepted:
                raise ValueError(f"{type(self.scheduler).__name__} does not take custom {name}; leave it None.")
        labels = None if class_labels is None else resolve_labels(class_labels, self.id2label)
        num_labels = 1 if labels is None else len(labels)
        batch_size = num_labels * num_images_per_label
        scales = _scales(guidance_scale)
        if scales.ndim and scales.shape != (num_labels,):
            raise ValueError(
                f"guidance_scale has {scales.numel()} numbers for {num_labels} labels; give one number, or one a label."
            )
        if not (torch.isfinite(scales).all() and (scales >= 0).all()):
            raise ValueError(f"guidance_scale must be finite and at least 0 (0 is off), got {guidance_scale}.")
        if labels is not None:
            self._check_labels_matter(scales)
        self._check_cfg_scale(cfg_scale, labels)
        low_high = tuple(guidance_interval)
        if len(low_high) != 2 or not 0 <= low_high[0] < low_high[1]:
            raise ValueError(
                f"guidance_interval must be (low, high) with 0 <= low < high, in units of sigma / alpha, "
                f"got {guidance_interval}."
            )
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"eta must be in [0, 1], got {eta}.")
        if isinstance(generator, (list, tuple)) and len(generator) != batch_size:
            raise ValueError(f"generator is a list of {len(generator)}, but {batch_size} samples are drawn.")
        shape = (batch_size, *self.denoiser.config.sample_shape)
        if latents is not None and tuple(latents.shape) != shape:
            raise ValueError(f"latents must have shape {shape}, got {tuple(latents.shape)}.")
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output_type must be 'pil', 'np', 'pt' or 'latent', got {output_type!r}.")
        if output_type != "latent" and self.vae is None and math.prod(shape[1:]) != 28 * 28:
            raise ValueError(
                f"output_type {output_type!r} makes images, but this pipeline has no VAE and samples of shape "
                f"{shape[1:]}; use output_type='latent'."
            )
        for name in callback_on_step_end_tensor_inputs:
            if name not in self._callback_tensor_inputs:
                raise ValueError(
                    f"callback_on_step_end_tensor_inputs: {name!r} is not one of {self._callback_tensor_inputs}."
                )

    def _check_labels_matter(self, scales: Tensor) -> None:
        """A label must not be ignored in silence."""
        conditional = getattr(self.denoiser.config, "num_classes", None) is not None
        if bool((scales > 0).any()) and self.classifier is None:
            raise ValueError(
                "guidance_scale is above 0, but this pipeline has no classifier; load one, or use guidance_scale=0."
            )
        if self.classifier is None and not conditional:
            raise ValueError(
                "class_labels were given, but there is neither a classifier nor a class-conditional denoiser, so they "
                "would have no effect; use class_labels=None, or load a classifier."
            )

    def _check_cfg_scale(self, cfg_scale: float, labels: Tensor | None) -> None:
        if not (isinstance(cfg_scale, (int, float)) and math.isfinite(cfg_scale) and cfg_scale >= 0):
            raise ValueError(f"cfg_scale must be a finite number of at least 0 (1 is off), got {cfg_scale!r}.")
        conditional = getattr(self.denoiser.config, "num_classes", None) is not None
        if cfg_scale != 1.0 and not conditional:
            raise ValueError(
                f"cfg_scale is {cfg_scale}, but the denoiser is not class-conditional; leave cfg_scale at 1, or load a "
                "denoiser that was trained with num_classes."
            )
        if labels is not None and labels.is_floating_point() and conditional and cfg_scale != 0.0:
            raise ValueError(
                "class_labels are distributions, which a class-conditional denoiser cannot take; use cfg_scale=0, so "
                "that the classifier alone guides."
            )

    def prepare_labels(
        self, class_labels: Any, num_images_per_label: int, device: torch.device
    ) -> tuple[Tensor | None, int]:
        """One label a sample, on the device, or None; and the number of samples."""
        if class_labels is None:
            return None, num_images_per_label
        labels = resolve_labels(class_labels, self.id2label).repeat_interleave(num_images_per_label, dim=0)
        return labels.to(device), len(labels)

    def prepare_guidance_scale(
        self, guidance_scale: Any, num_images_per_label: int, labels: Tensor | None, device: torch.device
    ) -> float | Tensor:
        """A float, or one scale a sample (B,)."""
        scales = _scales(guidance_scale)
        if scales.ndim == 0 or labels is None:
            return float(scales.reshape(-1)[0])
        return scales.repeat_interleave(num_images_per_label).to(device)

    def prepare_timesteps(
        self, num_inference_steps: int, timesteps: list[int] | None, sigmas: list[float] | None
    ) -> Tensor:
        """Set the scheduler's timesteps and return them. They stay on the CPU, so no step waits for the device."""
        if timesteps is not None:
            self.scheduler.set_timesteps(timesteps=timesteps, device="cpu")
        elif sigmas is not None:
            self.scheduler.set_timesteps(sigmas=sigmas, device="cpu")
        else:
            self.scheduler.set_timesteps(num_inference_steps, device="cpu")
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(0)
        return self.scheduler.timesteps

    def prepare_latents(
        self, batch_size: int, device: torch.device, generator: Any, latents: Tensor | None = None
    ) -> Tensor:
        """Noise (B, *sample_shape) at the scheduler's first level, in float32 or wider whatever the networks' type."""
        dtype = torch.promote_types(self.denoiser.dtype, torch.float32)
        shape = (batch_size, *self.denoiser.config.sample_shape)
        if latents is None:
            generator = list(generator) if isinstance(generator, tuple) else generator
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        return latents.to(device, dtype) * getattr(self.scheduler, "init_noise_sigma", 1.0)

    def prepare_step_options(self, generator: Any, eta: float) -> dict[str, Any]:
        """Those of ``generator`` and ``eta`` that the scheduler's ``step`` takes."""
        accepted = inspect.signature(self.scheduler.step).parameters
        options = {"generator": generator, "eta": eta}
        return {name: value for name, value in options.items() if name in accepted}

    def scale_model_input(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """What the networks see at this step."""
        if hasattr(self.scheduler, "scale_model_input"):
            return self.scheduler.scale_model_input(latents, timestep)
        return latents

    def predict(self, sample: Tensor, timestep: Tensor, labels: Tensor | None, cfg_scale: float) -> Tensor:
        """The denoiser's output, in the dtype of ``sample``."""
        network_input = sample.to(self.denoiser.dtype)
        return self.denoiser(network_input, timestep, return_dict=False)[0].to(sample.dtype)

    def guide(self, prediction: Tensor, sample: Tensor, timestep: Tensor, labels: Tensor, level: NoiseLevel) -> Tensor:
        """Add the classifier's gradient to the prediction."""
        score = classifier_score(self.classifier, sample.to(self.classifier.dtype), timestep, labels)
        factor = guidance_factor(level.alpha, level.sigma, scheduler_prediction_type(self.scheduler))
        scale = self._guidance_scale
        if isinstance(scale, Tensor):
            scale = scale.to(score).reshape(-1, *(1,) * (score.ndim - 1))
        return guided_prediction(prediction, score.to(prediction.dtype), factor, scale)

    def decode_latents(self, latents: Tensor, output_type: str) -> Any:
        """Samples to images of the wanted type."""
        if output_type == "latent":
            return latents
        if self.vae is None:
            images = latents.reshape(-1, 1, 28, 28)
        else:
            decoded = denormalise(latents, self.vae.config).to(self.vae.dtype).split(_DECODE_BATCH)
            images = torch.cat([self.vae.decode(part, return_dict=False)[0] for part in decoded])
        return self.image_processor.postprocess(images.float(), output_type=output_type)

    def _guides(self) -> bool:
        """Whether the scale asks for guidance; tensors are not read, so no device is waited for."""
        return isinstance(self._guidance_scale, Tensor) or self._guidance_scale > 0


def _class_names(id2label: dict[Any, str] | None, classifier: Any, denoiser: Any) -> dict[int, str]:
    if id2label is not None:
        return {int(index): str(name) for index, name in id2label.items()}
    for network in (classifier, denoiser):
        count = getattr(getattr(network, "config", None), "num_classes", None)
        if count is not None:
            return {index: str(index) for index in range(count)}
    return {}


def _without_clipping(scheduler: Any) -> Any:
    """The scheduler itself, or a copy that leaves latents outside [-1, 1] alone."""
    clips = [name for name in ("clip_sample", "thresholding") if scheduler.config.get(name, False)]
    if not clips:
        return scheduler
    logger.warning(
        "%s came with %s=True, which distorts latents and guidance; it is switched off.",
        type(scheduler).__name__,
        " and ".join(clips),
    )
    return type(scheduler).from_config(scheduler.config, **dict.fromkeys(clips, False))


def _scales(guidance_scale: Any) -> Tensor:
    try:
        return torch.as_tensor(guidance_scale, dtype=torch.float32).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"guidance_scale must be a number or a list of numbers, got {guidance_scale!r}.") from error


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
