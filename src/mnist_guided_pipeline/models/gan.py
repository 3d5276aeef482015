r"""A generator and a discriminator of small images, for generative adversarial training.

The generator G maps noise z ~ N(0, I) to an image in one pass; the discriminator D gives every image a logit, high
where it takes it for real (Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661, section 3). ``losses.py`` has what
they are trained with.

Both have either two convolutional levels, at a quarter and half of each side (Radford et al. 2016,
https://arxiv.org/abs/1511.06434), or with ``hidden_sizes`` plain layers. With ``num_classes`` both see the class: the
generator beside the noise, and the discriminator through an inner product with its features (Miyato and Koyama 2018,
https://arxiv.org/abs/1802.05637, equation 3). The generator normalises each image by itself and the discriminator
none, so an image does not depend on the others of its batch.

Images are in model range [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from .layers import ClassifierOutput, DenoiserOutput, Network, check_image_shape


class GANGenerator(Network):
    """Noise, and its class if it has one, to an image; arguments not named here as in :class:`~.layers.Network`.

    Args:
        latent_dim: size of the noise vector.
        hidden_channels: channels at a quarter and at half of each side, multiples of 8; ignored with ``hidden_sizes``.
        hidden_sizes: widths of the hidden layers, for a network without convolutions.
        num_classes: number of classes; None for a network without classes.
    """

    @register_to_config
    def __init__(
        self,
        latent_dim: int = 64,
        hidden_channels: tuple[int, int] = (48, 24),
        hidden_sizes: tuple[int, ...] | None = None,
        num_classes: int | None = None,
        image_shape: tuple[int, int, int] = (1, 28, 28),
    ):
        super().__init__()
        channels, height, breadth = check_image_shape(image_shape, multiple=4 if hidden_sizes is None else 1)
        self.class_embedding = nn.Embedding(num_classes, latent_dim) if num_classes is not None else None
        width = latent_dim if num_classes is None else 2 * latent_dim
        layers: list[nn.Module] = []
        if hidden_sizes is None:
            inner, outer = hidden_channels
            layers += [
                nn.Linear(width, inner * (height // 4) * (breadth // 4)),
                nn.Unflatten(1, (inner, height // 4, breadth // 4)),
                nn.GroupNorm(8, inner),
                nn.SiLU(),
                nn.Conv2d(inner, inner, 3, padding=1),
                nn.GroupNorm(8, inner),
                nn.SiLU(),
                nn.ConvTranspose2d(inner, outer, 4, stride=2, padding=1),
                nn.GroupNorm(8, outer),
                nn.SiLU(),
                nn.ConvTranspose2d(outer, channels, 4, stride=2, padding=1),
            ]
        else:
            for size in hidden_sizes:
                layers += [nn.Linear(width, size), nn.ReLU()]
                width = size
            layers += [nn.Linear(width, channels * height * breadth), nn.Unflatten(1, tuple(image_shape))]
        self.layers = nn.Sequential(*layers)

    def forward(
        self, latents: Tensor, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> DenoiserOutput | tuple[Tensor]:
        """Standard Gaussian noise (B, latent_dim) to images (B, *image_shape) in [-1, 1], ``.sample``.

        Labels int64 (B,) that are missing, or are given to a generator without classes, are a ValueError.
        """
        _check_labels(self.class_embedding, class_labels, "generator")
        if self.class_embedding is not None:
            latents = torch.cat([latents, self.class_embedding(class_labels)], dim=1)
        images = torch.tanh(self.layers(latents))
        return DenoiserOutput(sample=images) if return_dict else (images,)


class GANDiscriminator(Network):
    """An image, and its class where there are classes, to one logit; arguments not named here as in the generator.

    Args:
        hidden_channels: channels at half and at a quarter of each side; ignored with ``hidden_sizes``.
        num_features: width of the features that are judged; with ``hidden_sizes`` the last of these for the image.
        feature_shapes: shapes, (C, H, W) or (D,), of what another network makes of the image and that is judged with it
            (Sauer et al. 2021, https://arxiv.org/abs/2111.01007, equation 4); ``num_features`` of each.
    """

    @register_to_config
    def __init__(
        self,
        hidden_channels: tuple[int, int] = (24, 48),
        num_features: int = 128,
        hidden_sizes: tuple[int, ...] | None = None,
        num_classes: int | None = None,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        feature_shapes: tuple[tuple[int, ...], ...] = (),
    ):
        super().__init__()
        channels, height, breadth = check_image_shape(image_shape, multiple=4 if hidden_sizes is None else 1)
        layers: list[nn.Module] = []
        if hidden_sizes is None:
            outer, inner = hidden_channels
            layers += [
                nn.Conv2d(channels, outer, 4, stride=2, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(outer, inner, 4, stride=2, padding=1),
                nn.LeakyReLU(0.2),
                nn.Flatten(),
                nn.Linear(inner * (height // 4) * (breadth // 4), num_features),
                nn.LeakyReLU(0.2),
            ]
            width = num_features
        else:
            layers.append(nn.Flatten())
            width = channels * height * breadth
            for size in hidden_sizes:
                layers += [nn.Linear(width, size), nn.LeakyReLU(0.2)]
                width = size
        self.layers = nn.Sequential(*layers)
        self.feature_layers = nn.ModuleList()
        for shape in feature_shapes:
            layers, size = [], shape[0]
            if len(shape) == 3:
                layers += [nn.Conv2d(size, 32, 3, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Flatten()]
                size = 32 * -(-shape[1] // 2) * -(-shape[2] // 2)
            self.feature_layers.append(nn.Sequential(*layers, nn.Linear(size, num_features), nn.LeakyReLU(0.2)))
        width += len(feature_shapes) * num_features
        self.head = nn.Linear(width, 1)
        self.class_embedding = nn.Embedding(num_classes, width) if num_classes is not None else None
        if self.class_embedding is not None:
            nn.init.normal_(self.class_embedding.weight, std=width**-0.5)  # logits of order one, as those of the head

    def forward(
        self,
        sample: Tensor,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
        features: Sequence[Tensor] = (),
    ) -> ClassifierOutput | tuple[Tensor]:
        """Images (B, *image_shape) in [-1, 1] to ``.logits`` (B,), above 0 for real.

        ``features`` are those of ``feature_shapes``, (B, ...) each; another number of them, and labels int64 (B,) that
        are missing, or are given to a discriminator without classes, are a ValueError.
        """
        _check_labels(self.class_embedding, class_labels, "discriminator")
        if len(features) != len(self.feature_layers):
            raise ValueError(
                f"features has {len(features)} parts, this discriminator judges by {len(self.feature_layers)}."
            )
        read = [layer(given) for layer, given in zip(self.feature_layers, features, strict=True)]
        judged = torch.cat([self.layers(sample), *read], dim=1)
        logits = self.head(judged).squeeze(1)
        if self.class_embedding is not None:
            logits = logits + (self.class_embedding(class_labels) * judged).sum(dim=1)
        return ClassifierOutput(logits=logits) if return_dict else (logits,)


def _check_labels(embedding: nn.Embedding | None, class_labels: Tensor | None, name: str) -> None:
    if embedding is None and class_labels is not None:
        raise ValueError(f"class_labels were given, but this {name} has no classes: set num_classes.")
    if embedding is not None and class_labels is None:
        raise ValueError(f"class_labels are missing: this {name} has {embedding.num_embeddings} classes.")
