"""Laws of the sizes: grey and colour images of other sizes than MNIST's go from a data set to drawn images."""

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

import mnist_guided_pipeline as mgp
from conftest import write_split
from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.data.images import load_images
from mnist_guided_pipeline.training.launch import load_splits, make_accelerator
from training_runs import make_config, train

SHAPES = {"colour": (32, 32, 3), "grey": (16, 24)}


@pytest.fixture(params=SHAPES)
def data(request, tmp_path):
    """A folder of a tiny data set, and the shape of its arrays."""
    shape, random = SHAPES[request.param], np.random.default_rng(0)
    for split in ("train", "test"):
        images = [PILImage.fromarray(random.integers(0, 256, shape, dtype=np.uint8)) for _ in range(20)]
        write_split(tmp_path / "data", split, images, [index % 10 for index in range(20)])
    return tmp_path / "data", shape


def test_from_data_to_images(data, tmp_path):
    folder, shape = data
    folders = {name: tmp_path / name for name in ("vae", "denoiser", "classifier")}
    settings = {"max_train_steps": 2, "train_batch_size": 10, "max_train_samples": None, "max_eval_samples": None}
    settings |= {"validation_steps": None, "checkpointing_steps": None, "lr_warmup_steps": 0}
    convolutions = '{"latent_channels": 2, "hidden_channels": [8, 8], "num_res_blocks": 0}'
    train("vae", make_config("vae", folder, folders["vae"], **settings, network="ConvVAE", network_config=convolutions))
    settings["vae_path"] = str(folders["vae"])
    train("denoiser", make_config("denoiser", folder, folders["denoiser"], **settings))
    train("classifier", make_config("classifier", folder, folders["classifier"], **settings, score_matching_weight=0.0))

    parts = [text for name, path in folders.items() for text in (f"--{name}", str(path))]
    main(["assemble", *parts, "--output", str(tmp_path / "pipeline")])
    pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tmp_path / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    assert tuple(pipe.denoiser.config.sample_shape) == pipe.vae.latent_shape == (2, shape[0] // 4, shape[1] // 4)
    (image,) = pipe([3], num_inference_steps=2).images
    assert (image.mode, image.size) == ("RGB" if len(shape) == 3 else "L", (shape[1], shape[0]))

    with pytest.raises(ValueError, match=r"images have the shape .* 28, 28\), the VAE is for"):
        train("denoiser", make_config("denoiser", folder, tmp_path / "other", **settings, resolution=28))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("network", [mgp.ConvVAE, mgp.GANGenerator, mgp.GANDiscriminator])
def test_sizes_that_cannot_be_halved(network):
    with pytest.raises(ValueError, match=r"image_shape must be .* in multiples of 4, got \(1, 28, 30\)"):
        network(image_shape=(1, 28, 30))


def test_a_gan_in_colour():
    shape = (3, 16, 24)
    for sizes in (None, (8,)):
        images = mgp.GANGenerator(hidden_sizes=sizes, image_shape=shape)(torch.zeros(2, 64)).sample
        assert images.shape == (2, *shape)
        assert mgp.GANDiscriminator(hidden_sizes=sizes, image_shape=shape)(images).logits.shape == (2,)


def test_evaluation_refuses_what_its_judge_cannot_read(data, tmp_path, capsys):
    command = ["evaluate", "--dataset_name", str(data[0]), "--output", str(tmp_path / "metrics.json")]
    with pytest.raises(SystemExit):
        main(command)
    assert "the judge that is shipped reads those of shape (1, 28, 28): give --judge" in capsys.readouterr().err


def test_without_a_test_split_the_last_tenth_is_held_out(digits, tmp_path, capsys):
    images, labels = digits
    write_split(tmp_path / "data", "train", images[:200], labels[:200])
    settings = {"max_train_steps": 2, "max_train_samples": None, "max_eval_samples": None, "lr_warmup_steps": 0}
    config = make_config("vae", tmp_path / "data", tmp_path / "vae", **settings, checkpointing_steps=None)
    train_split, test_split = load_splits(config, make_accelerator(config))
    assert (len(train_split), len(test_split)) == (180, 20)
    whole = load_images(tmp_path / "data", "train")
    assert torch.equal(torch.cat([train_split.images, test_split.images]), whole.images)
    train("vae", config)
    assert "the last tenth of the training split is held out" in capsys.readouterr().out
