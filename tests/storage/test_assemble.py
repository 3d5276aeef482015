"""Training outputs become a pipeline only where it will load."""

import pytest
import torch
from diffusers import DDPMScheduler

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.storage.assemble import assemble_pipeline
from tiny import NOISE, make


@pytest.fixture
def folders(tmp_path) -> dict[str, str]:
    """What the training scripts write of each network."""
    pipe = make()
    torch.nn.init.normal_(pipe.denoiser.network.layers[-1].weight)  # an untrained one ignores its labels
    for name in ("vae", "denoiser", "classifier"):
        pipe.components[name].save_pretrained(tmp_path / name)
        pipe.scheduler.save_pretrained(tmp_path / name / "scheduler")
    return {name: str(tmp_path / name) for name in ("vae", "denoiser", "classifier")}


def replace(folder: str, network: torch.nn.Module) -> None:
    network.save_pretrained(folder)
    DDPMScheduler(**NOISE).save_pretrained(f"{folder}/scheduler")


def test_what_is_assembled_loads(folders, tmp_path):
    pipe = assemble_pipeline(**folders, class_names="abcdefghij")
    pipe.save_pretrained(tmp_path / "pipeline")
    loaded = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tmp_path / "pipeline")
    assert loaded.id2label[2] == "c"
    assert str(tmp_path) not in (tmp_path / "pipeline" / "vae" / "config.json").read_text()


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (
            ("vae", "classifier", "denoiser"),
            "denoiser .*classifier' holds a ResidualMLPClassifier, a classifier, where",
        ),
        (("vae", "denoiser", "vae"), "classifier .*vae' holds a MLPVAE, a vae, where a classifier is needed"),
        (("denoiser", "denoiser", "classifier"), "vae .*denoiser' holds a MLPDenoiser, a denoiser, where a vae is"),
    ],
)
def test_swapped_folders_are_named_by_their_roles(folders, places, message):
    with pytest.raises(ValueError, match=message):
        assemble_pipeline(*(folders[place] for place in places))


def test_parts_of_other_classes_or_latents_are_refused_before_anything_is_written(folders):
    with pytest.raises(ValueError, match="2 names for the denoiser's 10 classes; name each one"):
        assemble_pipeline(**folders, class_names="ab")
    with pytest.raises(ValueError, match="each its own way"):
        assemble_pipeline(**folders, class_names="abcdefghii")
    replace(folders["classifier"], mgp.MLPClassifier((4,), hidden_size=8, num_classes=20))
    with pytest.raises(ValueError, match="20 names for the denoiser's 10 classes"):
        assemble_pipeline(**folders)
    replace(folders["classifier"], mgp.MLPClassifier((5,), hidden_size=8))
    with pytest.raises(ValueError, match=r"samples of shape \(4,\), the classifier on \(5,\)"):
        assemble_pipeline(**folders)
