"""The bounds against the exact likelihood, which a VAE with a latent of size one or two has by quadrature."""

import json
import math

import numpy as np
import pytest
import torch

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.evaluation.autoencoders import (
    BINARISATIONS,
    binarise,
    check_has_likelihood,
    image_likelihood,
)
from mnist_guided_pipeline.evaluation.records import read_runs
from mnist_guided_pipeline.training.losses import reconstruction_loss


def tiny_vae(latent_dim: int, **config) -> mgp.MLPVAE:
    """An untrained VAE, whose encoder is near the prior and not the posterior."""
    torch.manual_seed(0)
    vae = mgp.MLPVAE(latent_dim=latent_dim, hidden_size=12, **config).double()
    with torch.no_grad():
        vae.decoder[-1].bias.sub_(2.0)
    return vae.eval()


@torch.no_grad()
def exact_log_likelihood(vae: mgp.MLPVAE, images: torch.Tensor) -> torch.Tensor:
    """log of the integral of N(z; 0, I) p(x | z), on a grid so fine that the trapezoidal rule is exact to rounding."""
    dim = vae.config.latent_dim
    line = torch.linspace(-6, 6, 601 if dim == 1 else 81, dtype=torch.float64)
    grid = torch.cartesian_prod(*[line] * dim).reshape(-1, dim)
    log_prior = -0.5 * (grid**2).sum(1) - 0.5 * dim * math.log(2 * math.pi) + dim * math.log(line[1] - line[0])
    logits = vae.decode_logits(grid)
    log_pixels = torch.stack(
        [-reconstruction_loss(logits, image.expand(len(grid), -1, -1, -1), "bce") for image in images]
    )
    return torch.logsumexp(log_pixels + log_prior, dim=1)


@pytest.fixture(scope="module")
def images(digits) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(image)) for image in digits[0][:4]])


class TestBounds:
    @pytest.mark.parametrize(("how", "dim"), [*((how, 1) for how in BINARISATIONS), ("stochastic", 2)])
    def test_importance_weights_reach_the_exact_likelihood(self, images, how, dim):
        vae = tiny_vae(dim)
        target = binarise(images, how)
        exact = exact_log_likelihood(vae, target)
        found = image_likelihood(vae, target, 3_000, seed=0)
        torch.testing.assert_close(found.importance_weighted, exact, atol=0.05, rtol=0)
        assert (exact - found.elbo).mean() > 0.1  # and the plain bound does not: the encoder is untrained

    def test_exact_where_the_posterior_is(self, images):
        """A decoder that ignores the latent and an encoder that gives the prior: every bound is the likelihood."""
        vae = tiny_vae(3)
        with torch.no_grad():
            vae.decoder[-1].weight.zero_()
            vae.encoder[-1].weight.zero_()
            vae.encoder[-1].bias.zero_()
        target = binarise(images, "stochastic")
        probability = torch.sigmoid(vae.decoder[-1].bias).reshape(1, 1, 28, 28)
        exact = torch.where(target > 0.5, probability, 1 - probability).log().flatten(1).sum(1)
        for k in (1, 7):
            found = image_likelihood(vae, target, k)
            torch.testing.assert_close(found.importance_weighted, exact, rtol=1e-5, atol=0)
            torch.testing.assert_close(found.elbo, exact, rtol=1e-5, atol=0)
            assert (found.kl.abs() < 1e-12).all()

    def test_an_image_does_not_depend_on_the_others(self, images):
        vae = tiny_vae(2)
        target = binarise(images, "grey")
        whole, part = image_likelihood(vae, target, 1_500), image_likelihood(vae, target[:3], 1_500)
        for together, alone in zip(whole, part, strict=True):
            torch.testing.assert_close(together[:3], alone, rtol=1e-6, atol=0)
        assert not torch.equal(
            part.importance_weighted, image_likelihood(vae, target[:3], 1_500, 1).importance_weighted
        )

    def test_spatial_latents(self, images):
        torch.manual_seed(0)
        vae = mgp.ConvVAE(latent_channels=1, hidden_channels=(8, 8)).eval()
        found = image_likelihood(vae, binarise(images[:2], "grey"), 50)
        assert (found.importance_weighted > found.elbo).all()
        assert all(part.shape == (2,) and part.dtype == torch.float64 for part in found)


def test_ways_to_binarise(images):
    grey = binarise(images, "grey")
    torch.testing.assert_close(grey, images[:, None].float() / 255)
    assert torch.equal(binarise(images, "threshold"), (images[:, None] > 127).float())
    drawn = torch.stack([binarise(images, "stochastic", seed) for seed in range(200)])
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert (drawn.mean(0) - grey).abs().max() < 0.2
    assert torch.equal(binarise(images, "stochastic", 3)[:2], binarise(images[:2], "stochastic", 3))


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda images: binarise(images, "round"), "binarisation must be one of grey, .*, got 'round'"),
        (lambda images: image_likelihood(tiny_vae(1), images[:, None].float(), 0), "must be at least 1 .* got 0"),
        (lambda images: check_has_likelihood(tiny_vae(2, variational=False), "bce"), "plain autoencoder .* no likelih"),
    ],
)
def test_what_cannot_be_measured(images, measure, message):
    with pytest.raises(ValueError, match=message):
        measure(images)


def test_the_study_files_the_bounds_of_the_test_set(typed, refused, digits_folder, tmp_path):
    folder, output = tmp_path / "tiny", tmp_path / "metrics.json"
    tiny_vae(2).float().save_pretrained(folder)
    (folder / "train_config.json").write_text(json.dumps({"reconstruction": "bce"}))
    line = ["study", "autoencoders", "--model", folder, "--dataset_name", digits_folder, "--num_images", 100]
    line += ["--output", output, "--binarisation", "threshold", "--num_importance_samples"]
    typed(*line, 30)
    record = read_runs(output)["autoencoders"]
    expected = {"num_images": 100, "seed": 0, "num_importance_samples": 30, "binarisation": "threshold"}
    assert record["settings"] == expected
    row = record["figures"]["rows"]["tiny"]
    assert 0 < row["negative_log_likelihood"]["value"] < row["negative_elbo"]["value"]
    assert row["negative_elbo"]["standard_error"] > 0 and row["negative_elbo"]["num_images"] == 100
    assert "--num_importance_samples must be at least 1" in refused(*line, 0)
    (folder / "train_config.json").write_text(json.dumps({"reconstruction": "mse"}))
    assert "trained with reconstruction 'mse'" in refused(*line, 30)
