"""Data and pipelines that need no network, made once a session."""

import gc
import os
import tempfile
from pathlib import Path

_CACHE = tempfile.TemporaryDirectory(prefix="mnist-guided-tests-")
os.environ["HF_DATASETS_CACHE"] = os.path.join(_CACHE.name, "datasets")
os.environ["HF_HUB_CACHE"] = os.path.join(_CACHE.name, "hub")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: more threads cost time, and change the last bits
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import pytest  # noqa: E402 - the Hugging Face libraries read the environment when they are imported
import torch  # noqa: E402
from datasets import ClassLabel, Dataset, Features, Image  # noqa: E402
from diffusers import DDPMScheduler, DiffusionPipeline  # noqa: E402
from diffusers.utils import logging as diffusers_logging  # noqa: E402
from PIL import Image as PILImage  # noqa: E402

import mnist_guided_pipeline as mgp  # noqa: E402
from mnist_guided_pipeline.data.digits import bundled_digits  # noqa: E402

pytest_plugins = ["judged"]
diffusers_logging.disable_progress_bar()
DiffusionPipeline._progress_bar_config = {"disable": True}  # of pipelines that say nothing else
CLASS_NAMES = [str(digit) for digit in range(10)]
FEATURES = Features({"image": Image(), "label": ClassLabel(names=CLASS_NAMES)})


def pytest_collection_finish() -> None:
    """What is imported by now is no work for the collections of garbage that end each training."""
    gc.freeze()


def write_split(folder: Path, split: str, images: list, labels: list, features: Features = FEATURES) -> None:
    """Write one parquet file where MNIST on the Hub has it; ``images`` are PIL images, cells or None."""
    (folder / "mnist").mkdir(parents=True, exist_ok=True)
    image_column, label_column = features
    rows = Dataset.from_dict({image_column: images, label_column: labels}, features=features)
    rows.to_parquet(str(folder / "mnist" / f"{split}-00000-of-00001.parquet"))


@pytest.fixture(scope="session")
def digits() -> tuple[list[PILImage.Image], list[int]]:
    """The 1,797 handwritten digits of scikit-learn, 8x8 scaled to 28x28, and their labels."""
    pytest.importorskip("sklearn")
    return bundled_digits()


@pytest.fixture(scope="session")
def digits_folder(digits, tmp_path_factory) -> Path:
    """The digits in MNIST's layout and schema: 1,500 to train on, 297 to test on."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = digits
    write_split(folder, "train", images[:1500], labels[:1500])
    write_split(folder, "test", images[1500:], labels[1500:])
    return folder


@pytest.fixture(scope="session")
def mnist() -> str:
    """All of MNIST: what MNIST_DATASET names, or the folder ``shared/mnist`` beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "mnist"
    name = os.environ.get("MNIST_DATASET") or (str(beside) if beside.is_dir() else None)
    if name is None:
        pytest.skip("set MNIST_DATASET to a Hub id or a folder")
    return name


@pytest.fixture(scope="session")
def tiny_pipeline_folder(tmp_path_factory) -> Path:
    """A pipeline of untrained networks, saved; fast, and every part of it is real."""
    torch.manual_seed(0)
    pipe = mgp.ClassifierGuidedLatentPipeline(
        vae=mgp.MLPVAE(latent_dim=4, hidden_size=16, latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
        denoiser=mgp.MLPDenoiser(sample_shape=(4,), hidden_size=16),
        classifier=mgp.MLPClassifier(sample_shape=(4,), hidden_size=16),
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False),
        id2label={index: f"digit {index}" for index in range(10)},
        sampling_defaults={"num_inference_steps": 3, "guidance_scale": 1.0},
    )
    folder = tmp_path_factory.mktemp("pipelines") / "tiny"
    pipe.save_pretrained(folder)
    return folder
