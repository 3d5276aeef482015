"""Fixtures that ``conftest.py`` shares with all tests: saved pipelines, judged digits, commands as they are typed."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.data.images import LabelledImages
from mnist_guided_pipeline.evaluation.judge import load_judge
from mnist_guided_pipeline.evaluation.scores import Reference
from tiny import make


def part(images: LabelledImages, start: int, stop: int) -> LabelledImages:
    return LabelledImages(images.images[start:stop], images.labels[start:stop], images.class_names)


@pytest.fixture
def tiny(tiny_pipeline_folder) -> mgp.ClassifierGuidedLatentPipeline:
    return mgp.ClassifierGuidedLatentPipeline.from_pretrained(tiny_pipeline_folder)


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    """The pipeline of ``tiny.py``, saved."""
    folder = tmp_path_factory.mktemp("pipelines") / "saved"
    make().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(saved, tmp_path / "pipeline"))


@pytest.fixture(scope="session")
def handwriting() -> LabelledImages:
    """scikit-learn's digits, framed as MNIST is, so that the shipped judge reads them."""
    bundled = pytest.importorskip("sklearn.datasets").load_digits()
    images = torch.zeros(len(bundled.images), 28, 28, dtype=torch.uint8)
    for row, image in enumerate((bundled.images * (255 / 16)).astype(np.uint8)):
        scaled = Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC)
        images[row, 4:24, 4:24] = torch.from_numpy(np.array(scaled))
    return LabelledImages(images, torch.tensor(bundled.target), tuple("0123456789"))


@pytest.fixture(scope="session")
def reference(handwriting) -> Reference:
    return Reference(part(handwriting, 0, 700), part(handwriting, 700, 1300), load_judge(), "/data/digits")


@pytest.fixture
def typed(monkeypatch):
    """Run ``mnist-guided`` with words, as if they had been typed."""

    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["/usr/bin/mnist-guided", *map(str, words)])
        main()

    return run


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """Run a command that must end with status 2 and one line on standard error; returns the line."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, arguments)))
        assert stop.value.code == 2
        printed = capsys.readouterr().err
        assert printed.startswith("error: ") and printed.count("\n") == 1
        return printed

    return run
