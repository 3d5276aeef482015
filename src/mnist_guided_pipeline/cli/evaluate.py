"""``mnist-guided evaluate``: many images, measured by a judge that never guides."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import tyro

from .options import DataType, check_model, check_writable, load_pipeline

__all__ = ["evaluate"]


def evaluate(
    model: tyro.conf.Positional[str | None] = None,
    output: Path = Path("metrics.json"),
    name: str = "default",
    num_images: int = 10_000,
    guidance_scale: tuple[float, ...] = (),
    scheduler: tuple[str, ...] = (),
    num_inference_steps: tuple[int, ...] = (),
    guidance_interval: tuple[float, float] | None = None,
    cfg_scale: float = 1.0,
    eta: float = 0.0,
    guidance_rescale: float = 0.0,
    seed: int = 0,
    dataset_name: str = "ylecun/mnist",
    image_column: str = "image",
    label_column: str = "label",
    judge: Path | None = None,
    classification_accuracy_score: bool = False,
    inception_weights: Path | None = None,
    chunk_size: int = 500,
    cache_dir: Path | None = None,
    device: str | None = None,
    dtype: DataType = "float32",
    force: bool = False,
) -> None:
    """Draw many images and measure them with a judge that never guides.

    Several scales, schedulers or numbers of steps make a sweep over all combinations. Finished runs and drawn images
    are kept, so the same command continues an interrupted one. Under torchrun, the processes share the drawing.

    Example: mnist-guided evaluate runs/pipeline --guidance_scale 1 2 4 --num_images 2000 --output sweep.jsonl

    Args:
        model: Folder or Hub id of a pipeline; the one shipped with the package if left out.
        output: File to add the run to: .json, or .jsonl for one line a run. All other runs in it stay.
        name: Name of the run in that file; of a sweep, the part before the slash.
        num_images: Images of a run, the classes in turn.
        guidance_scale: One or several; the pipeline's own if left out.
        scheduler: Name of one or several diffusers schedulers; the pipeline's own if left out.
        num_inference_steps: One or several; the pipeline's own if left out.
        guidance_interval: Lowest and highest sigma / alpha at which the classifier guides; the pipeline's own if left
            out.
        cfg_scale: Classifier-free weight, for a class-conditional denoiser; 1 is off.
        eta: Stochasticity of DDIM, from 0 to 1.
        guidance_rescale: How far the spread of guided predictions is brought back, from 0 to 1.
        seed: Every image has a random generator of its own, made from the seed, its class and its number.
        dataset_name: Hub id or folder of the data set that the pipeline was trained on.
        image_column: Column of the images.
        label_column: Column of the classes.
        judge: Folder of a judge, from train_judge.py; the one shipped with the package if left out.
        classification_accuracy_score: Also train a classifier on the images alone and test it on real ones.
        inception_weights: File of torch-fidelity's Inception weights, to compute Inception-FID too; slow on a CPU.
        chunk_size: Images drawn at a time.
        cache_dir: Folder where drawn images are kept; below ~/.cache if left out. It can be deleted at any time.
        device: Where to compute, such as cpu or cuda; a CUDA device where there is one, else the CPU, if left out.
        dtype: Floating-point type to compute in.
        force: Measure runs again that are in the output already.
    """
    if model is not None:
        check_model(model)
    if output.suffix not in (".json", ".jsonl"):
        raise ValueError(f"--output {str(output)!r} must end in .json, or in .jsonl for one line a run.")
    check_writable(output.parent)
    if judge is not None and not (judge / "config.json").is_file():
        raise FileNotFoundError(f"--judge {str(judge)!r} has no config.json: it is not the folder of a judge.")
    if find_spec("torchmetrics") is None:
        raise ValueError("evaluate needs torchmetrics: pip install 'mnist-guided-pipeline[evaluation]'.")

    from ..data.images import load_images
    from ..evaluation.inception import check_inception, load_inception
    from ..evaluation.judge import Judge, load_judge
    from ..evaluation.records import read_runs
    from ..evaluation.run import Bench, grid, measure_runs
    from ..evaluation.samples import SamplingSettings, start_processes
    from ..evaluation.tables import render_view

    if inception_weights is not None:
        check_inception(inception_weights)
    base = SamplingSettings(
        num_images,
        seed,
        guidance_interval=guidance_interval,
        cfg_scale=cfg_scale,
        eta=eta,
        guidance_rescale=guidance_rescale,
    )
    runs = grid(base, scheduler, num_inference_steps, guidance_scale, name)
    read_runs(output)  # a file that cannot be added to is found before the work
    state = start_processes()
    with state.main_process_first():
        train, test = (
            load_images(dataset_name, split, image_column=image_column, label_column=label_column)
            for split in ("train", "test")
        )
    if device is None and state.num_processes > 1:
        device = str(state.device)
    pipe = load_pipeline(model, device, dtype)
    network = (load_judge() if judge is None else Judge.from_pretrained(judge)).to(pipe.device)
    names = {"model": model, "dataset_name": dataset_name, "dtype": None if dtype == "float32" else dtype}
    for option, path in (("judge", judge), ("inception_weights", inception_weights)):
        names[option] = None if path is None else str(path)
    inception = None if inception_weights is None else load_inception(inception_weights)
    bench = Bench(network, train, test, names, classification_accuracy_score, inception)
    records = measure_runs(pipe, runs, bench, output, cache_dir, chunk_size, again=force)
    if state.is_main_process:
        print(render_view(records, name))
    state.wait_for_everyone()
    state.destroy_process_group()
