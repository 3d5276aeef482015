"""``mnist-guided figure NAME``: what networks keep, make and learned, as one picture each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from ..data import DEFAULT_DATASET
from .options import (
    MOST_IMAGES,
    Autoencoder,
    DatasetName,
    Device,
    Force,
    Model,
    Picture,
    Resolution,
    Seed,
    check_figure,
    check_new_file,
    check_packages,
    check_range,
    load_autoencoder,
    load_image_maker,
    load_pipeline,
    load_points_pipeline,
)

_COUNTS = {"reconstructions": 12, "interpolation": 10, "manifold": 20, "latents": 5_000}  # of images


def autoencoder(
    model: Autoencoder,
    output: Picture,
    show: Literal["reconstructions", "interpolation", "manifold", "latents"] = "reconstructions",
    num_images: int | None = None,
    num_rows: int = 6,
    dataset_name: DatasetName = DEFAULT_DATASET,
    resolution: Resolution = None,
    seed: Seed = 0,
    device: Device = None,
    force: Force = False,
) -> None:
    """Draw what an autoencoder keeps of test images, or what lies in its latent space.

    reconstructions: images over their reconstructions, from the posterior's mean and, of a VAE, from a draw of it.
    interpolation: straight lines from the latent of one image to that of another, decoded on the way. manifold: a
    square of the plane of a two-dimensional latent, decoded at equal steps of the prior's probability. latents: where
    images lie, one colour per class; a latent larger than 2 in the plane of its greatest variance.

    Example: mnist-guided figure autoencoder --model runs/vae --show interpolation --output interpolation.png

    Args:
        show: Reconstructions, interpolation, manifold, or latents.
        num_images: Images of a row (12, on a line 10), on a side of the square (20), in latent space (5,000).
        num_rows: Lines of an interpolation, each between random images of two classes.
    """
    check_figure(output, force) if show == "latents" else check_new_file(output, force)
    count = _COUNTS[show] if num_images is None else num_images
    least = 2 if show in ("interpolation", "latents") else 1
    check_range("num_images", count, least, math.inf if show == "latents" else MOST_IMAGES)
    check_range("num_rows", num_rows, 1, MOST_IMAGES)
    vae = load_autoencoder(model, device)

    from ..data.images import load_test_images
    from ..figures.images import save_figure

    if show == "manifold":
        figure, said = _manifold(vae, count)
    elif show == "reconstructions":
        figure, said = _reconstructions(vae, _test_images(dataset_name, resolution, count, seed), seed)
    elif show == "latents":
        figure, said = _latents(vae, load_test_images(dataset_name, max_samples=count, resolution=resolution)[0])
    else:
        test, _ = load_test_images(dataset_name, resolution=resolution)
        if len(test.labels.unique()) < 2:
            raise ValueError(f"--dataset_name {dataset_name!r} has test images of one class only; two are needed.")
        figure, said = _interpolation(vae, test, num_rows, count, seed)
    save_figure(figure, output)
    print(f"{output}: {said}.")


def samples(
    model: Annotated[
        str, arg(help="Folder or Hub id of a VAE or of a GAN's generator, or folder of a pipeline.", metavar="ID")
    ],
    output: Picture,
    num_rows: int | None = None,
    num_columns: int = 12,
    seed: Seed = 0,
    device: Device = None,
    force: Force = False,
) -> None:
    """Draw images of a VAE's prior N(0, I), as it makes them without a denoiser, or of a GAN.

    Example: mnist-guided figure samples --model runs/gan --output samples.png

    Args:
        num_rows: Rows of images, of the classes in turn where it has classes; one per class, else 8, if left out.
        num_columns: Images in a row.
    """
    check_new_file(output, force)
    check_range("num_columns", num_columns, 1, MOST_IMAGES)
    check_range("num_rows", 8 if num_rows is None else num_rows, 1, MOST_IMAGES)
    network = load_image_maker(model, device)

    import torch

    from ..data.posteriors import decode_images
    from ..evaluation.samples import generate_images
    from ..figures.images import image_rows, save_figure
    from ..models.gan import GANGenerator
    from ..seeding import keyed_generator

    is_gan = isinstance(network, GANGenerator)
    if not is_gan:
        check_has_prior(network)
    shape = (network.config.latent_dim,) if is_gan else network.latent_shape
    num_classes = network.config.num_classes if is_gan else None
    rows = range(num_rows or num_classes or 8)
    keys = [(row, column) for row in rows for column in range(num_columns)]
    latents = torch.stack([torch.randn(shape, generator=keyed_generator(seed, *key)) for key in keys])
    labels = None if num_classes is None else torch.arange(len(rows)).repeat_interleave(num_columns) % num_classes
    images = generate_images(network, latents, labels) if is_gan else decode_images(network, latents)
    names = ["" if num_classes is None else str(row % num_classes) for row in rows]
    save_figure(image_rows(images.split(num_columns), names), output)
    print(f"{output}: {len(images)} images of a {type(network).__name__}.")


def forward_process(
    output: Picture,
    model: Model = None,
    num_levels: int = 7,
    num_images: int = 10,
    dataset_name: DatasetName = DEFAULT_DATASET,
    resolution: Resolution = None,
    seed: Seed = 0,
    device: Device = None,
    force: Force = False,
) -> None:
    """Draw test images as noise is added to them, one row per timestep; latents are decoded.

    Example: mnist-guided figure forward_process --output forward.png

    Args:
        num_levels: Timesteps, evenly spread from the first to the last.
        num_images: Images, chosen at random.
    """
    check_new_file(output, force)
    check_range("num_levels", num_levels, 2, MOST_IMAGES)
    check_range("num_images", num_images, 1, MOST_IMAGES)
    pipe = load_pipeline(model, device)
    if pipe.image_shape is None:
        raise ValueError(f"--model {model!r} makes samples that are no images, so there are none to add noise to.")

    import torch

    from ..data.images import to_uint8
    from ..data.posteriors import encode_images
    from ..evaluation.guide import timesteps_and_levels
    from ..figures.images import image_rows, save_figure
    from ..sampling.noise import NoiseLevel, add_noise
    from ..seeding import keyed_generator

    timesteps, table = timesteps_and_levels(pipe)
    chosen = _test_images(dataset_name, resolution, num_images, seed)
    posteriors = encode_images(pipe.vae, chosen, progress=False)
    draws = torch.randn(2, *posteriors.mean.shape, generator=keyed_generator(seed, "noise")).to(posteriors.mean.device)
    clean = posteriors.draw(torch.arange(len(chosen)), draws[0])
    rows = {"image": chosen}
    with torch.no_grad():
        for index in torch.linspace(0, len(table.alpha) - 1, num_levels).round().int().tolist():
            level = NoiseLevel(float(table.alpha[index]), float(table.sigma[index]))
            noisy = pipe.decode_latents(add_noise(clean, draws[1], level), "pt")
            rows[f"t = {timesteps[index]}, alpha = {level.alpha:.3f}"] = to_uint8(noisy * 2.0 - 1.0).cpu()
    save_figure(image_rows(list(rows.values()), list(rows)), output)
    print(f"{output}: {len(chosen)} images at {num_levels} timesteps; abar_T = {float(table.alpha[-1] ** 2):.2g}.")


def points(
    model: Annotated[str, arg(help="Folder or Hub id of a pipeline that was trained on points.", metavar="ID")],
    output: Annotated[Path, arg(help="Picture to write; of show=animation a film, .gif.")],
    show: Literal["samples", "trajectory", "animation"] = "samples",
    dataset_name: str | None = None,
    guidance_scale: tuple[float, ...] = (),
    num_points: int = 2_000,
    num_inference_steps: int | None = None,
    num_frames: int | None = None,
    fps: int = 20,
    seed: Seed = 0,
    device: Device = None,
    force: Force = False,
) -> None:
    """Draw points over the data: samples and their distance from it, or their way there from noise.

    samples: one panel per guidance scale, and a table of the sliced Wasserstein distance from real points of each
    class, in standard deviations, a mean over classes; its floor is that of other real points. trajectory: panels from
    noise to data. animation: the same as a film.

    Example: mnist-guided figure points --model runs/moons --guidance_scale 0 1 4 --output moons.png

    Args:
        show: Samples, their trajectory, or an animation of it.
        dataset_name: What it was trained on, such as points:dino; the folder of train_pipeline.py says, if left out.
        guidance_scale: One panel each; a trajectory takes one. The pipeline's own if left out.
        num_points: Points in a panel, the classes in equal parts.
        num_inference_steps: Steps of the scheduler; the pipeline's own number, for a film 200, if left out.
        num_frames: Panels of a trajectory (6 if left out) or frames of a film (60); points move equally far between.
        fps: Frames per second of a film, at most 50.
    """
    film = show == "animation"
    check_new_file(output, force, (".gif",)) if film else check_new_file(output, force)
    check_packages(("matplotlib",), "plots")
    frames = num_frames or (60 if film else 6)
    check_range("num_frames", frames, 2)
    check_range("fps", fps, 1, 50)
    if show != "samples" and len(guidance_scale) > 1:
        raise ValueError(f"--guidance_scale of a {show} is one number, got {len(guidance_scale)}.")
    pipe, data = load_points_pipeline(model, dataset_name, num_points, device)
    if guidance_scale and pipe.classifier is None:
        raise ValueError(f"--guidance_scale was given, but the pipeline {model!r} has no classifier; leave it out.")

    import torch

    from ..evaluation.points import draw_points, measure_points, real_points
    from ..evaluation.tables import rows_table
    from ..figures.images import save_figure, save_film
    from ..figures.points import evenly_moved, point_frames, point_panels

    steps = num_inference_steps or (200 if film else None)  # the last of them move samples furthest
    scales: dict[str, float | None] = {f"guidance_scale {scale:g}": scale for scale in guidance_scale}
    drawn = {
        title: draw_points(pipe, data, num_points, steps, seed, scale)
        for title, scale in (scales or {"": None}).items()
    }
    labels, trajectory = next(iter(drawn.values()))
    real = data.to_data_units(real_points(data, labels, seed=0)).numpy()
    if show == "samples":
        panels = [(title, data.to_data_units(path[-1]).numpy()) for title, (_, path) in drawn.items()]
        save_figure(point_panels(panels, labels.numpy(), data.class_names, real), output)
        print(rows_table({title: measure_points(data, path[-1], labels) for title, (_, path) in drawn.items()}))
    else:
        shown = evenly_moved(trajectory.numpy(), frames)
        places = data.to_data_units(trajectory[shown]).numpy()
        limits = data.to_data_units(torch.tensor([[-3.0, -3.0], [3.0, 3.0]])).numpy()  # the noise too
        if film:
            save_film(list(point_frames(places, labels.numpy(), real, limits)), output, fps)
        else:
            panels = [(f"step {step}" if step else "noise", place) for step, place in zip(shown, places, strict=True)]
            save_figure(point_panels(panels, labels.numpy(), data.class_names, real, limits), output)
        print(f"{output}: {len(shown)} {'frames' if film else 'panels'} of {len(labels)} points.")
    print(f"{output}: {type(pipe.scheduler).__name__} in {len(trajectory) - 1} steps.")


def _reconstructions(vae: Any, images: Any, seed: int) -> tuple[Any, str]:
    import torch

    from ..data.posteriors import encode_latents, reconstruct
    from ..figures.images import image_rows
    from ..seeding import keyed_generator

    rows = {"image": images, "from the mean": reconstruct(vae, images)}
    noise = torch.randn(encode_latents(vae, images).shape, generator=keyed_generator(seed, "posterior"))
    drawn = reconstruct(vae, images, noise)
    if not torch.equal(drawn, rows["from the mean"]):  # an autoencoder of distributions
        rows["from a draw"] = drawn
    return image_rows(list(rows.values()), list(rows)), f"{len(images)} test images and their reconstructions"


def _interpolation(vae: Any, test: Any, num_rows: int, num_steps: int, seed: int) -> tuple[Any, str]:
    import torch

    from ..data.posteriors import decode_images, encode_latents
    from ..figures.images import image_rows
    from ..seeding import keyed_generator

    rows, names = [], []
    for row in range(num_rows):
        order = torch.randperm(len(test), generator=keyed_generator(seed, "pair", row))
        pair = torch.stack([order[0], order[test.labels[order] != test.labels[order[0]]][0]])
        ends = test.images[pair]
        start, end = encode_latents(vae, ends)
        weights = torch.linspace(0.0, 1.0, num_steps).reshape(-1, *(1,) * start.ndim)
        between = decode_images(vae, torch.lerp(start, end, weights))
        rows.append(torch.cat([ends[:1], between, ends[1:]]))
        names.append(" to ".join(test.class_names[label] for label in test.labels[pair].tolist()))
    columns = ["image", *(f"{index / (num_steps - 1):.2f}" for index in range(num_steps)), "image"]
    return image_rows(rows, names, columns), f"{num_rows} lines of {num_steps} steps between test images"


def _manifold(vae: Any, count: int) -> tuple[Any, str]:
    check_has_prior(vae)
    if vae.latent_shape != (2,):
        raise ValueError(
            f"--model has latents of shape {vae.latent_shape}; only the plane of latents of shape (2,) can be drawn. "
            "Train one with train_vae.py --preset manifold."
        )

    import torch

    from ..data.posteriors import decode_images
    from ..figures.images import manifold, manifold_coordinates

    coordinates = manifold_coordinates(count)
    line = torch.from_numpy(coordinates).float()
    second, first = torch.meshgrid(line, line, indexing="ij")
    images = decode_images(vae, torch.stack([first, second], dim=-1).flatten(0, 1)).unflatten(0, (count, count))
    said = f"{count} x {count} latents from {coordinates[0]:.2f} to {coordinates[-1]:.2f}"
    return manifold(images.numpy(), coordinates), said


def _latents(vae: Any, test: Any) -> tuple[Any, str]:
    from ..data.posteriors import encode_latents
    from ..figures.points import latent_scatter, principal_plane

    points = encode_latents(vae, test.images).flatten(1).numpy()
    axis_labels = ("$z_1$", "$z_2$")
    if points.shape[1] == 1:
        raise ValueError("--model has a latent of size 1; a plane needs two dimensions.")
    if points.shape[1] > 2:
        points, parts = principal_plane(points)
        first, second = (f"principal component {i} ({part:.0%} of the variance)" for i, part in enumerate(parts, 1))
        axis_labels = (first, second)
    figure = latent_scatter(points, test.labels.numpy(), test.class_names, axis_labels)
    return figure, f"posterior means of {len(test)} test images"


def _test_images(dataset_name: str, resolution: int | None, count: int, seed: int) -> Any:
    """Test images chosen at random, uint8 (N, H, W) or (N, 3, H, W)."""
    import torch

    from ..data.images import load_test_images
    from ..seeding import keyed_generator

    images = load_test_images(dataset_name, resolution=resolution)[0].images
    return images[torch.randperm(len(images), generator=keyed_generator(seed, "choice"))[:count]]


def check_has_prior(vae: Any) -> None:
    """Refuse an autoencoder that was not held to N(0, I) where latents are drawn from that."""
    if not vae.config.get("variational"):
        raise ValueError(
            "--model is a plain autoencoder or one of diffusers (variational is not true in its config): it has no "
            "prior to draw from. Give a variational one of this package."
        )
