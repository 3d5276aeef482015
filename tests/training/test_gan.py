"""The GAN: its networks, its losses against closed forms, and a training that no layout and no stop changes."""

import pytest
import torch
from torch import nn

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.images import load_images
from mnist_guided_pipeline.evaluation.judge import load_judge
from mnist_guided_pipeline.evaluation.samples import draw_gan_images
from mnist_guided_pipeline.evaluation.scores import Reference, score_images
from mnist_guided_pipeline.training.losses import discriminator_loss, generator_loss, r1_penalty
from tiny import noise
from training_runs import make_config, train

KINDS = {
    "convolutional": ({"hidden_channels": (8, 8)}, {"hidden_channels": (4, 6), "num_features": 5}),
    "plain": ({"hidden_sizes": (12, 20)}, {"hidden_sizes": (12, 7)}),
}


@pytest.fixture(params=[(kind, classes) for kind in KINDS for classes in (None, 3)], ids=str)
def pair(request) -> tuple[mgp.GANGenerator, mgp.GANDiscriminator, torch.Tensor | None]:
    """A generator, a discriminator and labels of four images, with and without classes."""
    kind, num_classes = request.param
    torch.manual_seed(0)
    generator = mgp.GANGenerator(latent_dim=6, num_classes=num_classes, **KINDS[kind][0])
    discriminator = mgp.GANDiscriminator(num_classes=num_classes, **KINDS[kind][1])
    return generator, discriminator, None if num_classes is None else torch.tensor([0, 1, 2, 1])


class TestNetworks:
    def test_shapes_and_ranges_tuples_and_outputs(self, pair):
        generator, discriminator, labels = pair
        images = generator(100 * noise(4, 6), labels).sample
        assert images.shape == (4, 1, 28, 28) and images.abs().max() <= 1
        assert torch.equal(images, generator(100 * noise(4, 6), labels, return_dict=False)[0])
        logits = discriminator(images, labels).logits
        assert logits.shape == (4,) and torch.equal(logits, discriminator(images, labels, return_dict=False)[0])

    def test_an_image_does_not_depend_on_its_batch(self, pair):
        generator, discriminator, labels = pair
        generator.train(), discriminator.train()
        each = [None] * 4 if labels is None else labels.split(1)
        images = generator(noise(4, 6), labels).sample
        alone = torch.cat([generator(z, y).sample for z, y in zip(noise(4, 6).split(1), each, strict=True)])
        assert torch.allclose(images, alone, atol=1e-5)
        logits = torch.cat([discriminator(x, y).logits for x, y in zip(images.split(1), each, strict=True)])
        assert torch.allclose(discriminator(images, labels).logits, logits, atol=1e-5)

    def test_every_parameter_has_a_gradient_and_there_are_no_buffers(self, pair):
        generator, discriminator, labels = pair
        discriminator(generator(noise(4, 6), labels).sample, labels).logits.square().sum().backward()
        for network in (generator, discriminator):
            assert not list(network.buffers())  # an average of the parameters is then the whole network
            for name, parameter in network.named_parameters():
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name

    def test_labels_matter_and_are_wanted_exactly_where_there_are_classes(self, pair):
        generator, discriminator, labels = pair
        same_noise, same_image = noise(1, 6).expand(3, 6), noise(1, 1, 28, 28).expand(3, 1, 28, 28)
        for network, sample in ((generator, same_noise), (discriminator, same_image)):
            if labels is None:
                with pytest.raises(ValueError, match="class_labels were given, but this .* has no classes"):
                    network(sample, torch.arange(3))
            else:
                outputs = network(sample, torch.arange(3), return_dict=False)[0].reshape(3, -1)
                assert torch.pdist(outputs).min() > 1e-4
                with pytest.raises(ValueError, match="class_labels are missing: this .* has 3 classes"):
                    network(sample)

    def test_features_of_another_network_are_judged_too(self):
        discriminator = mgp.GANDiscriminator(feature_shapes=((3, 5, 5), (6,)))
        images, maps, vectors = noise(2, 1, 28, 28), noise(2, 3, 5, 5), noise(2, 6)
        logits = discriminator(images, features=(maps, vectors)).logits
        for features in ((maps.flip(0), vectors), (maps, vectors.flip(0))):
            assert (discriminator(images, features=features).logits - logits).abs().min() > 1e-4
        with pytest.raises(ValueError, match="features has 0 parts, this discriminator judges by 2"):
            discriminator(images)


class TestLosses:
    def test_are_cross_entropies(self):
        real, fake = noise(7), noise(7, seed=1)
        cross_entropy = nn.BCEWithLogitsLoss()
        expected = cross_entropy(real, torch.ones(7)) + cross_entropy(fake, torch.zeros(7))
        assert torch.allclose(discriminator_loss(real, fake), expected)
        assert torch.allclose(generator_loss(fake), cross_entropy(fake, torch.ones(7)))
        logits = torch.tensor([-1000.0], requires_grad=True)  # the discriminator is sure
        loss = generator_loss(logits)
        loss.backward()
        assert loss.item() == 1000 and logits.grad.item() == -1

    @pytest.mark.parametrize("gamma", [0.1, 3.0])
    def test_r1_of_a_linear_discriminator_is_its_squared_weight(self, gamma):
        weight = noise(784).requires_grad_()
        images = noise(4, 1, 28, 28, seed=1).requires_grad_()
        penalty = r1_penalty(images.flatten(1) @ weight + 5.0, images, gamma)
        assert penalty.item() == pytest.approx(gamma / 2 * weight.square().sum().item(), rel=1e-5)
        (gradient,) = torch.autograd.grad(penalty, weight)
        assert torch.allclose(gradient, gamma * weight, rtol=1e-5)


def test_the_generator_learns(digits_folder, tmp_path):
    """Its images come nearer to the digits in the mean, which only the discriminator can tell it."""
    real = load_images(digits_folder, "train").images.float() / 255
    settings = {
        "network_config": '{"latent_dim": 8, "hidden_sizes": [64]}',
        "discriminator_config": '{"hidden_sizes": [64]}',
        **{"train_batch_size": 64, "ema_decay": 0.98, "lr_warmup_steps": 1, "checkpointing_steps": None},
    }
    distance = {}
    for steps in (1, 150):
        folder = tmp_path / f"after {steps}"
        train("gan", make_config("gan", digits_folder, folder, max_train_steps=steps, **settings))
        fake = draw_gan_images(mgp.GANGenerator.from_pretrained(folder), 500)[0].float() / 255
        distance[steps] = (fake.mean(dim=0) - real.mean(dim=0)).norm()
    assert distance[150] < 0.6 * distance[1]


@pytest.fixture
def generator() -> mgp.GANGenerator:
    torch.manual_seed(0)
    return mgp.GANGenerator(latent_dim=4, hidden_sizes=(8,), num_classes=10).eval()


class TestDrawing:
    def test_an_image_depends_on_its_number_alone(self, generator):
        whole = draw_gan_images(generator, 25)[0]
        cut = draw_gan_images(generator, 25, chunk_size=7)[0]
        fewer = draw_gan_images(generator, 10)[0]
        assert whole.shape == (25, 28, 28) and whole.dtype == torch.uint8
        assert (whole.int() - cut.int()).abs().max() <= 1
        assert (whole[:10].int() - fewer.int()).abs().max() <= 1
        assert not torch.equal(whole, draw_gan_images(generator, 25, seed=1)[0])

    def test_bad_numbers(self, generator):
        with pytest.raises(ValueError, match="num_images must be an integer of at least 1, got 0"):
            draw_gan_images(generator, 0)

    def test_images_without_wanted_classes_are_scored(self, digits_folder):
        train, test = (load_images(digits_folder, split) for split in ("train", "test"))
        reference = Reference(train, test, load_judge())
        figures = score_images(test.images, None, reference, check_memorisation=False)
        assert "accuracy" not in figures and figures["judge_fid"]["value"] == pytest.approx(0, abs=1e-6)
