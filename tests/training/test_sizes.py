"""Laws of the sizes: grey and colour images of other sizes than MNIST's go from a data set to drawn images."""

import importlib
from functools import partial

import numpy as np
import pytest
import torch
from datasets import Features, Image, Value
from diffusers import AutoencoderKL, UNet2DModel
from PIL import Image as PILImage
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import mnist_guided_pipeline as mgp
import tiny
from conftest import write_split
from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.cli.options import MeasuringOptions
from mnist_guided_pipeline.data.images import load_images
from mnist_guided_pipeline.data.posteriors import encode_images
from mnist_guided_pipeline.evaluation.accuracy_score import classification_accuracy_score
from mnist_guided_pipeline.evaluation.judge import Judge
from mnist_guided_pipeline.evaluation.records import read_runs
from mnist_guided_pipeline.training.launch import load_splits, make_accelerator
from training_runs import make_config, own_signals, train

train_pipeline = importlib.import_module("train_pipeline")

SHAPES = {"colour": (32, 32, 3), "grey": (16, 24)}


@pytest.fixture(params=SHAPES)
def data(request, tmp_path):
    """A folder of a tiny data set, and the shape of its arrays."""
    shape, random = SHAPES[request.param], np.random.default_rng(0)
    for split in ("train", "test"):
        images = [PILImage.fromarray(random.integers(0, 256, shape, dtype=np.uint8)) for _ in range(20)]
        write_split(tmp_path / "data", split, images, [index % 10 for index in range(20)])
    return tmp_path / "data", shape


def test_from_data_to_images(data, tmp_path, refused):
    folder, shape = data
    line = refused("evaluate", "--dataset_name", folder, "--output", tmp_path / "metrics.json")
    assert "the judge that is shipped reads those of shape (1, 28, 28): give --judge" in line
    folders = {name: tmp_path / name for name in ("vae", "denoiser", "classifier")}
    settings = {"max_train_steps": 2, "train_batch_size": 10, "max_train_samples": None, "max_eval_samples": None}
    settings |= {"validation_steps": None, "checkpointing_steps": None, "lr_warmup_steps": 0}
    convolutions = '{"latent_channels": 2, "hidden_channels": [8, 8], "num_res_blocks": 0}'
    train("vae", make_config("vae", folder, folders["vae"], **settings, network="ConvVAE", network_config=convolutions))
    train("judge", make_config("judge", folder, tmp_path / "judge", **settings))
    assert Judge.from_pretrained(tmp_path / "judge").predict(load_images(folder, "test").images).shape == (20, 10)
    settings["vae_path"] = str(folders["vae"])
    train("denoiser", make_config("denoiser", folder, folders["denoiser"], **settings))
    train("classifier", make_config("classifier", folder, folders["classifier"], **settings, score_matching_weight=0.0))

    parts = [text for name, path in folders.items() for text in (f"--{name}", str(path))]
    main(["assemble", *parts, "--output", str(tmp_path / "pipeline")])
    pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tmp_path / "pipeline")
    assert tuple(pipe.denoiser.config.sample_shape) == pipe.vae.latent_shape == (2, shape[0] // 4, shape[1] // 4)
    (image,) = pipe([3], num_inference_steps=2).images
    assert (image.mode, image.size) == ("RGB" if len(shape) == 3 else "L", (shape[1], shape[0]))

    with pytest.raises(ValueError, match=r"images have the shape .* 28, 28\), the ConvVAE is for"):
        train("denoiser", make_config("denoiser", folder, tmp_path / "other", **settings, resolution=28))
    assert not (tmp_path / "other").exists()


def test_a_whole_pipeline_in_colour_is_measured_by_a_judge_of_transformers(tmp_path, capsys):
    """Images of another size and of three classes, resized: trained by a preset, drawn, judged, and shown."""
    random, names = np.random.default_rng(0), ["blue", "green", "red"]
    features = Features({"picture": Image(), "colour": Value("string")})
    for split, count in (("train", 48), ("test", 36)):
        pixels = random.integers(0, 100, (count, 20, 24, 3), dtype=np.uint8)
        for index, image in enumerate(pixels):
            image[:, :, 2 - index % 3] += 150
        labels = [names[index % 3] for index in range(count)]
        write_split(tmp_path / "data", split, [PILImage.fromarray(image) for image in pixels], labels, features)
    columns = {"image_column": "picture", "label_column": "colour", "resolution": 32}
    pipeline, data = str(tmp_path / "pipeline"), str(tmp_path / "data")
    config = train_pipeline.PipelineConfig(pipeline, preset="debug", dataset_name=data, report_to="none", **columns)
    with own_signals():
        train_pipeline.main(config)

    main(["generate", "--model", pipeline, "--num_images_per_label", "2", "--output", str(tmp_path / "drawn.png")])
    with PILImage.open(tmp_path / "drawn.png") as drawn:
        assert drawn.mode == "RGB"

    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, num_labels=3, **size)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    words = ["evaluate", "--model", pipeline, "--dataset_name", data, "--num_images", "30", "--judge", str(tmp_path)]
    words += ["--image_column", "picture", "--label_column", "colour"]
    words += ["--output", str(tmp_path / "metrics.json")]
    with pytest.raises(SystemExit):
        main(words)
    assert "makes images of shape (3, 32, 32), the data set has those of shape (3, 20, 24)" in capsys.readouterr().err
    main([*words, "--resolution", "32"])
    (record,) = read_runs(tmp_path / "metrics.json").values()
    assert record["class_names"] == names and record["figures"]["judge_fid"]["num_images"] == 30
    assert 0 <= record["floors"]["judge"]["accuracy"]["value"] <= 1
    test = load_images(data, "test", **columns)
    assert classification_accuracy_score(test.images, test.labels, test, num_updates=1)["num_images"] == 36


@pytest.mark.parametrize("show", ["reconstructions", "reconstructions of diffusers", "interpolation", "latents", None])
def test_figures_of_colour(data, tmp_path, show):
    folder, shape = data
    channels = 3 if len(shape) == 3 else 1
    vae = mgp.MLPVAE(4, 8, image_shape=(channels, 16, 16))
    if show == "reconstructions of diffusers":
        show, vae = "reconstructions", AutoencoderKL(channels, channels, block_out_channels=(4,), norm_num_groups=4)
    vae.save_pretrained(tmp_path / "model")
    if show is None:
        tiny.make(vae=vae).save_pretrained(tmp_path / "model")
    name = ["autoencoder", "--show", show] if show else ["forward_process"]
    words = ["figure", *name, "--model", str(tmp_path / "model"), "--output", str(tmp_path / "figure.png")]
    words += ["--dataset_name", str(folder), "--resolution", "16"]
    main(words)
    with PILImage.open(tmp_path / "figure.png") as figure:
        assert figure.mode == ("RGB" if len(shape) == 3 or show == "latents" else "L")


@pytest.mark.parametrize("network", [mgp.ConvVAE, mgp.GANGenerator, mgp.GANDiscriminator])
def test_sizes_that_cannot_be_halved(network):
    with pytest.raises(ValueError, match=r"image_shape must be .* in multiples of 4, got \(1, 28, 30\)"):
        network(image_shape=(1, 28, 30))


@pytest.mark.parametrize("network", [mgp.UNetDenoiser, mgp.ConvClassifier])
def test_networks_of_images_in_sizes_that_they_can_halve(network):
    network(sample_shape=(1, 28, 20), patch_size=4, block_channels=(8, 8, 8, 8))  # 5, 3, 2, 1
    with pytest.raises(ValueError, match=r"in patches of 4 cannot be halved 3 times: give fewer block_channels"):
        network(sample_shape=(1, 28, 16), patch_size=4, block_channels=(8, 8, 8, 8))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"vae": None, "denoiser": partial(UNet2DModel, 28, 1, 1, block_out_channels=(32,) * 4)},
            "UNet2DModel of 4 levels has sample_size 28, but height and width must be multiples of 8",
        ),
        (
            {"vae": partial(AutoencoderKL, 1, 1, block_out_channels=(4,), norm_num_groups=4, latent_channels=2)},
            r"the denoiser works on samples of shape \(4,\), the vae on \(2, 'height', 'width'\)",
        ),
        ({"vae": partial(mgp.MLPVAE, 5, 8)}, r"works on samples of shape \(4,\), the vae on \(5,\)"),
        ({"classifier": partial(mgp.MLPClassifier, (5,), hidden_size=8)}, r"\(4,\), the classifier on \(5,\)"),
        ({"weak_denoiser": partial(mgp.MLPDenoiser, (5,), hidden_size=8)}, r"\(4,\), the weak_denoiser on \(5,\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_any_network_runs(monkeypatch, parts, message):
    pipe = tiny.make(**{name: part and part() for name, part in parts.items()})
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *_, **__: pytest.fail("a network was called"))
    with pytest.raises(ValueError, match=message):
        pipe([3])


@pytest.mark.parametrize(("channels", "side"), [(3, 16), (1, 18)])
def test_images_that_an_autoencoder_of_diffusers_does_not_take(channels, side):
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    vae = AutoencoderKL(1, 1, block_out_channels=(4, 4, 4), norm_num_groups=4, latent_channels=2, **blocks).eval()
    images = torch.zeros(1, 3, side, side).byte()[:, :channels].squeeze(1)
    with pytest.raises(
        ValueError, match=rf"images have the shape \({channels}, {side}, .*the AutoencoderKL is for \(1, 16"
    ):
        encode_images(vae, images)


def test_a_gan_in_colour():
    shape = (3, 16, 24)
    for sizes in (None, (8,)):
        images = mgp.GANGenerator(hidden_sizes=sizes, image_shape=shape)(torch.zeros(2, 64)).sample
        assert images.shape == (2, *shape)
        assert mgp.GANDiscriminator(hidden_sizes=sizes, image_shape=shape)(images).logits.shape == (2,)


def test_without_a_test_split_the_last_tenth_is_held_out(digits, tmp_path, caplog):
    images, labels = digits
    write_split(tmp_path / "data", "train", images[:1000], labels[:1000])
    settings = {"max_train_steps": 2, "max_train_samples": None, "max_eval_samples": None, "lr_warmup_steps": 0}
    config = make_config("vae", tmp_path / "data", tmp_path / "vae", **settings, checkpointing_steps=None)
    train_split, test_split = load_splits(config, make_accelerator(config))
    assert (len(train_split), len(test_split)) == (900, 100)
    whole = load_images(tmp_path / "data", "train")
    assert torch.equal(torch.cat([train_split.images, test_split.images]), whole.images)
    train("vae", config)
    assert "the last tenth of the training split is held out" in caplog.text
    data, picture = str(tmp_path / "data"), str(tmp_path / "latents.png")
    words = ["figure", "autoencoder", "--show", "latents", "--model", str(tmp_path / "vae"), "--output", picture]
    main([*words, "--dataset_name", data])
    assert len(MeasuringOptions(num_images=100, dataset_name=data).reference().test) == 100
