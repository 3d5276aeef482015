"""Strict loading: a folder that is damaged, incomplete or does not fit is an error that names the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.storage.atomic import MANIFEST, IntegrityError, write_manifest
from tiny import images

Pipeline = mgp.ClassifierGuidedLatentPipeline
WEIGHTS = "diffusion_pytorch_model.safetensors"


# Damage: functions of a folder. Each is loaded with its manifest, and with none.


def in_json(file: str, **changes) -> Callable[[Path], None]:
    """Set entries of a JSON file, or remove them."""

    def damage(folder: Path) -> None:
        content = {**json.loads((folder / file).read_text()), **changes}
        (folder / file).write_text(json.dumps({name: value for name, value in content.items() if value is not REMOVED}))

    return damage


REMOVED = object()


def in_index(**changes) -> Callable[[Path], None]:
    return in_json("model_index.json", **changes)


def in_config(component: str, **changes) -> Callable[[Path], None]:
    return in_json(f"{component}/config.json", **changes)


def with_text(file: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_text(text)


def without(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def with_weights(change: Callable[[str, torch.Tensor], dict]) -> Callable[[Path], None]:
    """Put what ``change`` makes of the denoiser's first weight in its place."""

    def damage(folder: Path) -> None:
        file = folder / "denoiser" / WEIGHTS
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
        name = next(iter(tensors))
        save_file(change(name, tensors.pop(name)) | tensors, file)

    return damage


def filled(value: float) -> Callable[[Path], None]:
    """One number of a weight replaced."""
    return with_weights(lambda name, tensor: {name: tensor.index_fill(0, torch.tensor([0]), value)})


def with_bytes(change: Callable[[bytes], bytes], component: str = "vae") -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / component / WEIGHTS
        file.write_bytes(change(file.read_bytes()))

    return damage


def pickled(folder: Path) -> None:
    file = folder / "denoiser" / WEIGHTS
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()


def sharded(folder: Path, **weight_map: str) -> None:
    file = folder / "denoiser" / WEIGHTS
    names = dict.fromkeys(load_file(file), "part.safetensors")
    file.rename(file.with_name("part.safetensors"))
    (file.parent / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names | weight_map}))


def outside(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        shutil.copy(folder / "denoiser" / WEIGHTS, folder.parent / "outside.safetensors")
        sharded(folder, **{"network.layers.0.bias": name.format(folder.parent)})

    return damage


def with_both_forms(folder: Path) -> None:
    shutil.copy(folder / "denoiser" / WEIGHTS, folder / "keep.safetensors")
    sharded(folder)
    shutil.copy(folder / "keep.safetensors", folder / "denoiser" / WEIGHTS)


def with_network(component: str, network: torch.nn.Module) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        network.save_pretrained(folder / component)
        in_index(**{component: ["mnist_guided_pipeline", type(network).__name__]})(folder)

    return damage


def with_code(folder: Path) -> None:
    (folder / "denoiser" / "evil.py").write_text(f"open({str(folder.parent / 'ran')!r}, 'w')\n")
    in_index(denoiser=["evil", "Evil"])(folder)


SCHEDULER = "scheduler/scheduler_config.json"
LONG_HEADER = (2**62).to_bytes(8, "little")
LINEAR = {"beta_schedule": "linear", "num_train_timesteps": 1000}

DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    # the index
    "no index": (without("model_index.json"), "model_index.json is missing"),
    "index is no JSON": (with_text("model_index.json", "{"), "model_index.json cannot be read"),
    "index of another pipeline": (in_index(_class_name="DDPMPipeline"), "is of a DDPMPipeline"),
    "surplus component": (in_index(safety_checker=["diffusers", "UNet2DModel"]), "names safety_checker"),
    "no denoiser": (in_index(denoiser=[None, None]), "lacks denoiser"),
    "no noise schedule": (in_index(training_noise=REMOVED), "lacks training_noise"),
    "noise of another kind": (in_index(training_noise={"law": "flow", "prediction_type": "epsilon"}), "'preserving'"),
    "endless noise": (in_index(training_noise={"num_train_timesteps": 10**9}), "num_train_timesteps is 1,000,000,000"),
    "names with a gap": (in_index(id2label={"0": "a", "2": "b"}), "without a gap"),
    "one name twice": (in_index(id2label={str(i): str(i % 9) for i in range(10)}), "each its own"),
    # classes
    "component is a text": (in_index(vae="MLPVAE"), r"vae must be \[library, class\]"),
    "unknown class": (in_index(vae=["mnist_guided_pipeline", "Nothing"]), "Nothing of mnist_guided_pipeline"),
    "class that is no network": (in_index(vae=["os", "system"]), "system of os, which is no ModelMixin"),
    "library that runs code": (with_code, "Evil of evil"),
    "another network's class": (in_index(denoiser=["mnist_guided_pipeline", "MLPVAE"]), "is of a MLPDenoiser"),
    # configs
    "no config": (without("denoiser/config.json"), "denoiser/config.json is missing"),
    "config is no JSON": (with_text("denoiser/config.json", "\0"), "denoiser/config.json cannot be read"),
    "a million layers": (in_config("classifier", num_layers=10**6), "num_layers is 1,000,000; at most"),
    "width is a text": (in_config("denoiser", hidden_size="8"), "does not describe a MLPDenoiser"),
    "unknown setting": (in_config("denoiser", sparkle=1), "has sparkle, which MLPDenoiser does not know"),
    "shape left out": (in_config("denoiser", sample_shape=REMOVED), "lacks sample_shape"),
    "deviation of zero": (in_config("vae", latents_std=[0.0] * 4), "latents_std must be finite, and positive"),
    "too few statistics": (in_config("vae", latents_mean=[0.0]), "has 1 entries for latents"),
    "another width": (in_config("denoiser", hidden_size=16), r"has shape .* not .* as config.json says"),
    # the scheduler
    "no scheduler config": (without(SCHEDULER), "scheduler_config.json is missing"),
    "another scheduler": (in_json(SCHEDULER, _class_name="DDIMScheduler"), "is of a DDIMScheduler"),
    "scheduler of another noise": (in_json(SCHEDULER, beta_schedule="linear"), "another noise schedule"),
    "scheduler of another prediction": (in_json(SCHEDULER, prediction_type="epsilon"), "takes the denoiser's output"),
    # weights
    "no weights": (without(f"denoiser/{WEIGHTS}"), f"{WEIGHTS} is missing"),
    "pickled weights only": (pickled, "diffusion_pytorch_model.bin can run code"),
    "truncated": (with_bytes(lambda data: data[:-1]), "vae/.* cannot be read"),
    "endless header": (with_bytes(lambda data: LONG_HEADER + data[8:]), "vae/.* cannot be read"),
    "NaN": (filled(float("nan")), "holds NaN or infinity"),
    "integer weights": (with_weights(lambda name, tensor: {name: tensor.to(torch.int32)}), "is of type I32"),
    "wrong shape": (with_weights(lambda name, tensor: {name: torch.zeros(3)}), r"has shape \(3,\)"),
    "missing weight": (with_weights(lambda name, tensor: {}), "lacks '"),
    "surplus weight": (with_weights(lambda name, tensor: {name: tensor, "more": torch.zeros(1)}), "holds 'more'"),
    # shards
    "index of weights points outside": (outside("../outside.safetensors"), "not a safetensors file of its own folder"),
    "index of weights names a root path": (outside("{}/outside.safetensors"), "not a safetensors file of its own"),
    "shard is missing": (lambda folder: sharded(folder, more="gone.safetensors"), "gone.safetensors is missing"),
    "index and single file": (with_both_forms, "remove the one that is stale"),
    # components that do not fit
    "VAE of other latents": (
        with_network("vae", mgp.MLPVAE(latent_dim=5, hidden_size=8)),
        r"samples of shape \(4,\), the vae on \(5,\)",
    ),
    "classifier of other classes": (
        with_network("classifier", mgp.MLPClassifier((4,), hidden_size=8, num_classes=9)),
        "10 names for the classifier's 9 classes",
    ),
    "classifier of another noise": (in_config("classifier", noise_schedule=LINEAR), "is not the training_noise"),
    "classifier as denoiser": (
        with_network("denoiser", mgp.MLPClassifier((4,), hidden_size=8)),
        "denoiser holds a MLPClassifier, a classifier, where a denoiser is needed",
    ),
}  # fmt: skip


class TestDamage:
    @pytest.mark.parametrize("name", DAMAGE)
    def test_is_an_error_that_names_it(self, folder, name):
        damage, message = DAMAGE[name]
        damage(folder)
        with pytest.raises(IntegrityError):
            Pipeline.from_pretrained(folder)
        (folder / MANIFEST).unlink()
        with pytest.raises(IntegrityError, match=message) as error:
            Pipeline.from_pretrained(folder)
        assert str(folder) in str(error.value)
        assert not (folder.parent / "ran").exists()

    def test_without_a_manifest_there_is_a_warning_and_a_way_to_make_one(self, folder, caplog):
        (folder / MANIFEST).unlink()
        expected = images(Pipeline.from_pretrained(folder))
        assert "has no manifest.json" in caplog.text
        assert "mnist_guided_pipeline.storage.atomic.write_manifest(folder)" in caplog.text
        caplog.clear()
        write_manifest(folder)
        assert torch.equal(images(Pipeline.from_pretrained(folder)), expected)
        assert "manifest" not in caplog.text

    def test_files_that_are_not_read_may_change(self, folder):
        (folder / "README.md").write_text("mine")
        write_manifest(folder)
        expected = images(Pipeline.from_pretrained(folder))
        (folder / "README.md").write_text("mine too")
        assert torch.equal(images(Pipeline.from_pretrained(folder)), expected)
