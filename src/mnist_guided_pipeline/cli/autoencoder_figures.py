"""``mnist-guided figure NAME``: what a trained autoencoder keeps, what its latent space looks like, how it learned."""

from __future__ import annotations

from pathlib import Path

from .autoencoder_options import check_has_prior, load_autoencoder
from .figures import check_figure, save_figure

__all__ = ["interpolation", "latents", "manifold", "prior_samples", "reconstructions"]


def reconstructions(
    vae: str,
    output: Path,
    num_images: int = 12,
    dataset_name: str = "ylecun/mnist",
    seed: int = 0,
    device: str | None = None,
    force: bool = False,
) -> None:
    """Draw test images over their reconstructions, from the posterior's mean and, of a VAE, from a draw of it.

    Example: mnist-guided figure reconstructions --vae runs/vae --output reconstructions.png

    Args:
        vae: Folder or Hub id of an autoencoder, or of a pipeline that has one.
        output: Picture to write.
        num_images: Images, chosen at random.
        dataset_name: Hub id or folder of the data set.
        seed: Of the choice and of the draw.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
        force: Overwrite the output.
    """
    check_figure(output, force)
    _check_at_least("num_images", num_images, 1)
    network = load_autoencoder(vae, device=device)

    import torch

    from ..data.images import load_images
    from ..evaluation.autoencoders import reconstruct
    from ..figures.images import image_rows
    from ..seeding import keyed_generator

    images = load_images(dataset_name, "test").images
    chosen = images[torch.randperm(len(images), generator=keyed_generator(seed, "choice"))[:num_images]]
    rows = {"original": chosen, "from the mean": reconstruct(network, chosen)}
    if network.config.variational:
        noise = torch.randn(len(chosen), *network.latent_shape, generator=keyed_generator(seed, "posterior"))
        rows["from a draw"] = reconstruct(network, chosen, noise)
    else:
        rows = {"original": chosen, "reconstruction": rows["from the mean"]}
    save_figure(image_rows([row.numpy() for row in rows.values()], list(rows)), output)
    print(f"{output}: {len(chosen)} test images and their reconstructions.")


def prior_samples(
    vae: str,
    output: Path,
    num_rows: int = 8,
    num_columns: int = 16,
    seed: int = 0,
    device: str | None = None,
    force: bool = False,
) -> None:
    """Decode draws of the prior N(0, I): what a VAE makes without a denoiser.

    Example: mnist-guided figure prior-samples --vae runs/vae --output samples.png

    Args:
        vae: Folder or Hub id of a variational autoencoder, or of a pipeline that has one.
        output: Picture to write.
        num_rows: Rows of images.
        num_columns: Images in a row.
        seed: Of the draws.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
        force: Overwrite the output.
    """
    check_figure(output, force)
    _check_at_least("num_rows", num_rows, 1)
    _check_at_least("num_columns", num_columns, 1)
    network = load_autoencoder(vae, device=device)
    check_has_prior(network)

    from ..evaluation.autoencoders import decode_images, prior_draws
    from ..figures.images import image_rows

    images = decode_images(network, prior_draws(network, num_rows * num_columns, seed))
    save_figure(image_rows(list(images.reshape(num_rows, num_columns, 28, 28).numpy()), [""] * num_rows), output)
    print(f"{output}: {num_rows * num_columns} samples of the prior.")


def manifold(vae: str, output: Path, num_images: int = 20, device: str | None = None, force: bool = False) -> None:
    """Decode a square of the plane of a two-dimensional latent, at equal steps of the prior's probability.

    Example: mnist-guided figure manifold --vae runs/manifold --output manifold.png

    Args:
        vae: Folder or Hub id of a variational autoencoder with a latent of size 2.
        output: Picture to write.
        num_images: Images on each side.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
        force: Overwrite the output.
    """
    check_figure(output, force)
    _check_at_least("num_images", num_images, 1)
    network = load_autoencoder(vae, device=device)
    check_has_prior(network)
    if network.latent_shape != (2,):
        raise ValueError(
            f"--vae has latents of shape {network.latent_shape}; only the plane of latents of shape (2,) can be drawn. "
            "Train one with train_vae.py --preset manifold."
        )

    import torch

    from ..evaluation.autoencoders import decode_images
    from ..figures.images import manifold as draw
    from ..figures.images import manifold_coordinates

    coordinates = manifold_coordinates(num_images)
    line = torch.from_numpy(coordinates).float()
    second, first = torch.meshgrid(line, line, indexing="ij")
    images = decode_images(network, torch.stack([first, second], dim=-1).flatten(0, 1))
    save_figure(draw(images.reshape(num_images, num_images, 28, 28).numpy(), coordinates), output)
    print(f"{output}: {num_images} x {num_images} latents from {coordinates[0]:.2f} to {coordinates[-1]:.2f}.")


def interpolation(
    vae: str,
    output: Path,
    num_pairs: int = 6,
    num_steps: int = 10,
    dataset_name: str = "ylecun/mnist",
    seed: int = 0,
    device: str | None = None,
    force: bool = False,
) -> None:
    """Walk on straight lines from the latent of one test image to that of another, and decode on the way.

    Example: mnist-guided figure interpolation --vae runs/vae --output interpolation.png

    Args:
        vae: Folder or Hub id of an autoencoder, or of a pipeline that has one.
        output: Picture to write.
        num_pairs: Lines, each between random images of two classes.
        num_steps: Images decoded on a line, its ends among them.
        dataset_name: Hub id or folder of the data set.
        seed: Of the choice of images.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
        force: Overwrite the output.
    """
    check_figure(output, force)
    _check_at_least("num_pairs", num_pairs, 1)
    _check_at_least("num_steps", num_steps, 2)
    network = load_autoencoder(vae, device=device)

    import torch

    from ..data.images import load_images
    from ..evaluation.autoencoders import decode_images, encode_latents
    from ..figures.images import image_rows
    from ..seeding import keyed_generator

    test = load_images(dataset_name, "test")
    rows, names = [], []
    for pair in range(num_pairs):
        order = torch.randperm(len(test), generator=keyed_generator(seed, "pair", pair))
        first = order[0]
        others = order[test.labels[order] != test.labels[first]]
        if len(others) == 0:
            raise ValueError(f"--dataset_name {dataset_name!r} has test images of one class only; two are needed.")
        ends = test.images[torch.stack([first, others[0]])]
        start, end = encode_latents(network, ends)
        weights = torch.linspace(0.0, 1.0, num_steps).reshape(-1, *(1,) * start.ndim)
        between = decode_images(network, torch.lerp(start, end, weights))
        rows.append(torch.cat([ends[:1], between, ends[1:]]).numpy())
        names.append(" to ".join(test.class_names[int(test.labels[index])] for index in (first, others[0])))
    columns = ["image", *(f"{index / (num_steps - 1):.2f}" for index in range(num_steps)), "image"]
    save_figure(image_rows(rows, names, columns), output)
    print(f"{output}: {num_pairs} lines of {num_steps} steps between test images.")


def latents(
    vae: str,
    output: Path,
    num_images: int = 5_000,
    dataset_name: str = "ylecun/mnist",
    device: str | None = None,
    force: bool = False,
) -> None:
    """Show where test images lie in latent space, a colour a class.

    A latent of size 2 is shown as it is, a larger one in the plane of its greatest variance.

    Example: mnist-guided figure latents --vae runs/manifold --output latents.png

    Args:
        vae: Folder or Hub id of an autoencoder, or of a pipeline that has one.
        output: Picture to write.
        num_images: Test images, the first of the split.
        dataset_name: Hub id or folder of the data set.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
        force: Overwrite the output.
    """
    check_figure(output, force)
    _check_at_least("num_images", num_images, 2)
    network = load_autoencoder(vae, device=device)

    from ..data.images import load_images
    from ..evaluation.autoencoders import encode_latents
    from ..figures.latents import latent_scatter, principal_plane

    test = load_images(dataset_name, "test", max_samples=num_images)
    points = encode_latents(network, test.images).flatten(1).numpy()
    axis_labels = ("$z_1$", "$z_2$")
    if points.shape[1] == 1:
        raise ValueError("--vae has a latent of size 1; a plane needs two dimensions.")
    if points.shape[1] > 2:
        points, shares = principal_plane(points)
        first, second = (
            f"principal component {index} ({share:.0%} of the variance)" for index, share in enumerate(shares, 1)
        )
        axis_labels = (first, second)
    save_figure(latent_scatter(points, test.labels.numpy(), test.class_names, axis_labels), output)
    print(f"{output}: posterior means of {len(test)} test images.")


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"--{name} must be at least {least}, got {value}.")
