"""The wheel and the source distribution, built for real: they hold what they must, and the wheel works by itself."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")
pytest.importorskip("hatch_fancy_pypi_readme")
from hatchling.builders.sdist import SdistBuilder  # noqa: E402 - only where it is installed
from hatchling.builders.wheel import WheelBuilder  # noqa: E402

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "mnist_guided_pipeline"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return Path(next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")))))


def files_of(folder: Path) -> set[str]:
    return {
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(file.parts)
    }


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    info = next(name for name in held if name.endswith("/METADATA")).rpartition("/")[0]
    package = {f"mnist_guided_pipeline/{name}" for name in (*files_of(PACKAGE), "model_card.md")}
    assert {name for name in held if not name.startswith(info)} == package
    for part in ("py.typed", "data/point_sets/DatasaurusDozen.tsv", "weights/judge/model.safetensors"):
        assert f"mnist_guided_pipeline/{part}" in held
    licences = {name.rpartition("licenses/")[2] for name in held if "/licenses/" in name}
    assert licences == {"LICENSE", "src/mnist_guided_pipeline/data/point_sets/LICENSE"}
    assert wheel.stat().st_size < 9.2e6


def test_its_page_shows_nothing_that_is_not_there(wheel):
    """A package index has neither the files beside README.md nor a picture that is not on the web."""
    metadata = next(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA"))
    _, _, page = zipfile.ZipFile(wheel).read(metadata).decode().partition("\n\n")
    assert page.startswith("# mnist_guided_pipeline") and page.rstrip().endswith("Cortes and C. Burges.")
    assert re.findall(r"\]\(https://", page) and not re.findall(r"\]\((?!https://)", page)
    assert "`guidance.py` has the rule" in page


def test_the_source_distribution_holds_the_project(tmp_path):
    sdist = next(SdistBuilder(str(ROOT)).build(directory=str(tmp_path)))
    held = {name.partition("/")[2] for name in tarfile.open(sdist).getnames()}
    for folder in ("src", "training", "tests", "notebooks"):
        assert {f"{folder}/{name}" for name in files_of(ROOT / folder)} <= held
    assert {"README.md", "LICENSE", "model_card.md", "pyproject.toml"} <= held


def test_the_wheel_loads_and_generates_outside_the_checkout(wheel, tmp_path):
    """Also by diffusers' own class, which finds ours where the package is imported and nothing of it used yet."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import runpy, mnist_guided_pipeline as mgp; from diffusers import DiffusionPipeline, utils; "
        "utils.logging.disable_progress_bar(); from mnist_guided_pipeline.weights import DEFAULT_FOLDER; "
        "print(mgp.__file__, type(DiffusionPipeline.from_pretrained(DEFAULT_FOLDER)).__module__); "
        "runpy.run_module('mnist_guided_pipeline', run_name='__main__')"
    )
    options = ["generate", "--class_labels", "7", "--num_images_per_label", "1", "--num_inference_steps", "2"]
    done = subprocess.run(
        [sys.executable, "-c", code, *options, "--output", "seven.png"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    file = tmp_path / "site" / "mnist_guided_pipeline" / "__init__.py"
    assert done.stdout.splitlines()[0] == f"{file} mnist_guided_pipeline.storage.pipelines"
    assert (tmp_path / "seven.png").stat().st_size > 0
