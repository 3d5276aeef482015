"""``mnist-guided study NAME`` for studies that need no training: one setting of the sampling, varied."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .options import check_figure, check_model, check_writable, load_pipeline, save_figure

if TYPE_CHECKING:
    from ..evaluation.run import Bench
    from ..evaluation.samples import SamplingSettings

__all__ = ["StudyOptions", "eta", "mean_only", "scale", "spacing", "steps", "training_time"]

_SHOWN = 10  # images of a row of the picture


@dataclass(frozen=True)
class StudyOptions:
    """What the studies of sampling share."""

    model: str | None = None
    """Folder or Hub id of a pipeline; the one shipped with the package if left out."""
    output: Path = Path("metrics.json")
    """File of measurements to add the runs to; all other runs in it stay, and finished ones are not repeated."""
    figure: Path | None = None
    """Picture to write; study-NAME.png if left out."""
    num_images: int = 1_000
    """Images of a run, the classes in turn."""
    seed: int = 0
    """Every image has a random generator of its own, made from the seed, its class and its number."""
    dataset_name: str = "ylecun/mnist"
    """Hub id or folder of the data set that the pipeline was trained on."""
    judge: Path | None = None
    """Folder of a judge, from train_judge.py; the one shipped with the package if left out."""
    cache_dir: Path | None = None
    """Folder where drawn images are kept; below ~/.cache if left out."""
    device: str | None = None
    """Where to compute; a CUDA device where there is one, else the CPU, if left out."""
    force: bool = False
    """Overwrite the figure."""


_Options = Annotated[StudyOptions, tyro.conf.arg(name="")]
_Runs = dict[str, "SamplingSettings"]


def steps(
    num_inference_steps: tuple[int, ...] = (10, 20, 50, 100, 1000),
    scheduler: tuple[str, ...] = ("DDPMScheduler", "DDIMScheduler"),
    guidance_scale: float | None = None,
    options: _Options = StudyOptions(),  # noqa: B008 - it is frozen
) -> None:
    """DDPM against DDIM: quality by the number of steps, and by the time they take.

    Example: mnist-guided study steps --figure steps.png

    Args:
        num_inference_steps: Numbers of steps.
        scheduler: Names of diffusers schedulers.
        guidance_scale: The same for every run; the pipeline's own for each scheduler if left out.
        options: Shared by the studies of sampling.
    """
    from ..evaluation.run import grid

    name = "study-steps"
    _sweep(
        name,
        options,
        lambda base, pipe: grid(base, scheduler, num_inference_steps, name=name),
        guidance_scale=guidance_scale,
    )


def eta(
    values: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0),
    num_inference_steps: tuple[int, ...] = (10, 50),
    guidance_scale: float | None = None,
    options: _Options = StudyOptions(),  # noqa: B008
) -> None:
    """Noise in the steps of DDIM: quality and variety by eta, from deterministic (0) to as stochastic as DDPM (1).

    Example: mnist-guided study eta --num_inference_steps 20 --figure eta.png

    Args:
        values: Values of eta, from 0 to 1.
        num_inference_steps: Numbers of steps: noise costs quality where they are few.
        guidance_scale: The same for every run; the pipeline's own for each scheduler if left out.
        options: Shared by the studies of sampling.
    """
    from ..evaluation.studies import eta_runs

    _sweep(
        "study-eta",
        options,
        lambda base, pipe: eta_runs(base, values, num_inference_steps),
        guidance_scale=guidance_scale,
    )


def scale(
    values: tuple[float, ...] = (0.0, 0.35, 0.7, 1.0, 2.0, 4.0, 8.0, 16.0),
    cfg_scale: tuple[float, ...] = (),
    options: _Options = StudyOptions(),  # noqa: B008
) -> None:
    """Guidance scales: agreement with the label against variety, with a denoiser that knows the label and without.

    Example: mnist-guided study scale --values 0 1 4 --figure scale.png

    Args:
        values: Guidance scales.
        cfg_scale: Classifier-free weights: 1 tells the denoiser the label, 0 leaves it to the classifier. Both if left
            out, for a denoiser that takes labels.
        options: Shared by the studies of sampling.
    """
    from ..evaluation.studies import scale_runs

    def runs(base: SamplingSettings, pipe: Any) -> dict[str, SamplingSettings]:
        return scale_runs(base, values, cfg_scale or ((0.0, 1.0) if pipe.denoiser_is_conditional else (1.0,)))

    _sweep("study-scale", options, runs)


def mean_only(
    num_inference_steps: int = 100,
    guidance_scale: float | None = None,
    options: _Options = StudyOptions(),  # noqa: B008
) -> None:
    """DDPM with its noise left out, beside DDPM and DDIM: what the stochastic part is for.

    Example: mnist-guided study mean_only --figure mean-only.png

    Args:
        num_inference_steps: Steps of every run.
        guidance_scale: The same for every run; the pipeline's own for each scheduler if left out.
        options: Shared by the studies of sampling.
    """
    name = "study-mean-only"
    settings = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    figure, pipe, base, bench = _prepare(name, options, **settings)

    from diffusers import DDIMScheduler, DDPMScheduler

    from ..evaluation.samples import draw_images
    from ..evaluation.studies import mean_only_scheduler, measure_mean_only
    from ..evaluation.tables import render_view
    from ..figures.images import image_rows

    command = _command("mean-only", options, settings)
    records = measure_mean_only(pipe, base, bench, options.output, command, cache_dir=options.cache_dir)
    print(render_view(records, name))
    rows, labels = [], []
    for label, scheduler in (
        ("DDPM", pipe.make_scheduler(DDPMScheduler)),
        ("DDPM without its noise", mean_only_scheduler(pipe)),
        ("DDIM", pipe.make_scheduler(DDIMScheduler)),
    ):
        pipe.scheduler = scheduler
        images = draw_images(pipe, base, options.cache_dir, progress=False).images()[: 2 * _SHOWN]  # from the cache
        rows += [part.numpy() for part in images.split(_SHOWN)]
        labels += [label, ""]
    save_figure(image_rows(rows, labels), figure)
    print(f"{figure}: images of the same noise.")


def spacing(
    num_inference_steps: tuple[int, ...] = (5, 10, 20),
    options: _Options = StudyOptions(),  # noqa: B008
) -> None:
    """Where DPM-Solver++ puts its steps: even in time (three ways), or by noise (Karras, exponential, Lu).

    Example: mnist-guided study spacing --num_inference_steps 10 --figure spacing.png

    Args:
        num_inference_steps: Numbers of steps.
        options: Shared by the studies of sampling.
    """
    from ..evaluation.studies import SPACING, SPACINGS, measure_spacings

    figure, pipe, base, bench = _prepare(SPACING, options)

    from ..evaluation.tables import render_view
    from ..figures.curves import sweep_figure

    command = _command("spacing", options, {"num_inference_steps": num_inference_steps})
    records = measure_spacings(
        pipe, base, num_inference_steps, bench, options.output, command, cache_dir=options.cache_dir
    )
    print(render_view(records, SPACING, "named"))
    save_figure(sweep_figure(records), figure)
    print(f"{figure}: {len(SPACINGS)} spacings, {options.num_images} images a run.")


def training_time(
    count: int = 10,
    options: _Options = StudyOptions(),  # noqa: B008
) -> None:
    """Quality against the time of training: a finished pipeline with the denoiser of its earlier checkpoints.

    The minutes are those of the denoiser's updates so far and of all updates of the other networks. The folder must
    come from train_pipeline.py with --checkpoints_total_limit None.

    Example: mnist-guided study training-time --model runs/default --figure training-time.png

    Args:
        count: Checkpoints to measure, at most.
        options: Shared by the studies of sampling.
    """
    if options.model is None or not (Path(options.model) / "steps").is_dir():
        raise ValueError(f"--model {options.model!r} must be a folder that train_pipeline.py wrote, with its steps/.")
    if count < 2:
        raise ValueError(f"--count must be at least 2, got {count}.")

    from ..evaluation.training_time import TRAINING_TIME, measure_stages, training_stages

    stages = training_stages(options.model, count)
    figure, pipe, base, bench = _prepare(TRAINING_TIME, options)

    from ..evaluation.tables import render_view
    from ..figures.training_time import training_time_figure

    command = _command("training-time", options, {"count": count})
    records = measure_stages(pipe, stages, base, bench, options.output, command, cache_dir=options.cache_dir)
    print(render_view(records, TRAINING_TIME, "named"))
    save_figure(training_time_figure(records), figure)
    print(f"{figure}: {len(stages)} moments of the training, {options.num_images} images each.")


def _command(study: str, options: StudyOptions, settings: dict[str, Any]) -> str:
    """The line that makes a study, for runs that no line of ``evaluate`` makes."""
    from ..evaluation.records import public_name

    given: dict[str, Any] = {**settings, "num_images": options.num_images, "seed": options.seed}
    given |= {
        key: value and public_name(str(value)) for key, value in (("model", options.model), ("judge", options.judge))
    }
    words = ["mnist-guided", "study", study]
    for key, value in given.items():
        if value is not None:
            words += [f"--{key}", *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)


def _sweep(name: str, options: StudyOptions, make_runs: Callable[[SamplingSettings, Any], _Runs], **base: Any) -> None:
    """Measure the runs of a study, print their table and draw them as a sweep."""
    figure, pipe, settings, bench = _prepare(name, options, **base)

    from ..evaluation.run import measure_runs
    from ..evaluation.tables import render_view
    from ..figures.curves import sweep_figure

    runs = make_runs(settings, pipe)
    if len(runs) < 2:
        raise ValueError(f"{name} compares at least two settings, got {', '.join(runs) or 'none'}; give more values.")
    records = measure_runs(pipe, runs, bench, options.output, options.cache_dir)
    print(render_view(records, name))
    save_figure(sweep_figure(records), figure)
    print(f"{figure}: {len(runs)} runs of {options.num_images} images.")


def _prepare(name: str, options: StudyOptions, **base: Any) -> tuple[Path, Any, SamplingSettings, Bench]:
    """Everything checked, then the figure's path, the pipeline, the settings that stay, and judge and data."""
    figure = options.figure or Path(f"{name}.png")
    check_figure(figure, options.force)
    if options.model is not None:
        check_model(options.model)
    check_writable(options.output.parent)
    if options.judge is not None and not (options.judge / "config.json").is_file():
        raise FileNotFoundError(f"--judge {str(options.judge)!r} has no config.json: it is not the folder of a judge.")
    if find_spec("torchmetrics") is None:
        raise ValueError("study needs torchmetrics: pip install 'mnist-guided-pipeline[evaluation]'.")

    from ..data.images import load_images
    from ..evaluation.judge import Judge, load_judge
    from ..evaluation.records import read_runs
    from ..evaluation.run import Bench
    from ..evaluation.samples import SamplingSettings
    from ..evaluation.scores import check_enough
    from ..evaluation.studies import check_judge

    settings = SamplingSettings(options.num_images, options.seed, **base)
    read_runs(options.output)  # a file that cannot be added to is found before the work
    judge = load_judge() if options.judge is None else Judge.from_pretrained(options.judge)
    train, test = (load_images(options.dataset_name, split) for split in ("train", "test"))
    check_judge(judge, test.class_names)
    check_enough(options.num_images, len(test.class_names))
    pipe = load_pipeline(options.model, options.device)
    names = {"model": options.model, "dataset_name": options.dataset_name}
    names |= {"judge": None if options.judge is None else str(options.judge), "inception_weights": None}
    return figure, pipe, settings, Bench(judge.to(pipe.device), train, test, names)
