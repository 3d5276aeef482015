"""``generate``: a picture from a line; every option reaches the pipeline; help for every command."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor


@pytest.fixture
def generate(tiny_pipeline_folder, typed):
    """Run ``generate`` with the tiny pipeline."""
    return lambda *options: typed("generate", "--model", tiny_pipeline_folder, *options)


def open_image(file: Path) -> Image.Image:
    """A picture, read whole."""
    with Image.open(file) as image:
        image.load()
        return image


def test_writes_a_picture_of_its_own_by_name_or_index_and_says_so(generate, tmp_path, capsys):
    drawn = {}
    for name, labels, seed in (("a", [3, 7], 1), ("by name", ["digit 3", 7], 1), ("other seed", [3, 7], 2)):
        output = tmp_path / f"{name}.png"
        generate("--class_labels", *labels, "--num_images_per_label", 4, "--seed", seed, "--output", output)
        drawn[name] = output.read_bytes()
        printed = capsys.readouterr().out
        assert str(output) in printed and "8 images by DDPMScheduler in 3 steps" in printed
    assert drawn["a"] == drawn["by name"] != drawn["other seed"]
    options = ["--scheduler", "DDIMScheduler", "--num_inference_steps", 5, "--guidance_scale", *[0, 3] * 5]
    generate("--num-images-per-label", 1, *options, "--device", "cpu", "--output", tmp_path / "row.webp")
    assert "10 images by DDIMScheduler in 5 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        "--guidance_interval 0 1",
        "--eta 0.5 --scheduler DDIMScheduler",
        "--classifier_temperature 3",
        "--guidance_rescale 0.9",
        "--timesteps 900 500 100",
        '--scheduler_options {"variance_type":"fixed_large"}',
        "--scheduler EulerDiscreteScheduler --sigmas 50 5 0",
        "--negative_class_labels 3",
        "--num_particles 4",
    ],
)
def test_every_option_of_the_call_changes_the_picture(generate, tmp_path, capsys, options):
    base = ["--guidance_scale", 8, "--num_images_per_label", 2, "--num_inference_steps", 3]
    pictures = []
    for name, given in (("plain", []), ("changed", options.split())):
        if "--timesteps" in given or "--sigmas" in given:
            base = base[:-2]
        labels = [] if "--negative_class_labels" in given else ["--class_labels", "3"]
        generate(*labels, *base, *given, "--output", tmp_path / f"{name}.png")
        pictures.append(open_image(tmp_path / f"{name}.png").tobytes())
    assert pictures[0] != pictures[1]
    if "--sigmas" in options:
        assert "by EulerDiscreteScheduler in 2 steps" in capsys.readouterr().out


def test_another_type_draws_nearly_the_same(generate, tmp_path):
    drawn = {}
    for dtype in ("float32", "bfloat16"):
        generate("--class_labels", 1, "--dtype", dtype, "--output", tmp_path / f"{dtype}.png")
        drawn[dtype] = pil_to_tensor(open_image(tmp_path / f"{dtype}.png").convert("L")).float()
    difference = (drawn["float32"] - drawn["bfloat16"]).abs().mean()
    assert 0 < difference < 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class_labels", "11"], "class_labels: 11 is not a class"),
        (["--num_images_per_label", "1000000000"], "num_images_per_label must be from 1 to 250"),
        (["--guidance_scale", "1", "2"], "for 10 labels; give one number, or one"),
        (["--scheduler", "NoScheduler"], "scheduler NoScheduler is not supported"),
        (["--scheduler_options", "karras"], "--scheduler_options must be JSON such as"),
        (["--scheduler_options", '{"use_karras": true}'], "use_karras"),
        (["--device", "abacus"], "--device 'abacus' cannot be used here"),
        (["--device", "cpu", "--dtype", "float16"], "--dtype float16 is for GPUs, and this runs on --device cpu"),
    ],
)
def test_bad_options(refused, tiny_pipeline_folder, tmp_path, options, message):
    common = ["--model", tiny_pipeline_folder, "--output", tmp_path / "digits.png"]
    assert message in refused("generate", *common, *options)
    assert not list(tmp_path.iterdir())


_COLD = """
import sys
sys.argv[0] = "mnist-guided"
import mnist_guided_pipeline.cli
assert not {"torch", "diffusers", "numpy"} & set(sys.modules), "the command line waits for what it does not need"
mnist_guided_pipeline.cli.main("generate --class_labels 0 1 --num_images_per_label 2 --output digits.png".split())
print(*sys.modules)
"""


def test_shipped_weights_in_a_process_of_its_own_that_imports_nothing_needless(tmp_path):
    """The command line needs no torch, and drawing neither data sets nor figures nor judges."""
    done = subprocess.run([sys.executable, "-c", _COLD], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert open_image(tmp_path / "digits.png").getextrema() == (0, 255)
    modules = set(done.stdout.splitlines()[-1].split())
    assert not {"datasets", "matplotlib", "sklearn", "gradio", "tensorboard", "pyarrow"} & modules
    assert not {f"mnist_guided_pipeline.{name}" for name in ("evaluation", "demo")} & modules
