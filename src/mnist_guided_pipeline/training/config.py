"""Settings of the training scripts: dataclasses that are the command line, the presets and ``train_config.json``.

Flag names follow diffusers' training scripts; ``--train_batch_size`` and ``--train-batch-size`` are alike. The bounds
of a setting stand beside it, and ``check`` refuses what is outside of them or contradicts itself, before any work.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_type_hints

import torch

from ..data import DEFAULT_DATASET
from ..data.points import check_point_set, is_point_set
from ..storage.places import find_folder
from .checkpoints import checkpoint_folders

Config = TypeVar("Config", bound="TrainingConfig")

_RETIRED: dict[str, float | None] = {"network": None, "network_config": None, "kl_warmup_steps": 0}
_RETIRED |= {"max_rotation": 15.0, "max_shear": 0.2, "max_scaling": 0.15, "max_shift": 2.0}
_RETIRED |= {"adam_epsilon": 1e-8, "logging_dir": None}
"""Settings in the files of earlier runs, of scripts without them, and the value they have now; None for any."""


@dataclass(frozen=True)
class Bound:
    """What a setting must be, unless it is None; stands in the ``Annotated`` type of its field."""

    wanted: str
    holds: Callable[[Any], bool]


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        return False


POSITIVE = Bound("be positive", lambda value: value > 0)
NOT_NEGATIVE = Bound("not be negative", lambda value: value >= 0)
AT_LEAST_2 = Bound("be at least 2", lambda value: value >= 2)
SMALL_SIDE = Bound("be from 8 to 64", lambda value: 8 <= value <= 64)
SHARE = Bound("be in [0, 1)", lambda value: 0 <= value < 1)
JSON_OBJECT = Bound("be a JSON object such as '{\"hidden_size\": 256}'", _is_json_object)


@dataclass
class CommonConfig:
    """What every run takes, of one network or of a whole pipeline."""

    output_dir: str
    """Folder for the result, its checkpoints and logs."""
    dataset_config_name: str | None = None
    """Configuration of the data set, where it has several."""
    resolution: Annotated[int | None, SMALL_SIDE] = None
    """Resize images to this height and width; None leaves them as they are."""
    image_column: str = "image"
    """Column of the images."""
    label_column: str = "label"
    """Column of the classes."""
    cache_dir: str | None = None
    """Where data sets are cached."""
    max_train_samples: Annotated[int | None, POSITIVE] = None
    """Train on the first this many images."""
    max_eval_samples: Annotated[int | None, POSITIVE] = None
    """Validate on the first this many images of the test split."""
    seed: int = 0
    """Seed of the initial weights, the order of the data and all noise."""
    checkpointing_steps: Annotated[int | None, POSITIVE] = None
    """Updates between checkpoints; None for none but the result."""
    checkpoints_total_limit: Annotated[int | None, POSITIVE] = 2
    """Newest checkpoints that are kept; None for all."""
    report_to: Literal["tensorboard", "wandb", "trackio", "all", "none"] = "none"
    """Tracker of scalars and images; the scalars are in history.jsonl in any case."""
    push_to_hub: bool = False
    """Upload the result to the Hugging Face Hub; the repository is made before the training starts."""
    hub_model_id: str | None = None
    """Hub id such as user/name; the name of output_dir if None."""
    hub_private_repo: bool = False
    """Make a new repository private."""
    force: bool = False
    """Replace the finished result that is in output_dir."""
    dry_run: bool = False
    """Print the resolved settings, make some updates to measure time and memory, print these, and write nothing."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if hasattr(value, "tolist"):  # a number of NumPy, which JSON cannot hold
                setattr(self, name, value.tolist())

    def check(self) -> None:
        """Refuse settings that are out of bounds or contradict themselves.

        Raises:
            ValueError: naming the setting, its value and what would do.
        """
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            for bound in getattr(hint, "__metadata__", ()):
                value = getattr(self, name)
                if isinstance(bound, Bound) and value is not None and not bound.holds(value):
                    raise ValueError(f"{name} must {bound.wanted}, got {value!r}.")
        self._check_together()

    def _check_together(self) -> None:
        """Refuse values that are in bounds and contradict one another, or the machine."""


@dataclass
class TrainingConfig(CommonConfig):
    """What every script that trains one network takes."""

    trains_on_points: ClassVar[bool] = False

    dataset_name: str = DEFAULT_DATASET
    """Hub id, or a folder with the same parquet files; for points in the plane, a name such as points:dino."""
    train_batch_size: Annotated[int, POSITIVE] = 128
    """Images a process takes at a time."""
    gradient_accumulation_steps: Annotated[int, POSITIVE] = 1
    """Batches that make one update."""
    num_train_epochs: Annotated[int, POSITIVE] = 20
    """Passes over the training set."""
    max_train_steps: Annotated[int | None, POSITIVE] = None
    """Updates in all; takes the place of num_train_epochs."""
    learning_rate: Annotated[float, POSITIVE] = 1e-3
    """Peak learning rate."""
    lr_scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """Shape of the learning rate over the updates; constant has no warm-up."""
    lr_warmup_steps: Annotated[int, NOT_NEGATIVE] = 100
    """Updates over which the learning rate rises from zero; where left out, no more than there are."""
    adam_beta1: Annotated[float, SHARE] = 0.9
    """Decay of AdamW's first moment."""
    adam_beta2: Annotated[float, SHARE] = 0.99
    """Decay of AdamW's second moment."""
    adam_weight_decay: Annotated[float, NOT_NEGATIVE] = 0.0
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float | None, POSITIVE] = 1.0
    """Gradients are scaled down to this norm; None leaves them as they are."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Compute type of the forward and backward pass."""
    use_ema: bool = True
    """Keep and save an exponential moving average of the weights."""
    ema_decay: Annotated[float, SHARE] = 0.999
    """Largest decay of the average; it warms up to it."""
    resume_from_checkpoint: str | None = None
    """'latest', or the path of a checkpoint."""
    validation_steps: Annotated[int | None, POSITIVE] = None
    """Updates between validations; None for one an epoch."""
    tracker_project_name: str = "mnist-guided"
    """Project name at the tracker."""

    def _check_together(self) -> None:
        super()._check_together()
        if is_point_set(self.dataset_name):
            if not self.trains_on_points:
                raise ValueError(
                    f"dataset_name {self.dataset_name!r} is one of points in the plane, but this network is for "
                    "images; give a Hub id such as 'ylecun/mnist', or a folder with the same parquet files."
                )
            check_point_set(self.dataset_name)
            if self.resolution is not None:
                raise ValueError(
                    f"resolution {self.resolution} is for images; dataset_name {self.dataset_name!r} has none."
                )
        if self.resume_from_checkpoint not in (None, "latest") and not os.path.isdir(self.resume_from_checkpoint):
            raise ValueError(
                f"resume_from_checkpoint {self.resume_from_checkpoint!r} is not a folder; "
                "give the path of a checkpoint, or 'latest'."
            )
        if not self.dry_run and self.resume_from_checkpoint in (None, "latest"):
            self._check_output_dir()
        if self.max_train_steps is not None:
            self.warmup_updates(self.max_train_steps)
        package = self.report_to
        if package not in ("all", "none") and importlib.util.find_spec(package) is None:
            fix = "'mnist-guided-pipeline[training]'" if package == "tensorboard" else package
            raise ValueError(f"report_to {package!r} needs the package {package}: pip install {fix}, or leave it out.")
        on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
        if self.mixed_precision == "fp16" and (on_cpu or not torch.accelerator.is_available()):
            raise ValueError("mixed_precision 'fp16' needs a GPU, and this runs on the CPU; give 'bf16' or 'no'.")

    def _check_output_dir(self) -> None:
        """Refuse to write over an earlier run."""
        if found := checkpoint_folders(self.output_dir):
            if self.resume_from_checkpoint:
                return
            raise ValueError(
                f"output_dir {self.output_dir!r} holds {found[-1].name} of an earlier run. Go on from it with "
                "--resume_from_checkpoint latest, remove it, or choose another output_dir."
            )
        results = [name for name in ("model_index.json", "config.json") if Path(self.output_dir, name).exists()]
        if results and not self.force:
            raise ValueError(
                f"output_dir {self.output_dir!r} holds the {results[0]} of a finished result. Choose another "
                "output_dir, or replace it with --force."
            )

    def total_updates(self, updates_per_epoch: int) -> int:
        """Updates of the whole run."""
        return self.max_train_steps or self.num_train_epochs * updates_per_epoch

    def warmup_updates(self, total_updates: int) -> int:
        """Updates over which the learning rate rises, in a run of ``total_updates``.

        More than the run has, where they were asked for, are a ValueError.
        """
        default = next(field.default for field in dataclasses.fields(self) if field.name == "lr_warmup_steps")
        if self.lr_warmup_steps > total_updates and self.lr_warmup_steps != default:
            raise ValueError(
                f"lr_warmup_steps {self.lr_warmup_steps} is more than the run has, {total_updates} updates: the "
                f"learning rate would never reach learning_rate {self.learning_rate:g}."
            )
        return min(self.lr_warmup_steps, total_updates)

    def to_json(self) -> str:
        """The settings as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls: type[Config], text: str) -> Config:
        """The inverse of :meth:`to_json`; unknown settings are an error."""
        settings = dict(json.loads(text))
        for name in _RETIRED.keys() - {field.name for field in dataclasses.fields(cls)}:
            if _RETIRED[name] in (None, settings.get(name)):
                settings.pop(name, None)
        return cls(**settings)


@dataclass
class NetworkConfig(TrainingConfig):
    """What the scripts share that make a network; its class is their setting ``network`` where there is a choice."""

    network_config: Annotated[str, JSON_OBJECT] = "{}"
    """Its constructor's arguments, as a JSON object; what the data decide is filled in."""

    @property
    def network_arguments(self) -> dict[str, Any]:
        """The parsed ``network_config``."""
        return json.loads(self.network_config)


@dataclass
class NewNetworkConfig(NetworkConfig):
    """What those share that may start from the weights of another."""

    init_from: str | None = None
    """Folder or Hub id of a network, or of a pipeline that has it: start from its weights, with a new optimizer and
    learning-rate schedule. What network_config leaves out is as it is there."""

    def _check_together(self) -> None:
        super()._check_together()
        if self.init_from is not None:
            find_folder(self.init_from, "init_from")


@dataclass
class VAEConfig(NewNetworkConfig):
    """Settings of ``train_vae.py``."""

    network: Literal["MLPVAE", "ConvVAE"] = "ConvVAE"
    """Class of the autoencoder."""
    reconstruction: Literal["bce", "mse"] = "bce"
    """Reconstruction term, summed over pixels."""
    kl_weight: Annotated[float | None, NOT_NEGATIVE] = None
    """Weight of the KL term, summed over dimensions; 1 if left out. A plain autoencoder has no such term."""

    def _check_together(self) -> None:
        super()._check_together()
        if self.kl_weight is not None and not self.network_arguments.get("variational", True):
            raise ValueError(
                f"kl_weight {self.kl_weight} contradicts network_config {self.network_config!r}: an autoencoder that "
                "is not variational has no KL term. Leave out kl_weight, or variational."
            )


@dataclass
class AdversarialConfig(TrainingConfig):
    """What the scripts with a discriminator share; the optimizer's settings are those of both networks."""

    discriminator_config: Annotated[str, JSON_OBJECT] = "{}"
    """Arguments of GANDiscriminator, as a JSON object; its num_classes are filled in."""
    r1_gamma: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of the R1 penalty; 0 for none."""
    train_batch_size: Annotated[int, POSITIVE] = 64
    """Images a process takes at a time."""
    adam_beta1: Annotated[float, SHARE] = 0.0
    """Decay of AdamW's first moment; momentum makes the two networks circle each other."""
    max_grad_norm: Annotated[float | None, POSITIVE] = 10.0
    """Gradients of either network are scaled down to this norm; None leaves them as they are."""

    @property
    def discriminator_arguments(self) -> dict[str, Any]:
        """The parsed ``discriminator_config``."""
        return json.loads(self.discriminator_config)


@dataclass
class GANConfig(AdversarialConfig, NewNetworkConfig):
    """Settings of ``train_gan.py``."""

    def _check_together(self) -> None:
        super()._check_together()
        classes = self.network_arguments.get("num_classes")
        if self.discriminator_arguments.get("num_classes", classes) != classes:
            raise ValueError(
                f"discriminator_config has num_classes {self.discriminator_arguments['num_classes']}, network_config "
                f"{classes}: give num_classes in network_config alone."
            )


@dataclass
class DecoderConfig(AdversarialConfig):
    """Settings of ``train_decoder.py``."""

    vae_path: str = ""
    """Folder or Hub id of the VAE whose decoder to sharpen."""
    reconstruction: Literal["bce", "mse"] = "bce"
    """Reconstruction term, as in train_vae.py."""
    reconstruction_weight: Annotated[float, POSITIVE] = 10.0
    """Weight of the reconstruction term, per pixel, beside the adversarial loss; it ties the image to the latent."""
    r1_gamma: Annotated[float, NOT_NEGATIVE] = 0.1
    """Weight of the R1 penalty; 0 for none."""

    def _check_together(self) -> None:
        super()._check_together()
        if not self.vae_path:
            raise ValueError("vae_path is missing: give the folder of train_vae.py, or a Hub id.")


@dataclass
class LatentTrainingConfig(TrainingConfig):
    """What the denoiser and the classifier share: the space and the noise schedule."""

    trains_on_points: ClassVar[bool] = True

    vae_path: str | None = None
    """Folder or Hub id of the VAE in whose latent space to work; None for pixel space."""
    num_train_timesteps: Annotated[int, AT_LEAST_2] = 1000
    """Timesteps T of the noise schedule."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "squaredcos_cap_v2"
    """How the noise grows with the timestep."""
    beta_start: float = 1e-4
    """First beta, for the schedules that have one."""
    beta_end: float = 0.02
    """Last beta, for the schedules that have one."""
    prediction_type: Literal["epsilon", "sample", "v_prediction", "flow_prediction"] = "v_prediction"
    """What the denoiser predicts; flow_prediction trains a velocity for the FlowMatch schedulers, on straight lines,
    which have no betas."""

    def _check_together(self) -> None:
        super()._check_together()
        if self.vae_path is not None and is_point_set(self.dataset_name):
            raise ValueError(
                f"vae_path {self.vae_path!r} contradicts dataset_name {self.dataset_name!r}: a VAE makes images, not "
                "points in the plane. Leave out vae_path, or name a data set of images."
            )
        if not 0.0 < self.beta_start < self.beta_end < 1.0:
            raise ValueError(
                f"beta_start {self.beta_start} and beta_end {self.beta_end} must satisfy 0 < beta_start < beta_end < 1."
            )


@dataclass
class DenoiserConfig(LatentTrainingConfig, NewNetworkConfig):
    """Settings of ``train_denoiser.py``."""

    network: Literal[
        "MLPDenoiser",
        "ResidualMLPDenoiser",
        "GatedResidualMLPDenoiser",
        "FiLMConvDenoiser",
        "UNetDenoiser",
        "DiTDenoiser",
        "PointDenoiser",
        "UNet2DModel",
        "DiTTransformer2DModel",
    ] = "ResidualMLPDenoiser"
    """Class of the denoiser; the last two are of diffusers."""
    snr_gamma: Annotated[float | None, POSITIVE] = None
    """Clamp of min-SNR weighting, 5 in the paper; None for none."""
    label_dropout: Annotated[float, SHARE] = 0.1
    """Share of labels replaced by the null class, for a denoiser with num_classes."""
    num_validation_images: Annotated[int, NOT_NEGATIVE] = 20
    """Images drawn at every validation for the tracker, from the same noise, as many of each class; 0 for none."""


@dataclass
class ClassifierConfig(LatentTrainingConfig, NewNetworkConfig):
    """Settings of ``train_classifier.py``."""

    network: Literal["MLPClassifier", "ResidualMLPClassifier", "ConvClassifier"] = "ResidualMLPClassifier"
    """Class of the classifier."""
    denoiser_path: str | None = None
    """Folder or Hub id of the denoiser, for score_matching_weight."""
    score_matching_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the guided denoising loss beside the cross-entropy."""
    random_label_share: Annotated[float, SHARE] = 0.0
    """Share of that loss that asks for a random class, with the denoiser's class-conditional prediction for truth."""

    def _check_together(self) -> None:
        super()._check_together()
        if self.score_matching_weight > 0 and self.denoiser_path is None:
            raise ValueError(
                f"score_matching_weight {self.score_matching_weight} needs denoiser_path: the loss compares the guided "
                "prediction of that denoiser with the truth."
            )
        if self.random_label_share > 0 and self.score_matching_weight == 0:
            raise ValueError(
                f"random_label_share {self.random_label_share} is a share of the guided denoising loss, whose "
                "score_matching_weight is 0: give that weight, or leave out random_label_share."
            )


@dataclass
class PairConfig(LatentTrainingConfig):
    """Settings of ``train_pair.py``."""

    denoiser_path: str = ""
    """Folder or Hub id of a class-conditional ResidualMLPDenoiser: the weights to start from, and the teacher."""
    classifier_path: str = ""
    """Folder or Hub id of the classifier to start from."""
    target: Literal["teacher", "data"] = "teacher"
    """What the guided prediction should be: the prediction of denoiser_path for the label, or the noisy data's own."""
    score_matching_weight: Annotated[float, POSITIVE] = 200.0
    """Weight of the denoising losses beside the classifier's cross-entropy."""
    told_share: Annotated[float, SHARE] = 0.5
    """Share of the noisy data on which the denoiser is also told the label, so that it stays good at that."""
    visited_share: Annotated[float, SHARE] = 0.75
    """Share of a batch that are states of guided sampling in place of noisy data; they need a teacher."""
    rollout_interval: Annotated[int, POSITIVE] = 12
    """Updates between two rollouts of guided sampling."""
    rollout_steps: Annotated[int, AT_LEAST_2] = 12
    """Steps of a rollout, each of which is kept."""
    rollout_size: Annotated[int, POSITIVE] = 512
    """Samples of a rollout."""
    visited_size: Annotated[int, POSITIVE] = 30_720
    """Newest states that are kept to train on."""
    train_batch_size: Annotated[int, POSITIVE] = 512
    """Samples a process takes at a time."""

    def _check_together(self) -> None:
        super()._check_together()
        for name, script in (("denoiser_path", "train_denoiser.py"), ("classifier_path", "train_classifier.py")):
            if not getattr(self, name):
                raise ValueError(f"{name} is missing: give the folder of {script}, or a Hub id.")
        if self.target == "data" and self.visited_share > 0:
            raise ValueError(
                f"visited_share {self.visited_share} needs target 'teacher': there are no data for the states that "
                "sampling visits. Give visited_share 0 with target 'data'."
            )
        if self.prediction_type == "flow_prediction":
            raise ValueError("prediction_type 'flow_prediction' is not for train_pair.py; give v_prediction.")


@dataclass
class JudgeConfig(NetworkConfig):
    """Settings of ``train_judge.py``."""

    network_config: Annotated[str, JSON_OBJECT] = (
        '{"embedding_size": 64, "hidden_sizes": [64, 128], "depths": [2, 2], "layer_type": "basic"}'
    )
    """Arguments of a ResNetConfig of transformers, as a JSON object; channels and labels are filled in."""
    norm_batch_size: Annotated[int | None, AT_LEAST_2] = None
    """Images that batch normalisation sees at a time, a divisor of train_batch_size, which it is if None. With the same
    number the weights are the same however a global batch is cut."""
    learning_rate: Annotated[float, POSITIVE] = 2e-3
    """Peak learning rate."""
    lr_scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "constant_with_warmup"
    """Shape of the learning rate over the updates; the average of the weights takes the place of its decay."""
    adam_weight_decay: Annotated[float, NOT_NEGATIVE] = 0.05
    """Decoupled weight decay."""

    def _check_together(self) -> None:
        super()._check_together()
        if self.norm_batch_size is not None and self.train_batch_size % self.norm_batch_size:
            raise ValueError(
                f"norm_batch_size {self.norm_batch_size} must divide train_batch_size {self.train_batch_size}."
            )


@dataclass
class _Start:
    """Where settings start from."""

    config: str | None = None
    preset: str | None = None


def parse(
    config_class: type[Config], arguments: list[str] | None = None, presets: Mapping[str, Config] | None = None
) -> Config:
    """Read settings from the command line; what :meth:`CommonConfig.check` refuses ends the program with status 2.

    ``--config FILE`` takes the settings of a ``train_config.json`` for defaults, ``--preset NAME`` those of
    ``presets``.
    """
    import tyro

    description = "--config FILE starts from the train_config.json of an earlier run. Flags win over it."
    if presets:
        description = f"--preset NAME starts from a table of settings: {', '.join(presets)}. {description}"
    start, flags = tyro.cli(_Start, args=arguments, add_help=False, return_unknown_args=True)
    try:
        default = _default(config_class, start, presets or {})
        if default is not None:
            default = dataclasses.replace(default, output_dir=tyro.MISSING)
        config = tyro.cli(config_class, args=flags, description=description, default=default)
        config.check()
    except (ValueError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None
    return config


def _default(config_class: type[Config], start: _Start, presets: Mapping[str, Config]) -> Any:
    """The settings that ``--config`` or ``--preset`` name; None, where neither is given."""
    if start.config is not None and start.preset is not None:
        raise ValueError(f"config {start.config!r} and preset {start.preset!r} are both a start; leave out one.")
    if start.preset is not None:
        if start.preset not in presets:
            raise ValueError(f"preset must be one of {', '.join(presets) or 'none'}, got {start.preset!r}.")
        return presets[start.preset]
    if start.config is None:
        return None
    try:
        default = config_class.from_json(Path(start.config).read_text(encoding="utf-8"))
    except (TypeError, ValueError) as error:
        name = config_class.__name__
        raise ValueError(f"config {start.config!r} is not a train_config.json of {name}: {error}") from error
    return dataclasses.replace(default, resume_from_checkpoint=None, force=False)
