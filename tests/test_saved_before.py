"""Pipelines and checkpoints that the version before the rooms saved still load, and give the same images and weights.

``saved_before`` was written by that version: a pipeline, its export, a training stopped at update 6 of 12, and the
images and weights that came of them.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.training.config import DenoiserConfig, parse
from training_runs import train

BEFORE = Path(__file__).parent / "saved_before"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    unpacked = tmp_path_factory.mktemp("saved")
    shutil.unpack_archive(BEFORE / "exported.zip", unpacked)
    return {"pipeline": BEFORE / "pipeline", "exported": unpacked / "exported"}


@pytest.mark.parametrize("name", ["pipeline", "exported"])
def test_pipelines_draw_the_same_images(name, folders):
    pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(folders[name])
    expected = load_file(BEFORE / "expected.safetensors")
    for key, output_type in (("latents", "latent"), ("images", "pt")):
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        drawn = pipe([3, 7], generator=generators, output_type=output_type).images
        torch.testing.assert_close(drawn, expected[key])
    assert pipe.id2label[3] == "digit 3"


def test_exported_code_still_runs_alone(folders, tmp_path):
    program = Path(__file__).with_name("without_package.py")
    arguments = [str(program), str(folders["exported"]), str(tmp_path / "images.pt")]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert torch.load(tmp_path / "images.pt").shape == (2, 1, 28, 28)


def test_a_checkpoint_goes_on_to_the_same_weights(tmp_path):
    shutil.copytree(BEFORE / "run" / "checkpoint-6", tmp_path / "run" / "checkpoint-6")
    settings = ["--dataset_name", "points:moons", "--network", "MLPDenoiser", "--network_config", '{"hidden_size": 8}']
    course = ["--max_train_steps", "12", "--train_batch_size", "16", "--report_to", "none"]
    resume = ["--resume_from_checkpoint", "latest", "--output_dir", str(tmp_path / "run")]
    train("denoiser", parse(DenoiserConfig, [*settings, *course, *resume]))
    file = "diffusion_pytorch_model.safetensors"
    weights, expected = load_file(tmp_path / "run" / file), load_file(BEFORE / "run" / file)
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-6, atol=1e-7)
