"""``mnist-guided evaluate``: many images, measured by a judge that never guides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ..data import DEFAULT_DATASET
from .options import (
    DataType,
    check_figure,
    check_measurements,
    check_model,
    check_packages,
    load_pipeline,
    scheduler_settings,
    usable_device,
)

if TYPE_CHECKING:
    from ..evaluation.scores import Reference


@dataclass(frozen=True)
class MeasuringOptions:
    """What the commands that measure images share."""

    output: Path = Path("metrics.json")
    """File of measurements to add to: .json, or .jsonl for one line per run. All other runs in it stay."""
    num_images: int = 1_000
    """Images of each set."""
    labels: Literal["reference", "uniform"] = "reference"
    """Mix of the wanted classes, and of the real images beside them: that of the test set, or uniform. The distances
    (FID, KID) of images with uniform labels also count how far the test set is from uniform: on MNIST that is several
    times what real images in its proportions have."""
    seed: int = 0
    """Every image has a random generator of its own, made from the seed, its class and its number."""
    dataset_name: str = DEFAULT_DATASET
    """Hub id or folder of the data set that the model was trained on."""
    image_column: str = "image"
    """Column of the images."""
    label_column: str = "label"
    """Column of the classes."""
    resolution: int | None = None
    """Resize the images of the data set to this height and width, those that the model makes."""
    judge: str | None = None
    """Folder or Hub id of a judge: from train_judge.py, or any image classifier of transformers; the one shipped with
    the package, for grey images of 28x28, if left out. Its classes are those of the data set by name, or in order."""
    cache_dir: Path | None = None
    """Folder where drawn images are kept; below ~/.cache if left out. It can be deleted at any time."""
    device: str | None = None
    """Where to compute, such as cpu or cuda; a CUDA device where there is one, else the CPU, if left out."""
    force: bool = False
    """Measure again what is in the output already, and overwrite the figure."""

    def check(self, model: str | None = None, figure: Path | None = None) -> None:
        """Refuse what cannot work before anything heavy is imported."""
        if model is not None:
            check_model(model)
        if figure is not None:
            check_figure(figure, self.force)
        check_model(self.judge, "config.json", what="judge", option="--judge")
        check_packages(("scipy",), "evaluation")
        check_measurements(self.output)

    def reference(self) -> Reference:
        """Real images and the judge on its device; under a launcher one process reads the data first."""
        from ..data.images import load_image_splits
        from ..evaluation.judge import Judge, load_judge
        from ..evaluation.samples import start_processes
        from ..evaluation.scores import Reference, check_enough

        with start_processes().main_process_first():
            train, test = load_image_splits(
                self.dataset_name,
                image_column=self.image_column,
                label_column=self.label_column,
                resolution=self.resolution,
            )
        check_enough(self.num_images, len(test.class_names))
        judge = load_judge() if self.judge is None else Judge.from_pretrained(self.judge).of_classes(test.class_names)
        if judge.image_shape not in (None, test.image_shape):
            raise ValueError(
                f"--dataset_name {self.dataset_name!r} has images of shape {test.image_shape}, and the judge "
                f"{self.judge or 'that is shipped'} reads those of shape {judge.image_shape}: give --judge a folder or "
                "Hub id of an image classifier with an image processor, or one that train_judge.py made for this data."
            )
        return Reference(train, test, judge.to(self.own_device()), self.dataset_name, self.labels)

    def own_device(self) -> str:
        """The device asked for; else that of this process."""
        from ..evaluation.samples import start_processes

        state = start_processes()
        return usable_device(str(state.device) if self.device is None and state.num_processes > 1 else self.device)


def evaluate(
    model: str | None = None,
    name: str = "default",
    scheduler: tuple[str, ...] = (),
    scheduler_options: tuple[str, ...] = (),
    num_inference_steps: tuple[int, ...] = (),
    guidance_scale: tuple[float, ...] = (),
    cfg_scale: tuple[float, ...] = (),
    eta: tuple[float, ...] = (),
    guidance_interval: tuple[float, float] | None = None,
    guidance_rescale: float = 0.0,
    classifier_temperature: float = 1.0,
    autoguidance_scale: float = 1.0,
    num_particles: tuple[int, ...] = (),
    negative_class_labels: tuple[str, ...] = (),
    classification_accuracy_score: bool = False,
    chunk_size: int = 500,
    dtype: DataType = "float32",
    options: Annotated[MeasuringOptions, tyro.conf.arg(name="")] = MeasuringOptions(num_images=10_000),  # noqa: B008
) -> None:
    """Draw many images and measure them with a judge that never guides.

    Several schedulers, scheduler options, numbers of steps, scales or etas make a sweep over all combinations. Finished
    runs and drawn images are kept, so the same command continues an interrupted one. Under torchrun, the processes
    share the drawing.

    Example: mnist-guided evaluate --model runs/pipeline --guidance_scale 1 2 4 --num_images 2000 --output sweep.jsonl

    Args:
        model: Folder or Hub id of a pipeline; the one shipped with the package if left out.
        name: Name of the run in the output; of a sweep, the part before the slash.
        scheduler: Name of one or several diffusers schedulers; the pipeline's own if left out.
        scheduler_options: Further settings of the scheduler as JSON, such as '{"use_karras_sigmas": true}'; one or
            several.
        num_inference_steps: One or several; the pipeline's own if left out.
        guidance_scale: One or several; the pipeline's own if left out.
        cfg_scale: Classifier-free weight, for a class-conditional denoiser; 1 is off. One or several.
        eta: Stochasticity of DDIM, from 0 to 1; one or several.
        guidance_interval: Lowest and highest sigma / alpha at which the classifier guides; the pipeline's own if left
            out.
        guidance_rescale: How far the spread of guided predictions is brought back, from 0 to 1.
        classifier_temperature: Divides the classifier's logits.
        autoguidance_scale: Weight of the denoiser against the pipeline's weak one (assemble --weak_denoiser); 1 is off.
        num_particles: Weighted particles of which each image is one; 1 is off. One or several.
        negative_class_labels: Classes that images must not be, taken in turn; no class is wanted then.
        classification_accuracy_score: Also train a classifier on the images alone and test it on real ones.
        chunk_size: Images drawn at a time.
        dtype: Floating-point type to compute in.
        options: Shared by the commands that measure images.
    """
    options.check(model)

    from ..evaluation.records import check_name
    from ..evaluation.samples import SamplingSettings, start_processes
    from ..evaluation.studies import grid, measure_runs
    from ..evaluation.tables import render_view
    from ..sampling.arguments import check_count

    check_name(name)
    check_count("chunk_size", chunk_size)
    base = SamplingSettings(
        options.num_images,
        options.seed,
        guidance_interval=guidance_interval,
        guidance_rescale=guidance_rescale,
        classifier_temperature=classifier_temperature,
        autoguidance_scale=autoguidance_scale,
        negative_class_labels=negative_class_labels,
    )
    axes: dict[str, tuple[Any, ...]] = {
        "scheduler": scheduler,
        "scheduler_options": tuple(map(scheduler_settings, scheduler_options)),
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "cfg_scale": cfg_scale,
        "eta": eta,
        "num_particles": num_particles,
    }
    runs = grid(base, axes, name)
    reference = options.reference()
    pipe = load_pipeline(model, options.own_device(), dtype)
    records = measure_runs(
        pipe,
        runs,
        reference,
        options.output,
        options.cache_dir,
        chunk_size,
        with_cas=classification_accuracy_score,
        again=options.force,
    )
    state = start_processes()
    if state.is_main_process:
        print(render_view(records, name))
    state.wait_for_everyone()
    state.destroy_process_group()
