"""Laws of the autoencoders: shapes, the closed form of the KL, and latents of unit variance."""

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from mnist_guided_pipeline import MLPVAE, ConvVAE
from mnist_guided_pipeline.data.posteriors import PosteriorTable, encode_images, latent_statistics
from mnist_guided_pipeline.models.autoencoders import LatentGaussian
from tiny import noise

AUTOENCODERS = {
    "vector": (MLPVAE, {"latent_dim": 5, "hidden_size": 32}, (5,)),
    "spatial": (ConvVAE, {"latent_channels": 3, "hidden_channels": (8, 16)}, (3, 7, 7)),
    "convolutional vector": (ConvVAE, {"latent_dim": 6, "hidden_channels": (8, 16)}, (6,)),
}


@pytest.fixture(params=AUTOENCODERS.values(), ids=AUTOENCODERS.keys())
def vae_and_shape(request):
    vae_class, arguments, shape = request.param
    torch.manual_seed(0)
    return vae_class(**arguments).eval(), shape


@pytest.fixture
def images(digits) -> torch.Tensor:
    """uint8 (500, 28, 28)."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in digits[0][:500]]))


class TestInterface:
    def test_shapes_and_ranges(self, vae_and_shape):
        vae, shape = vae_and_shape
        x = noise(4, 1, 28, 28).clamp(-1, 1)
        posterior = vae.encode(x).latent_dist
        assert vae.latent_shape == shape
        assert posterior.mean.shape == posterior.std.shape == posterior.sample().shape == (4, *shape)
        assert torch.equal(vae.encode(x, return_dict=False)[0].mean, posterior.mean)
        z = 10 * posterior.sample()
        decoded = vae.decode(z).sample
        assert decoded.shape == x.shape and decoded.abs().max() <= 1
        assert torch.equal(vae.decode(z, return_dict=False)[0], decoded)
        assert torch.equal(2 * torch.sigmoid(vae.decode_logits(z)) - 1, decoded)

    def test_reconstruction_is_the_mean_decoded_or_a_draw(self, vae_and_shape):
        vae, _ = vae_and_shape
        x = noise(2, 1, 28, 28)
        posterior = vae.encode(x).latent_dist
        assert torch.equal(vae(x).sample, vae.decode(posterior.mean).sample)
        drawn = [vae(x, sample_posterior=True, generator=torch.Generator().manual_seed(s)).sample for s in (1, 1, 2)]
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])

    def test_an_image_does_not_depend_on_its_batch(self, vae_and_shape):
        vae, _ = vae_and_shape
        x = noise(5, 1, 28, 28)
        whole = vae.encode(x).latent_dist.mean
        parts = torch.cat([vae.encode(part).latent_dist.mean for part in x.split([1, 4])])
        assert torch.allclose(whole, parts, atol=1e-5)

    def test_plain_autoencoder_has_no_spread(self):
        vae = MLPVAE(latent_dim=3, hidden_size=8, variational=False)
        posterior = vae.encode(noise(2, 1, 28, 28)).latent_dist
        assert torch.equal(posterior.sample(), posterior.mean)
        assert posterior.kl().tolist() == [0.0, 0.0]


class TestKL:
    @pytest.mark.parametrize("shape", [(5,), (3, 7, 7)])
    def test_equals_torch_distributions(self, shape):
        parameters = [noise(4, 2 * shape[0], *shape[1:], seed=seed) for seed in (0, 1)]
        ours = [LatentGaussian(values) for values in parameters]
        theirs = [Independent(Normal(p.mean, p.std), len(shape)) for p in ours]
        standard = Independent(Normal(torch.zeros(shape), torch.ones(shape)), len(shape))
        assert torch.allclose(ours[0].kl(), kl_divergence(theirs[0], standard), rtol=1e-5)
        assert torch.allclose(ours[0].kl(ours[1]), kl_divergence(*theirs), rtol=1e-5)


class TestNormalisation:
    def test_fitted_statistics_give_unit_variance(self, vae_and_shape, images):
        vae, shape = vae_and_shape
        mean, std = latent_statistics(encode_images(vae, images, progress=False))
        vae.register_to_config(latents_mean=mean, latents_std=std)
        table = encode_images(vae, images, progress=False)
        assert table.sample_shape == shape
        indices = torch.arange(500).repeat(40)
        samples = table.draw(indices, noise(len(indices), *shape))
        flat = samples.transpose(0, 1).flatten(1)
        assert flat.mean(dim=1).abs().max() < 0.03
        assert (flat.std(dim=1) - 1).abs().max() < 0.03

    def test_images_are_encoded_anew_only_by_another_encoder(self, vae_and_shape, images, monkeypatch):
        vae, _ = vae_and_shape
        before, calls = encode_images(vae, images, progress=False), []
        encode = vae.encode
        monkeypatch.setattr(vae, "encode", lambda *inputs: calls.append(1) or encode(*inputs))
        with torch.no_grad():
            next(vae.decoder.parameters()).mul_(0.9)
        assert torch.equal(encode_images(vae, images, progress=False).mean, before.mean)
        assert not calls
        with torch.no_grad():
            next(vae.encoder.parameters()).mul_(0.9)
        assert not torch.equal(encode_images(vae, images, progress=False).mean, before.mean)
        assert calls

    def test_constant_channels_are_refused(self):
        with pytest.raises(ValueError, match=r"channels \[1\] are constant"):
            latent_statistics(PosteriorTable(noise(10, 2) * torch.tensor([1.0, 0.0]), torch.zeros(10, 2)))

    def test_without_an_autoencoder_pixels_are_the_samples(self, images):
        table = encode_images(None, images)
        assert table.sample_shape == (1, 28, 28)
        drawn = table.draw(torch.tensor([3, 3]), noise(2, 1, 28, 28))
        assert torch.equal(drawn[0], drawn[1])
        assert torch.equal(drawn[0, 0], images[3] / 127.5 - 1)
