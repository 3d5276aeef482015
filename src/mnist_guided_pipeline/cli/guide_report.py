"""``mnist-guided figure guide-report``: what the guide is worth, noise level by noise level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .figures import check_figure, save_figure
from .options import check_pipeline_folder, check_writable, load_pipeline

__all__ = ["guide_report"]


def guide_report(
    output: Path = Path("guide.png"),
    metrics: Path | None = None,
    name: str = "guide-report",
    model: str | None = None,
    num_test_images: int = 2_000,
    num_images: int = 1_000,
    guidance_scale: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
    cfg_scale: float = 1.0,
    num_updates: int = 1_000,
    seed: int = 0,
    dataset_name: str = "ylecun/mnist",
    image_column: str = "image",
    label_column: str = "label",
    device: str | None = None,
    force: bool = False,
) -> None:
    """Measure the guide: print the tables, save the figure, file the record.

    Accuracy, calibration and gradient over the noise; its own accuracy on guided images beside the judge's, over the
    guidance scale; and how a trained gradient differs from the exact one where that is known.

    Example: mnist-guided figure guide-report --output guide.png --metrics metrics.json

    Args:
        output: Picture to write, such as guide.png.
        metrics: File of measurements to add the numbers to; all other runs in it stay.
        name: Name of the record in that file.
        model: Folder or Hub id of a pipeline with a classifier; the one shipped with the package if left out.
        num_test_images: Test images read at each noise level.
        num_images: Images drawn at each guidance scale.
        guidance_scale: Scales to draw at.
        cfg_scale: Classifier-free weight of the drawn images; 0 leaves the label to the guide alone.
        num_updates: Of the two small classifiers that are trained where the exact gradient is known.
        seed: Of all noise.
        dataset_name: Hub id or folder of the data set that the pipeline was trained on.
        image_column: Column of the images.
        label_column: Column of the classes.
        device: Where to compute, such as cpu or cuda; a CUDA device where there is one, else the CPU, if left out.
        force: Overwrite the picture.
    """
    check_figure(output, force)
    if metrics is not None:
        check_writable(metrics.parent)
    if model is not None:
        check_pipeline_folder(model)

    from ..data.images import load_images
    from ..evaluation.fingerprints import fingerprint, pipeline_fingerprint
    from ..evaluation.guide import guide_by_noise, guide_hacking
    from ..evaluation.judge import load_judge
    from ..evaluation.learned_scores import learned_scores
    from ..evaluation.records import check_name, machine, read_runs, versions, write_run
    from ..evaluation.tables import render_view
    from ..figures.guide import guide_report_figure
    from ..sampling.arguments import check_count, parse_scales

    check_name(name)
    check_count("num_test_images", num_test_images)
    check_count("num_images", num_images)
    check_count("num_updates", num_updates)
    parse_scales("guidance_scale", guidance_scale, len(guidance_scale))
    if metrics is not None:
        read_runs(metrics)  # a file that cannot be added to is found before the work
    pipe = load_pipeline(model, device)
    judge = load_judge().to(pipe.device)
    test = load_images(
        dataset_name, "test", image_column=image_column, label_column=label_column, max_samples=num_test_images
    )
    figures: dict[str, Any] = {
        "by_noise": guide_by_noise(pipe, test, seed=seed),
        "hacking": guide_hacking(pipe, judge, num_images, guidance_scale, cfg_scale, seed),
        "learned_scores": learned_scores(num_updates=num_updates, seed=seed),
    }
    settings = {"num_test_images": num_test_images, "num_images": num_images, "cfg_scale": cfg_scale}
    settings |= {"num_updates": num_updates, "seed": seed}
    scales = " ".join(f"{scale:g}" for scale in guidance_scale)
    options = " ".join(f"--{option} {value:g}" for option, value in settings.items())
    record = {
        "command": f"mnist-guided figure guide-report {options} --guidance_scale {scales}",
        "model": {"name": "shipped" if model is None else Path(model).name, "fingerprint": pipeline_fingerprint(pipe)},
        "judge": {"name": "shipped", "fingerprint": fingerprint(judge.model)},
        "settings": settings,
        "versions": versions(),
        "machine": machine(pipe.device, 1),
        "figures": figures,
    }
    for part in figures:
        print(render_view({name: record}, name, part))
    save_figure(guide_report_figure(**figures), output)
    if metrics is not None:
        write_run(metrics, name, record)
