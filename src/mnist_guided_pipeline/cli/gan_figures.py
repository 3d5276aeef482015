"""``mnist-guided figure gan-samples``: images of a GAN, or its way from one noise to another."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from .options import check_picture, picture_format

__all__ = ["gan_samples"]


def gan_samples(
    gan: Path,
    output: Path,
    num_rows: int = 8,
    num_columns: int = 12,
    interpolate: bool = False,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Draw images of a GAN as one picture; a row a class where it has classes.

    Example: mnist-guided figure gan-samples --gan runs/gan --output gan.png

    Args:
        gan: Folder of a generator, from train_gan.py.
        output: Picture to write, such as gan.png.
        num_rows: Rows, of a GAN that is not told a class.
        num_columns: Images in a row.
        interpolate: Let the noise of a row go from one draw at its left end to another at its right end, on a path
            whose every point is as likely as a draw.
        seed: Of the noise. Every image has noise of its own, made from the seed, its row and its column.
        force: Overwrite the output.
    """
    if not (gan / "config.json").is_file():
        raise FileNotFoundError(f"--gan {str(gan)!r} has no config.json: give the output_dir of train_gan.py.")
    check_picture(output, force)

    import math

    import torch
    from PIL import Image

    from ..data.images import to_uint8
    from ..figures.grids import labelled_grid
    from ..models.gan import GANGenerator
    from ..sampling.arguments import check_count
    from ..seeding import keyed_generator
    from ..storage.atomic import atomic_write
    from ..storage.loading import load_network

    check_count("num_rows", num_rows)
    check_count("num_columns", num_columns)
    generator = load_network(gan)
    if not isinstance(generator, GANGenerator):
        raise ValueError(f"--gan {str(gan)!r} holds a {type(generator).__name__}, not a GANGenerator.")
    num_classes = generator.config.num_classes
    rows, columns = num_rows if num_classes is None else num_classes, num_columns

    def noise(row: int, column: int) -> torch.Tensor:
        return torch.randn(generator.config.latent_dim, generator=keyed_generator(seed, row, column))

    if interpolate:  # cos^2 + sin^2 = 1 keeps the law N(0, I) on the way, as a straight line would not
        angles = torch.linspace(0, math.pi / 2, columns)
        latents = [angle.cos() * noise(row, 0) + angle.sin() * noise(row, 1) for row in range(rows) for angle in angles]
    else:
        latents = [noise(row, column) for row in range(rows) for column in range(columns)]
    labels = None if num_classes is None else torch.arange(rows).repeat_interleave(columns)
    with torch.no_grad():
        images = to_uint8(generator(torch.stack(latents), labels).sample)
    names = ["" if num_classes is None else str(row) for row in range(rows)]
    encoded = BytesIO()
    labelled_grid([Image.fromarray(image.numpy()) for image in images], names).save(
        encoded, format=picture_format(output)
    )
    atomic_write(output, encoded.getvalue())
    print(f"{output}: {len(images)} images.")
