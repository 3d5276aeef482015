"""``ClassifierGuidedLatentPipeline``: the life cycle of a sampling call, under any supported diffusers scheduler."""

from __future__ import annotations

import copy
import inspect
import json
import math
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .arguments import (
    check_choice,
    check_class_names,
    check_count,
    check_falling,
    check_number,
    excluded_classes,
    parse_scales,
    resolve_labels,
)
from .clean_guide import CleanClassifierGuide  # noqa: F401 - an export is fetched file by file, those that this file names
from .denoiser import GuidedDenoiser
from .exported import exported_code, is_exported, share_classes
from .guidance import classifier_score  # noqa: F401 - as above
from .latents import denormalise
from .networks import check_space, is_conditional, note_classes, num_classes, sample_shape
from .noise import noise_level
from .particles import Particles, check_particles, guided_course
from .schedulers import (
    build_scheduler,
    check_scheduler,
    check_steps,
    check_taken,
    compatible_schedulers,
    describe_noise,
    trained_range,
)

logger = logging.get_logger(__name__)

_DECODE_BATCH = 250
_DEFAULTS: dict[str, Any] = {
    "guidance_scale": 1.0,
    "cfg_scale": 1.0,
    "guidance_interval": (0.0, math.inf),
    "num_inference_steps": 25,
}
_PIPELINE_OF: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
"""By denoiser, the pipeline that it was put into last, by a weak reference."""


class ClassifierGuidedLatentPipeline(DiffusionPipeline):
    """Class-conditional sampling by classifier guidance, in the latent space of a VAE or in the denoiser's own space.

    At every step the gradient of a noise-aware classifier is added to the denoiser's prediction (``guidance.py`` has
    the rule and its source); the scheduler does the rest and may be swapped without retraining.

    Args:
        vae: autoencoder of this package, ``AutoencoderKL`` or ``AutoencoderTiny`` (``latents.py`` says how latents are
            scaled); None to sample in the denoiser's own space (pixels, 2-D points).
        denoiser: one of this package, a ``UNet2DModel`` or a ``DiTTransformer2DModel`` (``networks.py``).
        classifier: ``forward(sample, timestep)`` giving logits; None where ``guidance_scale`` is 0.
        scheduler: a supported diffusers scheduler. ``clip_sample`` and ``thresholding`` are switched off.
        weak_denoiser: a denoiser of lower quality for autoguidance, or None.
        id2label: class index to class name; ``{0: "0", 1: "1", ...}`` if None.
        training_noise: the noise schedule that the networks were trained on; that of ``scheduler`` if None. A scheduler
            with another one is refused.
        sampling_defaults: ``guidance_scale``, ``cfg_scale``, ``guidance_interval`` and ``num_inference_steps`` that a
            call uses where its arguments are None.

    Of the last three, None takes what the last pipeline of this denoiser had, if there was one: ``(**pipe.components)``
    makes an equal pipeline.

    Raises:
        TypeError: ``classifier`` is a denoiser.
        ValueError: the scheduler is not supported, or a name of ``sampling_defaults`` is unknown.
    """

    model_cpu_offload_seq = "denoiser->vae"
    _optional_components = ["vae", "classifier", "weak_denoiser"]
    _callback_tensor_inputs = ["latents", "prediction"]

    vae: Any
    denoiser: Any
    classifier: Any
    scheduler: Any
    weak_denoiser: Any
    _guidance_scale: float | Tensor
    _num_timesteps: int
    _interrupt: bool

    def __init__(
        self,
        vae: Any | None,
        denoiser: torch.nn.Module,
        classifier: Any | None,
        scheduler: SchedulerMixin,
        weak_denoiser: Any | None = None,
        id2label: dict[Any, str] | None = None,
        training_noise: dict[str, Any] | None = None,
        sampling_defaults: dict[str, Any] | None = None,
    ):
        super().__init__()
        if classifier is not None and "class_labels" in inspect.signature(classifier.forward).parameters:
            raise TypeError(
                f"classifier is a {type(classifier).__name__}, which takes class_labels as a denoiser does; the order "
                "is vae, denoiser, classifier, scheduler."
            )
        scheduler = _without_clipping(scheduler)
        self.register_modules(
            vae=vae, denoiser=denoiser, classifier=classifier, scheduler=scheduler, weak_denoiser=weak_denoiser
        )
        earlier = self._settings_of_the_same_parts()
        id2label = earlier.get("id2label") if id2label is None else id2label
        training_noise = training_noise or earlier.get("training_noise") or describe_noise(scheduler)
        sampling_defaults = earlier.get("sampling_defaults") if sampling_defaults is None else sampling_defaults
        names = _class_names(id2label, classifier, denoiser)
        note_classes(denoiser, len(names))
        self.register_to_config(
            id2label={str(index): name for index, name in names.items()},
            training_noise=dict(training_noise),
            sampling_defaults=_flat_defaults(sampling_defaults or {}, scheduler),
        )
        self.image_processor = VaeImageProcessor(do_resize=False)
        if isinstance(denoiser, torch.nn.Module):
            _PIPELINE_OF[denoiser] = weakref.ref(self)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *arguments: Any, **options: Any) -> None:
        """As in ``DiffusionPipeline``; an exported pipeline takes its code along."""
        sources, entries = exported_code(self) if is_exported(self) else ({}, {})
        super().save_pretrained(save_directory, *arguments, **options)
        for name, source in sources.items():
            Path(save_directory, name).write_text(source, encoding="utf-8")
        if entries:
            index = Path(save_directory, "model_index.json")
            named = {**json.loads(index.read_text(encoding="utf-8")), **entries}
            index.write_text(json.dumps(named, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            Path(save_directory, "manifest.json").unlink(missing_ok=True)  # of what was there before

    def __reduce_ex__(self, protocol: Any) -> Any:
        share_classes(self)
        return object.__reduce_ex__(self, protocol)

    def _settings_of_the_same_parts(self) -> dict[str, Any]:
        """Those of a living pipeline with these very components: ``Pipeline(**pipe.components)`` is its equal."""
        last = _PIPELINE_OF.get(self.denoiser, lambda: None)() if isinstance(self.denoiser, torch.nn.Module) else None
        same = last is not None and all(part is last.components[name] for name, part in self.components.items())
        return dict(last.config) if last is not None and same else {}

    @property
    def id2label(self) -> dict[int, str]:
        """Class index to class name."""
        return {int(index): name for index, name in self.config.id2label.items()}

    @property
    def guidance_scale(self) -> float | Tensor:
        """Guidance scale of the call in progress, a float or a tensor (B,); a callback may set ``_guidance_scale``."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Length of the sampling loop of the call in progress, or of the last one."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Set ``_interrupt`` to True in a callback to skip the remaining steps."""
        return self._interrupt

    @property
    def compatible_schedulers(self) -> list[type]:
        """The diffusers scheduler classes that can run these networks; :meth:`make_scheduler` builds one."""
        return compatible_schedulers(dict(self.config.training_noise))

    def make_scheduler(self, scheduler_class: type | str, **options: Any) -> Any:
        """A scheduler of another class that fits these networks: same noise schedule, same prediction type.

        Args:
            scheduler_class: one of :attr:`compatible_schedulers`, or its name.
            options: further settings of the class.

        Example::

            pipe.scheduler = pipe.make_scheduler(EulerDiscreteScheduler, use_karras_sigmas=True)
        """
        return build_scheduler(scheduler_class, dict(self.config.training_noise), **options)

    @property
    def sampling_defaults(self) -> dict[str, Any]:
        """What a call uses where its arguments are None; without class labels ``guidance_scale`` is then 0.

        ``guidance_scale``, ``cfg_scale``, ``guidance_interval`` and ``num_inference_steps``: those of
        ``config.sampling_defaults``, else 1 (0 without a classifier), 1, every level and 25.
        """
        defaults = {**_DEFAULTS, **self.config.sampling_defaults}
        defaults["guidance_interval"] = tuple(defaults["guidance_interval"])
        return defaults if self.classifier is not None else {**defaults, "guidance_scale": 0.0, "cfg_scale": 1.0}

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Any = None,
        num_images_per_label: int = 1,
        guidance_scale: float | Sequence[float] | Tensor | None = None,
        cfg_scale: float | None = None,
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
        *,
        negative_class_labels: Any = None,
        classifier_temperature: float = 1.0,
        guidance_rescale: float = 0.0,
        autoguidance_scale: float = 1.0,
        num_particles: int = 1,
    ) -> Any:
        """Draw samples.

        Args:
            class_labels: an index, a name of ``id2label``, a list of either, or a 1-D integer tensor. A row of a
                float tensor (L, num_classes) is a label that is one of several. None draws unconditional samples.
            num_images_per_label: samples per label (or in all, without labels).
            guidance_scale: s >= 0, one number or one per label. 0 is off, 1 is Bayes' rule, more trades diversity
                for agreement with the classifier. None takes that of :attr:`sampling_defaults`.
            cfg_scale: classifier-free weight for a class-conditional denoiser; 1 uses its conditional prediction as it
                is, 0 its unconditional one. None as for ``guidance_scale``.
            guidance_interval: guide only where ``low < sigma / alpha <= high``. None as for ``guidance_scale``.
            num_inference_steps: steps of the scheduler. None as for ``guidance_scale``.
            timesteps: custom timesteps, for schedulers that take them.
            sigmas: custom sigmas, for schedulers that take them.
            eta: stochasticity of DDIM, in [0, 1]; schedulers without it ignore it.
            generator: one generator, or one per sample: then a sample does not depend on its batch.
            latents: standard Gaussian noise (B, *sample_shape) to start from.
            output_type: ``"pil"`` (mode L or RGB), ``"np"`` (B, H, W, C) or ``"pt"`` (B, C, H, W) in [0, 1], or
                ``"latent"`` (B, *sample_shape), what the denoiser sees.
            return_dict: return an ``ImagePipelineOutput`` rather than a tuple.
            callback_on_step_end: called as ``callback(pipe, step, timestep, tensors)`` after every step, with a
                pipeline that belongs to this call alone, and its scheduler; the ``latents`` that it returns replace the
                sample.
            callback_on_step_end_tensor_inputs: which tensors the callback gets, of ``_callback_tensor_inputs``.
            negative_class_labels: in place of ``class_labels``: any class but these, one row per label.
            classifier_temperature: divides the classifier's logits, positive; it calibrates, the scale guides.
            guidance_rescale: 0 to 1, how far the spread of guided predictions is brought back.
            autoguidance_scale: weight of ``denoiser`` against ``weak_denoiser``; 1 is off.
            num_particles: K, draws each sample as one of K weighted particles, which makes guidance exact at any scale
                (``particles.py``), at K times the work; 1 is off. ``latents`` are then (B K, *sample_shape), and so
                are those of a callback. DDPM, Euler ancestral and first-order SDE-DPM-Solver++ can do it.

        Returns:
            Samples in label order, ``num_images_per_label`` of each label in turn, as ``.images`` of an
            ``ImagePipelineOutput``, or as the only entry of a tuple.

        Raises:
            TypeError: an argument of the wrong kind.
            ValueError: an argument that does not fit; the message names it, its value, and what would do.
        """
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        if callback_on_step_end is not None and not callable(callback_on_step_end):
            raise TypeError(f"callback_on_step_end must be a function or None, got {callback_on_step_end!r}.")
        defaults = self.sampling_defaults
        if guidance_interval is None:
            guidance_interval = defaults["guidance_interval"]
        if cfg_scale is None:
            cfg_scale = defaults["cfg_scale"]
        if num_inference_steps is None:
            num_inference_steps = defaults["num_inference_steps"]
        if guidance_scale is None:
            labelled = class_labels is not None or negative_class_labels is not None
            if labelled and self.classifier is None and not self.denoiser_is_conditional:
                raise ValueError(
                    "class_labels were given, but there is neither a classifier nor a class-conditional denoiser, so "
                    "they would have no effect; use class_labels=None or guidance_scale=0, or load a classifier."
                )
            guidance_scale = defaults["guidance_scale"] if labelled else 0.0
        num_images_per_label = check_count("num_images_per_label", num_images_per_label)
        num_inference_steps = check_count("num_inference_steps", num_inference_steps)
        num_particles = check_count("num_particles", num_particles)
        eta = check_number("eta", eta, 0.0, 1.0)
        generator = list(generator) if isinstance(generator, tuple) else generator
        self.check_inputs(
            num_inference_steps, timesteps, sigmas, generator, output_type, callback_on_step_end_tensor_inputs
        )
        rows_per_label = num_images_per_label * num_particles  # a sample's particles are neighbours
        device = self._execution_device
        labels = self.prepare_labels(class_labels, negative_class_labels, rows_per_label, device)
        scales = self.prepare_guidance_scale(guidance_scale, rows_per_label, labels, device)
        batch_size = rows_per_label if labels is None else len(labels)
        self.check_sizes(batch_size, generator, latents, output_type, num_particles)
        if num_particles > 1:
            check_particles(self.scheduler, labels, cfg_scale, guidance_rescale, autoguidance_scale)

        call = self._of_one_call()
        times = call.prepare_timesteps(num_inference_steps, timesteps, sigmas)
        particles = None
        if num_particles > 1:
            label_given = cfg_scale > 0.0 and self.denoiser_is_conditional
            base = 0.0 if label_given or classifier_temperature != 1.0 else 1.0
            course = guided_course(call.scheduler, guidance_interval)
            particles = Particles(batch_size // num_particles, num_particles, base, generator, *course)
            if isinstance(generator, list):
                generator = [each for each in generator for _ in range(num_particles)]
        guided = GuidedDenoiser(
            self.denoiser,
            self.classifier,
            call.scheduler,
            labels,
            scales,
            guidance_interval,
            cfg_scale=cfg_scale,
            classifier_temperature=classifier_temperature,
            guidance_rescale=guidance_rescale,
            weak_denoiser=self.weak_denoiser,
            autoguidance_scale=autoguidance_scale,
            particles=particles,
            training_noise=dict(self.config.training_noise),
        )
        call._guidance_scale = guided.guidance_scale
        latents = call.prepare_latents(batch_size, device, generator, latents)
        step_options = call.prepare_step_options(generator, eta)
        next_times = (
            [*times[1:], None] if "prev_timestep" in inspect.signature(call.scheduler.step).parameters else None
        )

        call._num_timesteps = len(times)
        order = getattr(call.scheduler, "order", 1)
        network_times = times.to(device)
        with self.progress_bar(total=math.ceil(len(times) / order)) as progress_bar:
            for i, t in enumerate(times):
                if call._interrupt:
                    continue
                guided.guidance_scale = call._guidance_scale  # which a callback may have changed
                prediction = guided(call.scale_model_input(latents, t), network_times[i], return_dict=False)[0]
                if particles is not None:
                    latents = particles.taken(latents)
                if next_times is not None:
                    step_options["prev_timestep"] = next_times[i]
                latents = call.scheduler.step(prediction, t, latents, **step_options, return_dict=False)[0]

                if callback_on_step_end is not None:
                    available = {"latents": latents, "prediction": prediction}
                    chosen = {name: available[name] for name in callback_on_step_end_tensor_inputs}
                    latents = self._returned(callback_on_step_end(call, i, t, chosen), latents)
                if (i + 1) % order == 0 or i + 1 == len(times):
                    progress_bar.update()

        if particles is not None:
            latents = particles.picked(latents)
        if not bool(latents.isfinite().all()):
            raise ValueError(
                f"The samples overflowed under {type(self.scheduler).__name__} in {len(times)} steps at guidance_scale "
                f"{guidance_scale} and cfg_scale {cfg_scale}: there are no images. Take more steps, lower scales, a "
                "wider type, or latents that are standard Gaussian noise."
            )
        self._guidance_scale, self._num_timesteps = call._guidance_scale, call._num_timesteps
        images = self.decode_latents(latents, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _of_one_call(self) -> ClassifierGuidedLatentPipeline:
        """This pipeline with a scheduler and a state of its own, so that calls in several threads do not meet."""
        call = copy.copy(self)
        call.__dict__["scheduler"] = copy.deepcopy(self.scheduler)  # not registered: the config names the same class
        call._interrupt = False
        return call

    def check_inputs(
        self,
        num_inference_steps: int,
        timesteps: list[int] | None,
        sigmas: list[float] | None,
        generator: Any,
        output_type: str,
        callback_on_step_end_tensor_inputs: list[str],
    ) -> None:
        """Refuse what cannot work, before any work; see :meth:`__call__` for the arguments."""
        check_scheduler(self.scheduler, dict(self.config.training_noise))
        check_choice("output_type", output_type, ("pil", "np", "pt", "latent"))
        if timesteps is not None and sigmas is not None:
            raise ValueError("timesteps and sigmas were both given; give one of them.")
        accepted = set(inspect.signature(self.scheduler.set_timesteps).parameters)
        if self.scheduler.config.get("use_flow_sigmas", False):  # with which those that take timesteps do not read them
            accepted -= {"timesteps"}
        for name, value in (("timesteps", timesteps), ("sigmas", sigmas)):
            if value is None:
                continue
            if name not in accepted:
                raise ValueError(f"{type(self.scheduler).__name__} does not take custom {name}; leave it None.")
            low, high = trained_range(self.scheduler, name)
            numbers = check_falling(name, value, low, high)
            if name == "sigmas" and low == 0.0 and (numbers[-1] or numbers == [0.0]):
                raise ValueError(
                    f"sigmas must lead to 0 under {type(self.scheduler).__name__}, which leaves the noise of the last "
                    f"one in the samples, got {value!r}."
                )
        if timesteps is None and sigmas is None:
            check_steps(self.scheduler, num_inference_steps)
        generators = generator if isinstance(generator, list) else [generator]
        if generator is not None and not all(isinstance(entry, torch.Generator) for entry in generators):
            raise TypeError(f"generator must be a torch.Generator or a list of them, got {generator!r}.")
        if not isinstance(callback_on_step_end_tensor_inputs, (list, tuple)):
            raise TypeError(
                "callback_on_step_end_tensor_inputs must be a list of names such as 'latents', "
                f"got {callback_on_step_end_tensor_inputs!r}."
            )
        for name in callback_on_step_end_tensor_inputs:
            check_choice("callback_on_step_end_tensor_inputs", name, tuple(self._callback_tensor_inputs))

    @staticmethod
    def _returned(answer: Any, latents: Tensor) -> Tensor:
        """The latents that a callback gives back, or those there are where it gives none."""
        if answer is not None and not isinstance(answer, Mapping):
            raise TypeError(f"callback_on_step_end must return a dict of tensors or None, it returned {answer!r}.")
        returned = (answer or {}).get("latents", latents)
        if not isinstance(returned, Tensor) or returned.shape != latents.shape:
            shape = tuple(returned.shape) if isinstance(returned, Tensor) else returned
            raise ValueError(
                f"callback_on_step_end must leave the latents of shape {tuple(latents.shape)}, it returned {shape!r}."
            )
        return returned

    def check_sizes(
        self, batch_size: int, generator: Any, latents: Tensor | None, output_type: str, num_particles: int = 1
    ) -> None:
        """One generator per sample, latents of the samples' shape, and images only where samples are images."""
        check_space("vae", self.vae, self.denoiser)
        num_samples = batch_size // num_particles
        if isinstance(generator, list) and len(generator) != num_samples:
            raise ValueError(f"generator is a list of {len(generator)}, but {num_samples} samples are drawn.")
        shape = (batch_size, *sample_shape(self.denoiser))
        if latents is not None and not isinstance(latents, Tensor):
            raise TypeError(f"latents must be a tensor of shape {shape}, got {type(latents).__name__}.")
        if latents is not None and tuple(latents.shape) != shape:
            raise ValueError(f"latents must have shape {shape}, got {tuple(latents.shape)}.")
        if latents is not None:
            usable = latents.is_floating_point() and latents.layout == torch.strided and not latents.is_meta
            if not usable or not bool(latents.isfinite().all()):
                raise ValueError(
                    f"latents must be finite floating-point noise, got {latents.dtype}"
                    + (" with NaN or infinity." if usable else f", {latents.layout} on {latents.device}.")
                )
        if output_type != "latent" and self.vae is None and _image_shape(shape[1:]) is None:
            raise ValueError(
                f"output_type {output_type!r} makes images, but this pipeline has no VAE and samples of shape "
                f"{shape[1:]}; use output_type='latent'."
            )

    @property
    def denoiser_is_conditional(self) -> bool:
        """Whether the denoiser takes class labels."""
        return is_conditional(self.denoiser)

    def prepare_labels(
        self, class_labels: Any, negative_class_labels: Any, num_images_per_label: int, device: torch.device
    ) -> Tensor | None:
        """One label per sample on the device, int64 (B,) or class weights (B, num_classes); None without labels."""
        if class_labels is not None and negative_class_labels is not None:
            raise ValueError("class_labels and negative_class_labels were both given; give one of them.")
        if class_labels is not None:
            labels = resolve_labels(class_labels, self.id2label)
        elif negative_class_labels is not None:
            unwanted = resolve_labels(negative_class_labels, self.id2label, "negative_class_labels")
            labels = excluded_classes(unwanted, len(self.id2label))
        else:
            return None
        return labels.repeat_interleave(num_images_per_label, dim=0).to(device)

    def prepare_guidance_scale(
        self, guidance_scale: Any, num_images_per_label: int, labels: Tensor | None, device: torch.device
    ) -> float | Tensor:
        """A float, or one scale per sample (B,)."""
        num_labels = 1 if labels is None else len(labels) // num_images_per_label
        scales = parse_scales("guidance_scale", guidance_scale, num_labels)
        if scales.ndim == 0 or labels is None:
            return float(scales.reshape(-1)[0])
        return scales.repeat_interleave(num_images_per_label).to(device)

    def prepare_timesteps(
        self, num_inference_steps: int, timesteps: list[int] | None, sigmas: list[float] | None
    ) -> Tensor:
        """Set the scheduler's timesteps and return them. They stay on the CPU, so no step waits for the device."""
        if timesteps is not None:
            self.scheduler.set_timesteps(timesteps=timesteps, device="cpu")
            check_taken(self.scheduler, timesteps)
        elif sigmas is not None:
            self.scheduler.set_timesteps(sigmas=torch.as_tensor(sigmas).numpy(), device="cpu")
        else:
            self.scheduler.set_timesteps(num_inference_steps, device="cpu")
        first, highest = self.scheduler.timesteps.max(), self.scheduler.config.num_train_timesteps - 1
        if first > highest and self.scheduler.config.get("steps_offset", 0):
            raise ValueError(
                f"num_inference_steps {num_inference_steps} and the scheduler's steps_offset lead to timestep "
                f"{first:g}, and networks were trained up to {highest:g}; take fewer steps, or steps_offset=0."
            )
        if timesteps is None and sigmas is None and num_inference_steps > highest / 2 and first < 0.7 * highest:
            raise ValueError(
                f"num_inference_steps {num_inference_steps} with the scheduler's timestep_spacing 'leading' begins at "
                f"timestep {first:g} of {highest:g}, far from noise, as its steps are one timestep long; take at most "
                f"{(highest + 1) // 2}, or timestep_spacing='trailing'."
            )
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(0)
        return self.scheduler.timesteps

    def prepare_latents(
        self, batch_size: int, device: torch.device, generator: Any, latents: Tensor | None = None
    ) -> Tensor:
        """Noise (B, *sample_shape) at the scheduler's first level, in float32 or wider whatever the networks' type."""
        dtype = torch.promote_types(self.denoiser.dtype, torch.float32)
        shape = (batch_size, *sample_shape(self.denoiser))
        if latents is None:
            first = self.scheduler.timesteps[0]
            ratio = noise_level(self.scheduler, 0, first).ratio
            if ratio < 1.0 and first < trained_range(self.scheduler, "timesteps")[1]:  # it could begin higher
                raise ValueError(
                    f"{type(self.scheduler).__name__} would start from noise at timestep {first:g}, where samples are "
                    f"more signal than noise (sigma / alpha is {ratio:.2g}). Take more of num_inference_steps, "
                    "timestep_spacing='trailing', or timesteps or sigmas that begin higher."
                )
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        return latents.to(device, dtype) * getattr(self.scheduler, "init_noise_sigma", 1.0)

    def prepare_step_options(self, generator: Any, eta: float) -> dict[str, Any]:
        """Those of ``generator`` and ``eta`` that the scheduler's ``step`` takes.

        A scheduler that draws its noise from seeds (DPM-Solver SDE) gets them from the generators, unless it has one.
        """
        if generator is not None and getattr(self.scheduler, "noise_sampler_seed", 0) is None:
            several = isinstance(generator, list)
            sources = generator if several else [generator]
            seeds = [int(torch.randint(2**62, (), generator=source, device=source.device)) for source in sources]
            self.scheduler.noise_sampler_seed = seeds if several else seeds[0]
        accepted = inspect.signature(self.scheduler.step).parameters
        options = {"generator": generator, "eta": eta}
        return {name: value for name, value in options.items() if name in accepted}

    def scale_model_input(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """What the networks see at this step."""
        if hasattr(self.scheduler, "scale_model_input"):
            return self.scheduler.scale_model_input(latents, timestep)
        return latents

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """The shape (channels, height, width) of its images; None where its samples are no images."""
        shape = sample_shape(self.denoiser)
        if self.vae is None:
            return _image_shape(shape)
        with torch.no_grad():
            sample = torch.zeros(1, *shape, device=self.vae.device, dtype=self.vae.dtype)
            return tuple(self.vae.decode(sample, return_dict=False)[0].shape[1:])

    def decode_latents(self, latents: Tensor, output_type: str) -> Any:
        """Samples to images of the wanted type."""
        if output_type == "latent":
            return latents
        if self.vae is None:
            images = latents
        else:
            decoded = denormalise(latents, self.vae.config).to(self.vae.dtype).split(_DECODE_BATCH)
            images = torch.cat([self.vae.decode(part, return_dict=False)[0] for part in decoded])
            if not bool(images.isfinite().all()):
                raise ValueError(
                    f"The images overflowed in the VAE, which computes in {self.vae.dtype}: there are none. Give it a "
                    "wider type, as in pipe.vae.to(torch.float32)."
                )
        return self.image_processor.postprocess(images.float(), output_type=output_type)


def _image_shape(sample_shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Samples as images (channels, height, width), where they are any."""
    return sample_shape if len(sample_shape) == 3 and sample_shape[0] in (1, 3) else None


def _class_names(id2label: dict[Any, str] | None, classifier: Any, denoiser: Any) -> dict[int, str]:
    if id2label is not None:
        names = {int(index): str(name) for index, name in id2label.items()}
        check_class_names(names)
        return names
    for network in (classifier, denoiser):
        count = num_classes(network)
        if count is not None:
            return {index: str(index) for index in range(count)}
    return {}


def _flat_defaults(defaults: dict[str, Any], scheduler: Any) -> dict[str, Any]:
    """Sampling defaults of one level, as JSON; earlier versions kept some for single schedulers and for one use."""
    flat = {name: value for name, value in defaults.items() if name not in ("schedulers", "classifier_alone")}
    flat |= defaults.get("schedulers", {}).get(type(scheduler).__name__, {})
    for name in flat:
        check_choice("a name in sampling_defaults", name, tuple(_DEFAULTS))
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in flat.items()}


def _without_clipping(scheduler: Any) -> Any:
    """The scheduler itself, or a copy that leaves latents outside [-1, 1] alone."""
    config = getattr(scheduler, "config", {})
    clips = [name for name in ("clip_sample", "thresholding") if config.get(name, False)]
    if not clips:
        return scheduler
    logger.warning(
        "%s came with %s=True, which distorts latents and guidance; it is switched off.",
        type(scheduler).__name__,
        " and ".join(clips),
    )
    return type(scheduler).from_config(scheduler.config, **dict.fromkeys(clips, False))
