"""Train the variants of a study, measure them alike, print the table and save a picture.

    python training/run_study.py targets --dataset_name ylecun/mnist --output_dir runs/studies/targets

Each variant trains in ``output_dir/variants`` by the scripts of this folder. What has finished with the same settings
is kept, so the same command continues an interrupted study. ``study_variants.py`` says what is varied.
"""

import dataclasses
import json
import shlex
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import diffusers
import tyro

import train_denoiser
import train_vae
from mnist_guided_pipeline import ClassifierGuidedLatentPipeline
from mnist_guided_pipeline.cli.figures import check_figure, save_figure
from mnist_guided_pipeline.data.images import LabelledImages, load_images
from mnist_guided_pipeline.evaluation.fingerprints import fingerprint, pipeline_fingerprint
from mnist_guided_pipeline.evaluation.judge import Judge, load_judge
from mnist_guided_pipeline.evaluation.records import public_name, read_runs
from mnist_guided_pipeline.evaluation.samples import SamplingSettings, draw_images
from mnist_guided_pipeline.evaluation.scores import Reference, check_enough, floors, score_images
from mnist_guided_pipeline.evaluation.scores import figure as figure_of
from mnist_guided_pipeline.evaluation.studies import check_judge, file_table
from mnist_guided_pipeline.evaluation.tables import render_view
from mnist_guided_pipeline.figures.images import image_rows
from mnist_guided_pipeline.storage.loading import load_network
from mnist_guided_pipeline.training.config import TrainingConfig
from mnist_guided_pipeline.training.history import training_seconds
from mnist_guided_pipeline.training.launch import make_accelerator, plain_errors
from mnist_guided_pipeline.weights import DEFAULT_FOLDER
from study_variants import STUDIES, Variant
from train_pipeline import is_finished

_COLUMNS = ("accuracy", "judge_fid", "judge_recall", "judge_coverage", "images_per_second")


@dataclass
class StudyConfig:
    """Settings of ``run_study.py``."""

    name: tyro.conf.Positional[Literal[tuple(STUDIES)]]  # type: ignore[valid-type]
    """Which study."""
    output_dir: str
    """Folder of the trained variants and of the drawn images."""
    output: str = "metrics.json"
    """File of measurements to add the table to; all other runs in it stay."""
    figure: str | None = None
    """Picture to write, a row of samples a variant; study-NAME.png in output_dir if left out."""
    dataset_name: str = "ylecun/mnist"
    """Hub id, or a folder with the same parquet files."""
    vae_path: str = str(DEFAULT_FOLDER)
    """Autoencoder that the variants share, or a pipeline that has one; that of the shipped pipeline if left out."""
    judge: str | None = None
    """Folder of a judge of these classes, from train_judge.py; the one shipped with the package if left out."""
    max_train_steps: int | None = None
    """Updates of every training, in place of the study's own."""
    max_train_samples: int | None = None
    """Train on the first this many images."""
    num_images: int = 1_000
    """Images drawn of every variant."""
    seed: int = 0
    """Seed of every training and of the images."""


def main(config: StudyConfig) -> None:
    """Train what is not trained yet, then measure, file, print and draw."""
    study = STUDIES[config.name]
    figure = Path(config.figure or Path(config.output_dir) / f"study-{config.name}.png")
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    check_figure(figure, force=True)
    read_runs(config.output)
    splits = (load_images(config.dataset_name, "train"), load_images(config.dataset_name, "test"))
    judge = load_judge() if config.judge is None else Judge.from_pretrained(config.judge)
    check_judge(judge, splits[1].class_names)
    check_enough(config.num_images, len(splits[1].class_names))
    print(study.description)
    reference = Reference.of(*splits, judge)
    rows: dict[str, dict[str, Any]] = {}
    shown, networks = {}, []
    for name, variant in study.variants.items():
        pipe, minutes = trained(config, name, variant, study.on_pixels, splits[1])
        networks.append(pipeline_fingerprint(pipe))
        for drawing, options in variant.drawings.items():
            settings = SamplingSettings(config.num_images, config.seed, **options)
            drawn = draw_images(pipe, settings, f"{config.output_dir}/samples")
            figures = score_images(drawn.chunks(), drawn.labels, judge, reference, check_memorisation=False)
            figures["images_per_second"] = figure_of(config.num_images / drawn.seconds, config.num_images)
            label = ", ".join(filter(None, (name.replace(",", ", "), drawing)))
            rows[label] = {column: figures[column] for column in _COLUMNS}
            if variant.vae is not None:
                copies = floors(reference, judge, pipe.vae, config.num_images)["vae_reconstructions"]
                rows[label]["judge-FID of reconstructions"] = copies["judge_fid"]
            if minutes is not None:
                rows[label]["training_minutes"] = minutes
            shown[f"{label}: FID {figures['judge_fid']['value']:.2f}"] = next(drawn.chunks())[:20].numpy()
    floor = floors(reference, judge, None, config.num_images)["real_training_images"]
    rows["real training images"] = {column: floor[column] for column in _COLUMNS if column in floor}
    words = ["python", "training/run_study.py", config.name, "--num_images", str(config.num_images)]
    words += ["--judge", public_name(config.judge)] if config.judge else []
    words += ["--seed", str(config.seed), "--dataset_name", public_name(config.dataset_name)]
    words += ["--output_dir", public_name(config.output_dir)]
    if config.max_train_steps is not None:
        words += ["--max_train_steps", str(config.max_train_steps)]
    record = file_table(
        config.output,
        f"study-{config.name}",
        shlex.join(words),
        rows,
        judge,
        splits,
        config.dataset_name,
        fingerprint(networks),
        {"num_images": config.num_images, "seed": config.seed, "description": study.description},
    )
    print(render_view({"study": record}, "study", "rows"))
    save_figure(image_rows(list(shown.values()), list(shown)), figure)
    print(f"{figure}: a row of samples of each, of the same noise.")


def trained(
    config: StudyConfig, name: str, variant: Variant, on_pixels: bool, test: LabelledImages
) -> tuple[ClassifierGuidedLatentPipeline, float | None]:
    """The pipeline of one variant, trained now or before, and the minutes that its denoiser took."""
    folder = Path(config.output_dir) / "variants" / name
    changes = {"dataset_name": config.dataset_name, "seed": config.seed, "max_train_samples": config.max_train_samples}
    if config.max_train_steps is not None:
        changes["max_train_steps"] = config.max_train_steps
    vae_path = None if on_pixels else config.vae_path
    if variant.vae is not None:
        vae_path = train_once(train_vae, variant.vae, folder / "vae", **changes)
    denoiser = train_once(train_denoiser, variant.denoiser, folder / "denoiser", vae_path=vae_path, **changes)
    pipe = make_pipeline(vae_path, denoiser, None, test)
    seconds = training_seconds(denoiser)
    return pipe, None if seconds is None else seconds / 60


def train_once(module: ModuleType, settings: TrainingConfig, folder: Path, **changes: Any) -> str:
    """Train by a script of this folder where that is not finished with these settings; the folder."""
    settings = dataclasses.replace(
        settings,
        output_dir=str(folder),
        report_to="none",
        checkpointing_steps=500,
        resume_from_checkpoint="latest",
        validation_steps=changes.get("max_train_steps") or settings.max_train_steps,
        **changes,
    )
    settings.check()
    if is_finished(settings):
        print(f"{folder}: finished before, kept")
        return str(folder)
    print(f"{folder}: training")
    accelerator = make_accelerator(settings)
    with warnings.catch_warnings():  # laws that leave signal at their end are what some studies are about
        warnings.filterwarnings("ignore", message="The noise schedule leaves")
        module.main(settings, accelerator)
    accelerator.free_memory()
    return str(folder)


def make_pipeline(
    vae_path: str | None, denoiser: str, classifier: str | None, test: LabelledImages
) -> ClassifierGuidedLatentPipeline:
    """A pipeline of trained folders, without the checks of ``assembly.py``: some studies put together what is wrong."""
    scheduler = json.loads((Path(denoiser) / "scheduler" / "scheduler_config.json").read_text())["_class_name"]
    return ClassifierGuidedLatentPipeline(
        vae=load_network(vae_path, "vae") if vae_path else None,
        denoiser=load_network(denoiser),
        classifier=load_network(classifier) if classifier else None,
        scheduler=getattr(diffusers, scheduler).from_pretrained(denoiser, subfolder="scheduler"),
        id2label=test.id2label,
    )


if __name__ == "__main__":
    with plain_errors():
        main(tyro.cli(StudyConfig, description=None))
