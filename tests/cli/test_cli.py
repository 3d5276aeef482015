"""The command: pictures from a line, nothing overwritten unasked, and one line for every mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image, ImageChops
from safetensors.torch import load_file
from torchvision.transforms.functional import pil_to_tensor

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.figures.grids import labelled_grid
from mnist_guided_pipeline.storage.atomic import verify_manifest


@pytest.fixture
def generate(tiny_pipeline_folder):
    """Run ``generate`` with the tiny pipeline."""

    def run(*options: object) -> None:
        main(["generate", "--model", str(tiny_pipeline_folder), *map(str, options)])

    return run


def open_image(file: Path) -> Image.Image:
    """A picture, read whole."""
    with Image.open(file) as image:
        image.load()
        return image


def refused(capsys, run, *arguments: object) -> str:
    """The one line of an error that ends the program with status 2."""
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    line = printed.err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert "Traceback" not in printed.err
    return line


class TestGrid:
    def test_every_image_is_in_its_place(self):
        colours = [40, 80, 120, 160, 200, 240]
        grid = labelled_grid([Image.new("L", (28, 28), colour) for colour in colours], ["one", "two"], scale=3)
        assert grid.mode == "L"
        right, bottom = grid.width - 24, grid.height - 24  # the margin is 8 times the scale
        for i, colour in enumerate(colours):
            row, column = divmod(i, 3)
            left, top = right - (3 - column) * 90 + 6, bottom - (2 - row) * 90 + 6  # 84 pixels and a gap of 6
            assert grid.crop((left, top, left + 84, top + 84)).getextrema() == (colour, colour)
        assert grid.getpixel((0, 0)) == grid.getpixel((grid.width - 1, grid.height - 1)) == 255

    @pytest.mark.parametrize(("count", "labels"), [(3, ["a", "b"]), (0, ["a"]), (2, [])])
    def test_refuses_rows_that_are_not_full(self, count, labels):
        with pytest.raises(ValueError, match=f"{count} images do not fill {len(labels)} rows"):
            labelled_grid([Image.new("L", (28, 28))] * count, labels)

    def test_refuses_other_sizes_and_scales(self):
        with pytest.raises(ValueError, match="one size, got 28x28, 30x28"):
            labelled_grid([Image.new("L", (28, 28)), Image.new("L", (30, 28))], ["a"])
        with pytest.raises(ValueError, match="scale .* got 0"):
            labelled_grid([Image.new("L", (28, 28))], ["a"], scale=0)


class TestGenerate:
    def test_writes_a_picture_and_says_so(self, generate, tmp_path, capsys):
        output = tmp_path / "digits.png"
        generate("--class_labels", 3, 7, "--num_images_per_label", 4, "--output", output)
        assert open_image(output).size[0] > 4 * 56
        printed = capsys.readouterr().out
        assert str(output) in printed
        assert "8 images by DDPMScheduler in 3 steps" in printed

    def test_one_row_of_every_class_by_default(self, generate, tmp_path, capsys):
        generate("--num_images_per_label", 1, "--output", tmp_path / "digits.png")
        assert "10 images" in capsys.readouterr().out

    def test_same_seed_same_picture(self, generate, tmp_path):
        pictures = []
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            generate("--class_labels", 3, "--seed", seed, "--output", tmp_path / f"{name}.png")
            pictures.append((tmp_path / f"{name}.png").read_bytes())
        assert pictures[0] == pictures[1] != pictures[2]

    def test_an_image_does_not_depend_on_its_batch(self, generate, tmp_path):
        generate("--class_labels", 3, 4, "--num_images_per_label", 3, "--output", tmp_path / "many.png")
        generate("--class_labels", 3, "--num_images_per_label", 1, "--output", tmp_path / "one.png")
        one = open_image(tmp_path / "one.png")
        shared = (0, 0, one.width - 20, one.height - 20)  # without the right and lower margin
        difference = ImageChops.difference(one.crop(shared), open_image(tmp_path / "many.png").crop(shared))
        assert difference.getextrema()[1] <= 1

    def test_names_come_before_indices(self, generate, tmp_path):
        by_name, by_index = tmp_path / "name.png", tmp_path / "index.png"
        generate("--class_labels", "digit 5", "--output", by_name)
        generate("--class_labels", 5, "--output", by_index)
        assert by_name.read_bytes() == by_index.read_bytes()

    def test_options_reach_the_pipeline(self, generate, tmp_path, capsys):
        options = ["--scheduler", "DDIMScheduler", "--num_inference_steps", 5, "--guidance_scale", 0, 3]
        generate("--class-labels", 1, 2, *options, "--device", "cpu", "--output", tmp_path / "digits.webp")
        assert "by DDIMScheduler in 5 steps" in capsys.readouterr().out

    def test_another_type_draws_nearly_the_same(self, generate, tmp_path):
        drawn = {}
        for dtype in ("float32", "bfloat16"):
            generate("--class_labels", 1, "--dtype", dtype, "--output", tmp_path / f"{dtype}.png")
            drawn[dtype] = pil_to_tensor(open_image(tmp_path / f"{dtype}.png").convert("L")).float()
        difference = (drawn["float32"] - drawn["bfloat16"]).abs().mean()
        assert 0 < difference < 5

    def test_overwrites_only_when_forced(self, generate, tmp_path, capsys):
        output = tmp_path / "digits.png"
        output.write_text("mine")
        assert "exists; overwrite it with --force" in refused(capsys, generate, "--output", output)
        assert output.read_text() == "mine"
        generate("--class_labels", 1, "--output", output, "--force")
        assert open_image(output).format == "PNG"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--class_labels", "11"], "class_labels: 11 is not a class"),
            (["--class_labels", "eleven"], "class_labels: 'eleven' is not a class name"),
            (["--num_images_per_label", "0"], "num_images_per_label must be"),
            (["--num_inference_steps", "0"], "num_inference_steps must be"),
            (["--guidance_scale", "-1"], "guidance_scale must be"),
            (["--guidance_scale", "1", "2"], "for 10 labels; give one number, or one a label"),
            (["--cfg_scale", "2"], "cfg_scale is 2.0, but"),
            (["--scheduler", "NoScheduler"], "--scheduler 'NoScheduler' is not supported; the supported ones are DDPM"),
            (["--device", "abacus"], "--device 'abacus' cannot be used here"),
            (["--device", "cpu", "--dtype", "float16"], "--dtype float16 is for GPUs, and this runs on --device cpu"),
        ],
    )
    def test_bad_options(self, generate, tmp_path, capsys, options, message):
        assert message in refused(capsys, generate, "--output", tmp_path / "digits.png", *options)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("output", "message"),
        [
            ("digits.txt", "must end in the suffix of an image format"),
            ("digits", "must end in the suffix of an image format"),
            ("nowhere/digits.png", "there is no folder"),
        ],
    )
    def test_bad_outputs(self, generate, tmp_path, capsys, output, message):
        assert message in refused(capsys, generate, "--output", tmp_path / output)

    def test_output_that_is_a_folder(self, generate, tmp_path, capsys):
        (tmp_path / "digits.png").mkdir()
        assert "is a folder" in refused(capsys, generate, "--output", tmp_path / "digits.png", "--force")

    def test_bad_models(self, tmp_path, capsys):
        for model, message in (
            (str(tmp_path), "has no model_index.json"),
            (str(tmp_path / "nothing"), "neither a folder nor a Hub id"),
            ("nobody/nothing", "nobody/nothing"),
        ):
            line = refused(capsys, main, ["generate", "--model", model, "--output", str(tmp_path / "digits.png")])
            assert message in line

    def test_shipped_weights_in_a_process_of_its_own(self, tmp_path):
        command = [sys.executable, "-m", "mnist_guided_pipeline", "generate", "--class_labels", "0", "1"]
        done = subprocess.run([*command, "--output", "digits.png"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert open_image(tmp_path / "digits.png").getextrema() == (0, 255)


class TestHelp:
    @pytest.mark.parametrize("command", [[], ["generate"], ["assemble"]])
    def test_help_has_an_example(self, command, capsys):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--help"])
        assert stop.value.code == 0
        assert "Example: mnist-guided" in " ".join(capsys.readouterr().out.split())

    def test_unknown_option(self, capsys):
        with pytest.raises(SystemExit) as stop:
            main(["generate", "--outptu", "a.png"])
        assert stop.value.code == 2


@pytest.fixture
def trained(tmp_path) -> dict[str, Path]:
    """Untrained networks in the folders that the training scripts write."""
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False)
    networks = {
        "vae": mgp.ConvVAE(latent_channels=2, hidden_channels=(8, 8), latents_mean=[0.0] * 2, latents_std=[1.0] * 2),
        "denoiser": mgp.MLPDenoiser(sample_shape=(2, 7, 7), hidden_size=16),
        "classifier": mgp.MLPClassifier(sample_shape=(2, 7, 7), hidden_size=16, num_classes=3),
    }
    for name, network in networks.items():
        network.save_pretrained(tmp_path / name)
        if name != "vae":
            scheduler.save_pretrained(tmp_path / name / "scheduler")
    return {name: tmp_path / name for name in networks}


@pytest.fixture
def assemble(trained, tmp_path):
    """Run ``assemble`` on the three folders."""

    def run(*options: object) -> None:
        folders = [text for name, folder in trained.items() for text in (f"--{name}", str(folder))]
        main(["assemble", *folders, "--output", str(tmp_path / "pipeline"), *map(str, options)])

    return run


class TestAssemble:
    def test_makes_a_pipeline_that_loads(self, assemble, trained, tmp_path):
        assemble()
        pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tmp_path / "pipeline")
        assert pipe([0, 2], output_type="pt", num_inference_steps=2).images.shape == (2, 1, 28, 28)
        original = mgp.MLPDenoiser.from_pretrained(trained["denoiser"]).state_dict()
        assert all(torch.equal(pipe.denoiser.state_dict()[name], value) for name, value in original.items())
        assert pipe.scheduler.config.prediction_type == "v_prediction"
        assert pipe.id2label == {0: "0", 1: "1", 2: "2"}

    def test_each_network_keeps_its_recipe_without_paths(self, assemble, trained, tmp_path):
        settings = {"seed": 3, "dataset_name": "/home/somebody/mnist", "vae_path": str(trained["vae"])}
        (trained["denoiser"] / "train_config.json").write_text(json.dumps(settings))
        assemble()
        kept = json.loads((tmp_path / "pipeline" / "denoiser" / "train_config.json").read_text())
        assert kept == {"seed": 3, "dataset_name": "mnist", "vae_path": "vae"}
        assert not (tmp_path / "pipeline" / "vae" / "train_config.json").exists()
        assert verify_manifest(tmp_path / "pipeline", ["denoiser/train_config.json", "model_index.json"])
        texts = "".join(file.read_text() for file in (tmp_path / "pipeline").rglob("*.json"))
        assert "somebody" not in texts and str(tmp_path) not in texts

    def test_half_precision_and_names(self, assemble, tmp_path):
        assemble("--dtype", "float16", "--class_names", "shirt", "boot", "bag")
        pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tmp_path / "pipeline")
        stored = load_file(tmp_path / "pipeline" / "denoiser" / "diffusion_pytorch_model.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
        assert pipe.denoiser.dtype == torch.float32
        assert pipe.id2label == {0: "shirt", 1: "boot", 2: "bag"}

    def test_replaces_only_a_pipeline_and_only_when_forced(self, assemble, tmp_path, capsys):
        assemble()
        assert "exists; replace it with --force" in refused(capsys, assemble)
        assemble("--force")
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").touch()
        line = refused(capsys, assemble, "--output", tmp_path / "mine", "--force")
        assert "holds no pipeline" in line
        assert (tmp_path / "mine" / "thesis.tex").exists()

    def test_refuses_a_classifier_of_another_noise(self, assemble, trained, capsys):
        DDPMScheduler(beta_schedule="linear").save_pretrained(trained["classifier"] / "scheduler")
        line = refused(capsys, assemble)
        assert "trained on different noise" in line
        assert "beta_schedule 'squaredcos_cap_v2' and 'linear'" in line

    def test_refuses_networks_of_other_shapes(self, assemble, trained, capsys):
        mgp.MLPVAE(latent_dim=4, hidden_size=8).save_pretrained(trained["vae"])
        assert "samples of shape (2, 7, 7), the vae on (4,)" in refused(capsys, assemble)

    def test_refuses_too_few_names(self, assemble, capsys):
        assert "2 names for the classifier's 3 classes" in refused(capsys, assemble, "--class_names", "a", "b")

    def test_refuses_missing_folders(self, assemble, trained, tmp_path, capsys):
        assert "--vae: there is no folder" in refused(capsys, assemble, "--vae", tmp_path / "nothing")
        line = refused(capsys, assemble, "--denoiser", trained["vae"])
        assert "holds a ConvVAE, a vae, where a denoiser is needed" in line
