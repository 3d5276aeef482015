"""Train the variants of a study, measure them alike, print the table and save a figure.

    python training/run_study.py targets --dataset_name ylecun/mnist --output_dir runs/studies/targets

Everything that a study does not vary is the same: data, seed, order of the images, number of updates, network, and the
noise of every image that is drawn. Denoisers are small; most are class-conditional, so that no classifier takes part.
Each variant trains in ``output_dir/variants`` by the scripts of this folder. What has finished with the same settings
is kept, so the same command continues an interrupted study.
"""

import dataclasses
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, NamedTuple

import tyro

import train_classifier
import train_denoiser
import train_judge
from mnist_guided_pipeline import ClassifierGuidedLatentPipeline, CleanClassifierGuide
from mnist_guided_pipeline.cli.options import MeasuringOptions
from mnist_guided_pipeline.evaluation.judge import Judge
from mnist_guided_pipeline.evaluation.samples import SamplingSettings
from mnist_guided_pipeline.evaluation.studies import file_tables, measure_system, real_images_row
from mnist_guided_pipeline.figures.images import image_rows, save_figure
from mnist_guided_pipeline.storage.assemble import training_scheduler
from mnist_guided_pipeline.storage.pipelines import load_network
from mnist_guided_pipeline.training.config import ClassifierConfig, DenoiserConfig, JudgeConfig, TrainingConfig
from mnist_guided_pipeline.training.history import training_seconds
from mnist_guided_pipeline.training.launch import make_accelerator, plain_errors
from mnist_guided_pipeline.weights import DEFAULT_FOLDER
from train_pipeline import is_finished

_VAE_PATH = str(DEFAULT_FOLDER)  # the variants share the shipped autoencoder
_Drawings = dict[str, dict[str, Any]]
_TWENTY_STEPS: _Drawings = {"": {"scheduler": "DPMSolverMultistepScheduler", "num_inference_steps": 20}}


class Variant(NamedTuple):
    """One trained system: its denoiser, how it samples, by row name, and a guide of its own if any.

    A guide that is trained like the judge reads clean images.
    """

    denoiser: DenoiserConfig
    drawings: _Drawings = _TWENTY_STEPS
    guide: ClassifierConfig | JudgeConfig | None = None


class Study(NamedTuple):
    """What the table shows, and its variants by name, which is a folder's name too."""

    description: str
    variants: dict[str, Variant]


def _denoiser(**changes: Any) -> DenoiserConfig:
    network = {"hidden_size": 256, "num_layers": 3, "condition_dim": 64, "num_classes": 10}
    settings: dict[str, Any] = {"network": "ResidualMLPDenoiser", "network_config": json.dumps(network)}
    settings |= {"train_batch_size": 256, "max_train_steps": 2_000, "learning_rate": 2e-3}
    return DenoiserConfig("", **settings | changes)


def _unconditional(network: str, **options: Any) -> DenoiserConfig:
    config = {"hidden_size": 256, "num_layers": 3, "condition_dim": 64, **options}
    return _denoiser(network=network, network_config=json.dumps(config), max_train_steps=4_000)


def _guided(*settings: tuple[float, int]) -> _Drawings:
    """Scales and numbers of steps."""
    return {
        f"s = {scale:g} in {steps} steps": {**_TWENTY_STEPS[""], "guidance_scale": scale, "num_inference_steps": steps}
        for scale, steps in settings
    }


_NOISE_AWARE = ClassifierConfig("", network_config='{"hidden_size": 256, "num_layers": 3, "condition_dim": 64}')
_NOISE_AWARE = dataclasses.replace(
    _NOISE_AWARE, train_batch_size=256, max_train_steps=2_000, learning_rate=2e-3, score_matching_weight=20.0
)
_CLEAN = JudgeConfig("", network_config='{"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1]}')
_CLEAN = dataclasses.replace(_CLEAN, train_batch_size=256, max_train_steps=500)

STUDIES = {
    "targets": Study(
        "What the denoiser predicts. epsilon, x0 and v share the linear noise schedule, which keeps a little signal at "
        "its end; the cosine schedule has next to none there, and a prediction of epsilon is divided by it.",
        {
            "epsilon": Variant(_denoiser(prediction_type="epsilon", beta_schedule="linear")),
            "x0": Variant(_denoiser(prediction_type="sample", beta_schedule="linear")),
            "v": Variant(_denoiser(prediction_type="v_prediction", beta_schedule="linear")),
            "v,snr_gamma=5": Variant(_denoiser(prediction_type="v_prediction", beta_schedule="linear", snr_gamma=5.0)),
            "flow": Variant(_denoiser(prediction_type="flow_prediction")),
            "epsilon,cosine": Variant(_denoiser(prediction_type="epsilon")),
            "v,cosine": Variant(_denoiser(prediction_type="v_prediction")),
        },
    ),
    "components": Study(
        "An unconditional denoiser, plain or with K components that it finds without labels; unconditional samples.",
        {
            "plain": Variant(_unconditional("ResidualMLPDenoiser")),
            "K=10": Variant(_unconditional("GatedResidualMLPDenoiser", num_components=10)),
            "K=40": Variant(_unconditional("GatedResidualMLPDenoiser", num_components=40)),
        },
    ),
    "clean-guide": Study(
        "A guide that reads noisy latents beside one that reads the clean image that the denoiser predicts, on an "
        "unconditional denoiser. A step calls two networks with the first, and four with the second: denoiser, "
        "denoiser and decoder within the guide, and classifier.",
        {
            "noise-aware": Variant(
                _unconditional("ResidualMLPDenoiser"), _guided((1, 20), (2, 20), (4, 20)), _NOISE_AWARE
            ),
            "clean": Variant(
                _unconditional("ResidualMLPDenoiser"), _guided((1, 10), (2, 10), (4, 10), (4, 20)), _CLEAN
            ),
        },
    ),
}


@dataclass
class StudyConfig:
    """Settings of ``run_study.py``; the seed is that of every training and of the images."""

    name: tyro.conf.Positional[Literal[tuple(STUDIES)]]  # type: ignore[valid-type]
    """Which study."""
    output_dir: str
    """Folder of the trained variants, and of the figure study-NAME.png, a row of samples per variant."""
    max_train_steps: int | None = None
    """Updates of every training, in place of the study's own."""
    max_train_samples: int | None = None
    """Train on the first this many images."""
    measuring: Annotated[MeasuringOptions, tyro.conf.arg(name="")] = MeasuringOptions(force=True)  # noqa: RUF009


def main(config: StudyConfig) -> None:
    """Train what is not trained yet, then measure, file, print and draw."""
    study, options = STUDIES[config.name], config.measuring
    figure = Path(config.output_dir) / f"study-{config.name}.png"
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    options.check(figure=figure)
    reference = options.reference()
    print(study.description)
    rows, pictures, pipes = {}, [], []
    for name, variant in study.variants.items():
        pipe, seconds = trained(config, name, variant, reference.test.id2label)
        pipes.append(pipe)
        for drawing, call in variant.drawings.items():
            label = ", ".join(filter(None, (name.replace(",", ", "), drawing)))
            settings = SamplingSettings(options.num_images, options.seed, reference.class_weights, **call)
            _, images, rows[label] = measure_system(pipe, settings, reference)
            pictures.append(images[:20].numpy())
            if seconds is not None:
                rows[label]["training_minutes"] = seconds / 60.0
    titles = [f"{label}: FID {row['judge_fid']['value']:.2f}" for label, row in rows.items()]
    rows["real training images"] = real_images_row(reference, options.num_images)
    settings_of_all = {"num_images": options.num_images, "seed": options.seed, "description": study.description}
    name = f"study-{config.name}"
    file_tables(options.output, name, {"rows": rows}, settings_of_all, pipes, reference, pipe.device)
    save_figure(image_rows(pictures, titles), figure)
    print(f"{figure}: a row of samples of each, of the same noise.")


def trained(
    config: StudyConfig, name: str, variant: Variant, id2label: dict[int, str]
) -> tuple[ClassifierGuidedLatentPipeline, float | None]:
    """The pipeline of one variant, trained now or before, and the seconds that its denoiser took."""
    folder = Path(config.output_dir) / "variants" / name
    changes: dict[str, Any] = {"dataset_name": config.measuring.dataset_name, "seed": config.measuring.seed}
    changes["max_train_samples"] = config.max_train_samples
    if config.max_train_steps is not None:
        changes["max_train_steps"] = config.max_train_steps
    shared = {"vae_path": _VAE_PATH, **changes}
    denoiser = train_once(train_denoiser, variant.denoiser, folder / "denoiser", **shared)
    guide = None
    if isinstance(variant.guide, ClassifierConfig):
        guide = train_once(train_classifier, variant.guide, folder / "guide", denoiser_path=denoiser, **shared)
    pipe = make_pipeline(_VAE_PATH, denoiser, guide, id2label)
    if isinstance(variant.guide, JudgeConfig):
        judge = Judge.from_pretrained(train_once(train_judge, variant.guide, folder / "guide", **changes))
        pipe.register_modules(classifier=CleanClassifierGuide(judge.model, pipe.denoiser, pipe.vae, pipe.scheduler))
    return pipe, training_seconds(denoiser)


def train_once(module: ModuleType, settings: TrainingConfig, folder: Path, **changes: Any) -> str:
    """Train by a script of this folder where that is not finished with these settings; the folder."""
    settings = dataclasses.replace(
        settings,
        output_dir=str(folder),
        checkpointing_steps=500,
        resume_from_checkpoint="latest",
        validation_steps=changes.get("max_train_steps") or settings.max_train_steps,
        **changes,
    )
    if is_finished(settings):
        print(f"{folder}: finished before, kept")
        return str(folder)
    settings.check()
    print(f"{folder}: training")
    accelerator = make_accelerator(settings)
    with warnings.catch_warnings():  # schedules that leave signal at their end are what some studies are about
        warnings.filterwarnings("ignore", message="The noise schedule leaves")
        module.main(settings, accelerator)
    accelerator.free_memory()
    return str(folder)


def make_pipeline(
    vae_path: str | None, denoiser: str, classifier: str | None, id2label: dict[int, str]
) -> ClassifierGuidedLatentPipeline:
    """A pipeline of trained folders, without the checks of ``assemble.py``: some studies put together what is wrong."""
    return ClassifierGuidedLatentPipeline(
        vae=load_network(vae_path, "vae") if vae_path else None,
        denoiser=load_network(denoiser),
        classifier=load_network(classifier) if classifier else None,
        scheduler=training_scheduler(denoiser),
        id2label=id2label,
    )


if __name__ == "__main__":
    with plain_errors():
        main(tyro.cli(StudyConfig, description=None))
