"""Training outputs become a pipeline only where it will load, and nothing is replaced unasked."""

import json

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.storage.assemble import assemble_pipeline
from mnist_guided_pipeline.storage.atomic import verify_manifest
from mnist_guided_pipeline.storage.lineage import LATENTS_OF, autoencoder_fingerprint
from tiny import NOISE, make

ROLES = ("vae", "denoiser", "classifier", "weak_denoiser")


@pytest.fixture
def folders(tmp_path) -> dict[str, str]:
    """What the training scripts write of each network."""
    pipe = make(weak_denoiser=mgp.MLPDenoiser((4,), hidden_size=4, num_classes=10))
    torch.nn.init.normal_(pipe.denoiser.network.layers[-1].weight)  # an untrained one ignores its labels
    for name in ROLES:
        pipe.components[name].save_pretrained(tmp_path / name)
        pipe.scheduler.save_pretrained(tmp_path / name / "scheduler")
    return {name: str(tmp_path / name) for name in ROLES}


@pytest.fixture
def command(folders, tmp_path) -> list[str]:
    """The line that assembles the folders."""
    options = [text for name, folder in folders.items() for text in (f"--{name}", folder)]
    return ["assemble", *options, "--output", str(tmp_path / "pipeline")]


def replace(folder: str, network: torch.nn.Module) -> None:
    network.save_pretrained(folder)
    DDPMScheduler(**NOISE).save_pretrained(f"{folder}/scheduler")


def test_the_command_makes_a_pipeline_that_loads(command, folders, tmp_path):
    settings = {"seed": 3, "dataset_name": "/home/somebody/mnist", "vae_path": folders["vae"]}
    (tmp_path / "denoiser" / "train_config.json").write_text(json.dumps(settings))
    main(command)
    pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tmp_path / "pipeline")
    for name in ROLES:
        original = load_file(f"{folders[name]}/diffusion_pytorch_model.safetensors")
        assert all(torch.equal(getattr(pipe, name).state_dict()[key], value) for key, value in original.items())
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    strong, beyond = (pipe([3], latents=torch.ones(1, 4), autoguidance_scale=scale).images for scale in (1.0, 3.0))
    assert strong[0].tobytes() != beyond[0].tobytes()
    assert pipe.id2label == {index: str(index) for index in range(10)}
    kept = json.loads((tmp_path / "pipeline" / "denoiser" / "train_config.json").read_text())
    assert kept == {"seed": 3, "dataset_name": "mnist", "vae_path": "vae"}  # each network's recipe, without paths
    assert not (tmp_path / "pipeline" / "vae" / "train_config.json").exists()
    assert verify_manifest(tmp_path / "pipeline", ["denoiser/train_config.json", "model_index.json"])
    texts = "".join(file.read_text() for file in (tmp_path / "pipeline").rglob("*.json"))
    assert "somebody" not in texts and str(tmp_path) not in texts


def test_half_precision_names_and_force(command, tmp_path, refused):
    main([*command, "--dtype", "float16", "--class_names", *"abcdefghij"])
    pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tmp_path / "pipeline")
    stored = load_file(tmp_path / "pipeline" / "denoiser" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert pipe.denoiser.dtype == torch.float32 and pipe.id2label[2] == "c"
    assert "exists; replace it with --force" in refused(*command)
    main([*command, "--force"])
    assert "holds no pipeline" in refused(*command, "--output", tmp_path / "vae", "--force")
    assert (tmp_path / "vae" / "config.json").exists()
    assert "--vae: there is no folder" in refused(*command, "--vae", tmp_path / "nothing")


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


def test_another_autoencoder_than_that_of_the_training_is_refused(folders):
    pipe = assemble_pipeline(**folders)
    made = autoencoder_fingerprint(pipe.vae)
    assert autoencoder_fingerprint(pipe.vae.half()) == made  # as assemble --dtype float16 writes it
    pipe.denoiser.register_to_config(**{LATENTS_OF: made})
    pipe.denoiser.save_pretrained(folders["denoiser"])
    assert assemble_pipeline(**folders).denoiser.config[LATENTS_OF] == made
    make(seed=1).vae.save_pretrained(folders["vae"])
    with pytest.raises(ValueError, match=f"denoiser .* a VAE .fingerprint {made}., here are those of another"):
        assemble_pipeline(**folders)
    with pytest.raises(ValueError, match="denoiser .* here are none"):
        assemble_pipeline(**{**folders, "vae": None})


def test_parts_that_do_not_fit_are_refused_before_anything_is_written(folders):
    with pytest.raises(ValueError, match="2 names for the denoiser's 10 classes; name each one"):
        assemble_pipeline(**folders, class_names="ab")
    with pytest.raises(ValueError, match="each its own way"):
        assemble_pipeline(**folders, class_names="abcdefghii")
    DDPMScheduler(**{**NOISE, "beta_schedule": "linear"}).save_pretrained(f"{folders['classifier']}/scheduler")
    with pytest.raises(ValueError, match="different noise .beta_schedule 'squaredcos_cap_v2' and 'linear'"):
        assemble_pipeline(**folders)
    DDPMScheduler(**NOISE).save_pretrained(f"{folders['classifier']}/scheduler")
    DDPMScheduler(**{**NOISE, "prediction_type": "epsilon"}).save_pretrained(f"{folders['weak_denoiser']}/scheduler")
    with pytest.raises(ValueError, match="weak_denoiser.* noise .prediction_type 'v_prediction' and 'epsilon'"):
        assemble_pipeline(**folders)
    folders["weak_denoiser"] = None
    replace(folders["classifier"], mgp.MLPClassifier((4,), hidden_size=8, num_classes=20))
    with pytest.raises(ValueError, match="20 names for the denoiser's 10 classes"):
        assemble_pipeline(**folders)
    replace(folders["classifier"], mgp.MLPClassifier((5,), hidden_size=8))
    with pytest.raises(ValueError, match=r"samples of shape \(4,\), the classifier on \(5,\)"):
        assemble_pipeline(**folders)
