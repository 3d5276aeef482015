"""``mnist-guided figure anomaly``: how well reconstruction errors tell known images from others."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..storage.places import public_name
from .autoencoder_options import load_autoencoder
from .figures import check_figure, save_figure

__all__ = ["anomaly"]


def anomaly(
    vae: str,
    output: Path,
    dataset_name: str = "ylecun/mnist",
    other_dataset_name: str | None = None,
    score: Literal["mse", "bce"] = "mse",
    seed: int = 0,
    device: str | None = None,
    force: bool = False,
) -> None:
    """Tell known images from others by an autoencoder's reconstruction error; print a table, draw the ROC curves.

    The others are the test images of another data set or, without one, the test images themselves: with inverted
    colours, in 7x7 blocks of random order, with Gaussian noise of standard deviation 0.2, and upside down.

    Example: mnist-guided figure anomaly --vae runs/ae --output anomaly.png

    Args:
        vae: Folder or Hub id of an autoencoder, or of a pipeline that has one.
        output: Picture to write.
        dataset_name: Hub id or folder of the data set that the autoencoder was trained on.
        other_dataset_name: Hub id or folder of a data set that it was not trained on.
        score: Reconstruction error: the mean squared error a pixel, or the binary cross-entropy in nats.
        seed: Of the corruptions.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
        force: Overwrite the output.
    """
    check_figure(output, force, needs=("matplotlib", "sklearn"), extra="plots,evaluation")
    network = load_autoencoder(vae, device=device)

    from ..data.images import load_images
    from ..evaluation.anomaly import CORRUPTIONS, detect, reconstruction_scores
    from ..evaluation.tables import markdown_table
    from ..figures.curves import Curve, roc_curves

    test = load_images(dataset_name, "test").images
    if other_dataset_name is None:
        others = {name: corrupt(test, seed) for name, corrupt in CORRUPTIONS.items()}
    else:
        others = {public_name(other_dataset_name): load_images(other_dataset_name, "test").images}
    known = reconstruction_scores(network, test, score)
    form = "{:.4f}" if score == "mse" else "{:.1f}"
    rows = [["images", "number", f"mean {score}", "AUC", "caught at 5 % false alarms"]]
    rows.append([f"{public_name(dataset_name)}, test", f"{len(known):,}", form.format(known.mean()), "", ""])
    curves, areas = {}, {}
    for name, images in others.items():
        scores = reconstruction_scores(network, images, score)
        found = detect(known, scores)
        curves[name] = Curve(found.false_positive_rate, found.true_positive_rate)
        areas[name] = found.auc
        numbers = (f"{len(scores):,}", form.format(scores.mean()), f"{found.auc:.3f}", f"{found.caught:.1%}")
        rows.append([name, *numbers])
    save_figure(roc_curves(curves, areas), output)
    print(markdown_table(rows))
    print(f"{output}: ROC curves by {score} of the reconstruction from the posterior's mean.")
