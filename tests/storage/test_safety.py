"""Strict loading and whole saving: nothing damaged is accepted, nothing half-written is seen."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file, save_file

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.storage.atomic import MANIFEST, IntegrityError, read_manifest, write_manifest
from mnist_guided_pipeline.storage.loading import load_network
from mnist_guided_pipeline.storage.weight_files import weight_files
from tiny import NOISE, images, make

Pipeline = mgp.ClassifierGuidedLatentPipeline
WEIGHTS = "diffusion_pytorch_model.safetensors"
MUTATIONS = int(os.environ.get("MUTATIONS", "300"))
KILLS = int(os.environ.get("KILLS", "12"))


@pytest.fixture(autouse=True)
def quiet():
    diffusers_logging.disable_progress_bar()
    yield
    diffusers_logging.enable_progress_bar()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("safety") / "saved"
    make().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "pipeline"))


# Damage: functions of a folder. Each is loaded with its manifest, and with none.


def in_json(file: str, **changes) -> Callable[[Path], None]:
    """Set entries of a JSON file; None removes one."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        content = {name: value for name, value in {**content, **changes}.items() if value is not REMOVED}
        (folder / file).write_text(json.dumps(content))

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


def with_weights(component: str, change: Callable[[dict], dict]) -> Callable[[Path], None]:
    """Rewrite a network's weights."""

    def damage(folder: Path) -> None:
        file = folder / component / WEIGHTS
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
        save_file(change(tensors), file)

    return damage


def with_bytes(component: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / component / WEIGHTS
        file.write_bytes(change(file.read_bytes()))

    return damage


def filled(value: float) -> Callable[[dict], dict]:
    """One number of the first weight replaced."""

    def change(tensors: dict) -> dict:
        next(iter(tensors.values())).view(-1)[0] = value
        return tensors

    return change


def first(tensors: dict) -> str:
    return next(iter(tensors))


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


def swapped(folder: Path) -> None:
    for name in ("config.json", WEIGHTS):
        shutil.copy(folder / "classifier" / name, folder / "denoiser" / name)


def with_vae(**arguments) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        mgp.MLPVAE(**{"latent_dim": 4, "hidden_size": 8, **arguments}).save_pretrained(folder / "vae")

    return damage


def with_classifier(**arguments) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        shape = {"sample_shape": (4,), "hidden_size": 8}
        mgp.MLPClassifier(**{**shape, **arguments}).save_pretrained(folder / "classifier")
        in_index(classifier=["mnist_guided_pipeline", "MLPClassifier"])(folder)

    return damage


def with_code(folder: Path) -> None:
    (folder / "denoiser" / "evil.py").write_text(f"open({str(folder.parent / 'ran')!r}, 'w')\n")
    in_index(denoiser=["evil", "Evil"])(folder)


SCHEDULER = "scheduler/scheduler_config.json"
LONG_HEADER = (2**62).to_bytes(8, "little")

DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    # the index
    "no index": (without("model_index.json"), "model_index.json is missing"),
    "index is no JSON": (with_text("model_index.json", "{"), "model_index.json cannot be read"),
    "index is a list": (with_text("model_index.json", "[]"), "must hold a JSON object"),
    "index is empty": (with_text("model_index.json", "{}"), "model_index.json is of a None"),
    "index of another pipeline": (in_index(_class_name="DDPMPipeline"), "is of a DDPMPipeline"),
    "surplus component": (in_index(safety_checker=["diffusers", "UNet2DModel"]), "names safety_checker"),
    "no denoiser": (in_index(denoiser=[None, None]), "denoiser"),
    "denoiser not named": (in_index(denoiser=REMOVED), "lacks denoiser"),
    "no scheduler": (in_index(scheduler=REMOVED), "lacks scheduler"),
    "component is a text": (in_index(vae="MLPVAE"), r"vae must be \[library, class\]"),
    "unknown class": (in_index(vae=["mnist_guided_pipeline", "Nothing"]), "Nothing of mnist_guided_pipeline"),
    "class that is no network": (in_index(vae=["os", "system"]), "system of os, which is no ModelMixin"),
    "scheduler as network": (in_index(vae=["diffusers", "DDPMScheduler"]), "no ModelMixin"),
    "library that runs code": (with_code, "Evil of evil"),
    "component path outside": (in_index(denoiser=["../outside", "X"]), "X of ../outside"),
    "another network's class": (in_index(denoiser=["mnist_guided_pipeline", "MLPVAE"]), "is of a MLPDenoiser"),
    "no noise law": (in_index(training_noise=REMOVED), "lacks training_noise"),
    "another noise law": (in_index(training_noise={"law": "flow", "prediction_type": "epsilon"}), "model_index.json"),
    "unknown noise setting": (in_index(training_noise={"law": "preserving", "speed": 3}), "do not have speed"),
    "names with a gap": (in_index(id2label={"0": "a", "2": "b"}), "without a gap"),
    "too few names": (in_index(id2label={"0": "a"}), "names 1 classes, the denoiser has 10"),
    "wrong guidance default": (in_index(sampling_defaults={"guidance_scale": -1}), "guidance_scale must be"),
    "unknown default": (in_index(sampling_defaults={"cats": 1}), "do not have cats"),
    "unknown default of the classifier alone": (
        in_index(sampling_defaults={"classifier_alone": {"dogs": 1}}),
        "do not have dogs",
    ),
    # configs
    "no config": (without("denoiser/config.json"), "denoiser/config.json is missing"),
    "config is no JSON": (with_text("denoiser/config.json", "\0"), "denoiser/config.json cannot be read"),
    "config names twice": (with_text("vae/config.json", '{"a": 1, "a": 2}'), "given twice"),
    "width of a billion": (in_config("denoiser", hidden_size=10**9), "hidden_size is 1,000,000,000; at most"),
    "a million layers": (in_config("classifier", num_layers=10**6), "num_layers is 1,000,000; at most"),
    "huge sample": (in_config("denoiser", sample_shape=[60000, 60000]), "sample_shape .* at most"),
    "negative width": (in_config("denoiser", hidden_size=-8), "denoiser/config.json"),
    "width zero": (in_config("vae", hidden_size=0), "vae"),
    "width is a text": (in_config("denoiser", hidden_size="8"), "does not describe a MLPDenoiser"),
    "width is NaN": (in_config("denoiser", hidden_size=float("nan")), "hidden_size is nan"),
    "unknown setting": (in_config("denoiser", sparkle=1), "has sparkle, which MLPDenoiser does not know"),
    "shape left out": (in_config("denoiser", sample_shape=REMOVED), "lacks sample_shape"),
    "statistics left out": (in_config("vae", latents_std=REMOVED), "lacks latents_std"),
    "deviation of zero": (in_config("vae", latents_std=[0.0] * 4), "latents_std must be a list of positive"),
    "infinite mean": (in_config("vae", latents_mean=[float("inf")] * 4), "latents_mean is inf"),
    "too few statistics": (in_config("vae", latents_mean=[0.0]), "has 1 entries for latents"),
    "another width": (in_config("denoiser", hidden_size=16), r"has shape .* not .* as config.json says"),
    "another number of classes": (in_config("denoiser", num_classes=9), "has shape"),
    "gate left out": (in_config("classifier", noise_schedule=REMOVED), "lacks noise_schedule"),
    "gate of another noise": (
        in_config("classifier", noise_schedule={"beta_schedule": "linear", "num_train_timesteps": 1000}),
        "noise_schedule is not the training_noise",
    ),
    # the scheduler
    "no scheduler config": (without(SCHEDULER), "scheduler_config.json is missing"),
    "another scheduler": (in_json(SCHEDULER, _class_name="DDIMScheduler"), "is of a DDIMScheduler"),
    "unknown scheduler setting": (in_json(SCHEDULER, sparkle=1), "has sparkle, which no scheduler knows"),
    "scheduler of another noise": (in_json(SCHEDULER, beta_schedule="linear"), "another noise schedule"),
    "scheduler of another prediction": (in_json(SCHEDULER, prediction_type="epsilon"), "takes the denoiser's output"),
    "endless timesteps": (in_json(SCHEDULER, num_train_timesteps=10**9), "num_train_timesteps is 1,000,000,000"),
    # weights
    "no weights": (without(f"denoiser/{WEIGHTS}"), f"{WEIGHTS} is missing"),
    "pickled weights only": (pickled, "diffusion_pytorch_model.bin can run code"),
    "empty file": (with_bytes("vae", lambda data: b""), "vae/.* cannot be read"),
    "truncated": (with_bytes("vae", lambda data: data[:-1]), "vae/.* cannot be read"),
    "lengthened": (with_bytes("vae", lambda data: data + b"\0"), "vae/.* cannot be read"),
    "endless header": (with_bytes("vae", lambda data: LONG_HEADER + data[8:]), "vae/.* cannot be read"),
    "no safetensors": (with_bytes("vae", lambda data: b"\x80\x02" + data), "vae/.* cannot be read"),
    "NaN": (with_weights("denoiser", filled(float("nan"))), "holds NaN or infinity"),
    "infinity": (with_weights("classifier", filled(float("inf"))), "holds NaN or infinity"),
    "integer weights": (
        with_weights("denoiser", lambda tensors: tensors | {first(tensors): tensors[first(tensors)].to(torch.int32)}),
        "is of type I32, not floating-point",
    ),
    "wrong shape": (
        with_weights("denoiser", lambda tensors: tensors | {first(tensors): torch.zeros(3)}),
        r"has shape \(3,\)",
    ),
    "missing weight": (with_weights("denoiser", lambda t: {k: t[k] for k in list(t)[1:]}), "lacks '"),
    "surplus weight": (with_weights("denoiser", lambda t: t | {"more": torch.zeros(1)}), "holds 'more', which is no"),
    "weights of another network": (swapped, "denoiser"),
    # shards
    "index of weights points outside": (outside("../outside.safetensors"), "not a safetensors file of its own folder"),
    "index of weights names a root path": (outside("{}/outside.safetensors"), "not a safetensors file of its own"),
    "shard is missing": (lambda folder: sharded(folder, more="gone.safetensors"), "gone.safetensors is missing"),
    "index promises more": (lambda folder: sharded(folder, **{"network.layers.0.bias": WEIGHTS}), "is missing"),
    "index and single file": (with_both_forms, "remove the one that is stale"),
    # components that do not fit
    "VAE of other latents": (with_vae(latent_dim=5), r"samples of shape \(4,\), the vae on \(5,\)"),
    "classifier of other samples": (with_classifier(sample_shape=(5,)), r"\(4,\), the classifier on \(5,\)"),
    "classifier of other classes": (with_classifier(num_classes=9), "names 10 classes, the classifier has 9"),
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

    @pytest.mark.parametrize("position", [0.5, 0.9, 0.999])
    def test_a_flipped_bit_is_noticed(self, folder, position):
        data = bytearray((folder / "denoiser" / WEIGHTS).read_bytes())
        data[int(len(data) * position)] ^= 4
        (folder / "denoiser" / WEIGHTS).write_bytes(data)
        with pytest.raises(IntegrityError, match="denoiser/.* is damaged: its SHA-256 sum differs"):
            Pipeline.from_pretrained(folder)

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

    def test_mutations(self, saved, tmp_path):
        """Random damage anywhere in the folder: an error, or the very same images."""
        expected, counts = images(Pipeline.from_pretrained(saved)), {"refused": 0, "identical": 0}
        for seed in range(MUTATIONS):
            folder = Path(shutil.copytree(saved, tmp_path / "mutant"))
            what = mutate(folder, random.Random(seed))
            try:
                found = images(Pipeline.from_pretrained(folder))
            except IntegrityError as error:
                assert str(folder) in str(error), (seed, what)
                counts["refused"] += 1
            else:
                assert torch.equal(found, expected), (seed, what)
                counts["identical"] += 1
            shutil.rmtree(folder)
        print(counts)
        assert counts["refused"] > 0.9 * MUTATIONS


def mutate(folder: Path, chance: random.Random) -> str:
    """Damage one file of a pipeline in a random way."""
    file = chance.choice(sorted(file for file in folder.rglob("*") if file.is_file()))
    data = bytearray(file.read_bytes())
    kind = chance.choice(("bit", "byte", "zeros", "cut", "more", "gone", "swap", "json"))
    at = chance.randrange(len(data))
    if kind == "bit":
        data[at] ^= 1 << chance.randrange(8)
    elif kind == "byte":
        data[at] = chance.randrange(256)
    elif kind == "zeros":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    elif kind == "cut":
        del data[at:]
    elif kind == "more":
        data += chance.randbytes(chance.randrange(1, 64))
    elif kind == "swap":
        other = chance.choice(sorted(other for other in folder.rglob("*") if other.suffix == file.suffix))
        data = bytearray(other.read_bytes())
    elif kind == "json" and file.suffix == ".json":
        content = json.loads(data)
        name = chance.choice(sorted(content))
        content[name] = chance.choice((None, -1, 0, 3, 1e30, "x", [], {}, True, [1, 2]))
        data = bytearray(json.dumps(content).encode())
    if kind == "gone":
        file.unlink()
    else:
        file.write_bytes(data)
    return f"{kind} in {file.name} at {at}"


class TestHabits:
    """What diffusers offers goes on working."""

    def test_variant(self, tmp_path):
        pipe = make()
        pipe.save_pretrained(tmp_path / "pipe")
        expected = images(Pipeline.from_pretrained(tmp_path / "pipe"))
        make().to(torch.float16).save_pretrained(tmp_path / "pipe", variant="fp16")
        assert torch.equal(images(Pipeline.from_pretrained(tmp_path / "pipe")), expected)
        narrow = Pipeline.from_pretrained(tmp_path / "pipe", variant="fp16", torch_dtype=torch.float16)
        assert narrow.denoiser.dtype == torch.float16
        assert (tmp_path / "pipe" / "vae" / "diffusion_pytorch_model.fp16.safetensors").is_file()
        with pytest.raises((ValueError, IntegrityError)):
            Pipeline.from_pretrained(tmp_path / "pipe", variant="int2")

    def test_a_damaged_variant_is_noticed_where_it_is_read(self, tmp_path):
        make().save_pretrained(tmp_path / "pipe")
        make().save_pretrained(tmp_path / "pipe", variant="fp16")
        file = tmp_path / "pipe" / "vae" / "diffusion_pytorch_model.fp16.safetensors"
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        Pipeline.from_pretrained(tmp_path / "pipe")
        with pytest.raises(IntegrityError, match="fp16.safetensors is damaged"):
            Pipeline.from_pretrained(tmp_path / "pipe", variant="fp16")

    def test_shards(self, tmp_path):
        pipe = make()
        pipe.save_pretrained(tmp_path / "one")
        pipe.save_pretrained(tmp_path / "many", max_shard_size=1000)
        assert len(weight_files(tmp_path / "many" / "denoiser")) > 2
        expected = images(Pipeline.from_pretrained(tmp_path / "one"))
        assert torch.equal(images(Pipeline.from_pretrained(tmp_path / "many")), expected)
        pipe.save_pretrained(tmp_path / "many")  # the shards are stale now, and gone
        assert len(weight_files(tmp_path / "many" / "denoiser")) == 1
        assert torch.equal(images(Pipeline.from_pretrained(tmp_path / "many")), expected)

    def test_components_of_the_caller(self, folder):
        (folder / "classifier" / WEIGHTS).unlink()
        other = DDIMScheduler(**NOISE)
        pipe = Pipeline.from_pretrained(folder, classifier=None, scheduler=other, torch_dtype=torch.float64)
        assert pipe.classifier is None and pipe.scheduler is other and pipe.denoiser.dtype == torch.float64
        shutil.rmtree(folder / "vae")
        assert Pipeline.from_pretrained(str(folder), classifier=None, vae=None).vae is None
        with pytest.raises(IntegrityError, match=r"samples of shape \(4,\), the classifier on \(5,\)"):
            Pipeline.from_pretrained(folder, vae=None, classifier=mgp.MLPClassifier(sample_shape=(5,), hidden_size=8))

    def test_networks_of_diffusers(self, tmp_path):
        blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
        unet = UNet2DModel(28, in_channels=1, out_channels=1, norm_num_groups=4, layers_per_block=1, **blocks)
        unet.register_to_config(sample_shape=[1, 28, 28])  # what a pipeline asks of a denoiser
        vae = AutoencoderKL(1, 1, block_out_channels=(8,), norm_num_groups=4, latent_channels=1, sample_size=28)
        make(vae=vae, denoiser=unet, classifier=None, id2label={}).save_pretrained(tmp_path / "pipe")
        loaded = Pipeline.from_pretrained(tmp_path / "pipe")
        assert type(loaded.vae) is AutoencoderKL and type(loaded.denoiser) is UNet2DModel
        assert loaded(None, output_type="latent").images.shape == (1, 1, 28, 28)

    @pytest.mark.parametrize("name", sorted(n for n in mgp.__all__ if n.endswith(("Denoiser", "Classifier", "VAE"))))
    def test_every_network_of_the_package(self, tmp_path, name):
        torch.manual_seed(0)
        mixture = {"means": [[0.0, 1.0], [1.0, 0.0]], "covariances": [[[1.0, 0.0], [0.0, 1.0]]] * 2, "classes": [0, 1]}
        arguments = {**mixture, "weights": [0.5, 0.5]} if name.startswith("Mixture") else {}
        network = getattr(mgp, name)(**arguments)
        network.save_pretrained(tmp_path / name)
        write_manifest(tmp_path / name)
        loaded = load_network(tmp_path / name)
        state, expected = loaded.state_dict(), network.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in expected)

    def test_one_network_of_a_pipeline(self, folder):
        assert type(load_network(folder, "vae")) is type(load_network(folder, subfolder="vae")) is mgp.MLPVAE
        assert load_network(folder, "vae", torch_dtype=torch.float16).dtype == torch.float16
        with_bytes("vae", lambda data: data[:-1] + bytes([data[-1] ^ 1]))(folder)
        with pytest.raises(IntegrityError, match="vae/.* is damaged"):
            load_network(folder, "vae")
        (folder / MANIFEST).unlink()
        with_weights("vae", filled(float("nan")))(folder)
        with pytest.raises(IntegrityError, match="holds NaN"):
            load_network(folder, "vae")

    def test_pickles_are_not_asked_for(self, folder):
        with pytest.raises(ValueError, match="use_safetensors must be True"):
            Pipeline.from_pretrained(folder, use_safetensors=False)

    def test_shipped_weights_have_a_manifest(self):
        from mnist_guided_pipeline.weights import DEFAULT_FOLDER

        listed = read_manifest(DEFAULT_FOLDER)
        assert {f"{name}/{WEIGHTS}" for name in ("vae", "denoiser", "classifier")} <= listed.keys()


class TestSaving:
    def test_other_files_of_the_folder_stay(self, tmp_path):
        folder = tmp_path / "pipe"
        make(0).save_pretrained(folder)
        for name in ("README.md", "steps/vae/log.txt", "denoiser/train_config.json", ".hidden/x"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        (folder / "link").symlink_to("README.md")
        os.chmod(folder, 0o750)
        make(1).save_pretrained(folder)
        for name in ("README.md", "steps/vae/log.txt", "denoiser/train_config.json", ".hidden/x"):
            assert (folder / name).read_text() == name
        assert (folder / "link").is_symlink() and folder.stat().st_mode & 0o777 == 0o750
        make(1).save_pretrained(tmp_path / "fresh")
        for name in ("vae", "denoiser", "classifier"):
            assert (folder / name / WEIGHTS).read_bytes() == (tmp_path / "fresh" / name / WEIGHTS).read_bytes()
        assert sorted(os.listdir(tmp_path)) == ["fresh", "pipe"]
        (folder / "steps/vae/log.txt").write_text("goes on")
        Pipeline.from_pretrained(folder)

    def test_a_damaged_variant_stays_damaged(self, tmp_path):
        make(0).save_pretrained(tmp_path / "pipe", variant="fp16")
        file = tmp_path / "pipe" / "vae" / "diffusion_pytorch_model.fp16.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
        make(0).save_pretrained(tmp_path / "pipe")
        with pytest.raises(IntegrityError, match="fp16.safetensors is damaged"):
            Pipeline.from_pretrained(tmp_path / "pipe", variant="fp16")

    def test_into_the_working_folder(self, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        pipe = make()
        pipe.save_pretrained(".")
        assert torch.equal(images(Pipeline.from_pretrained(tmp_path / "here")), images(pipe))

    def test_a_file_in_the_way(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(NotADirectoryError, match="is a file; name a folder"):
            make().save_pretrained(tmp_path / "file")
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_failing_save_leaves_the_old(self, tmp_path, monkeypatch):
        make(0).save_pretrained(tmp_path / "pipe")
        before = {file: file.read_bytes() for file in (tmp_path / "pipe").rglob("*") if file.is_file()}
        broken = make(1)

        def no_space(*args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(broken.classifier, "save_pretrained", no_space)
        with pytest.raises(OSError, match="No space left"):
            broken.save_pretrained(tmp_path / "pipe")
        assert {file: file.read_bytes() for file in (tmp_path / "pipe").rglob("*") if file.is_file()} == before
        assert os.listdir(tmp_path) == ["pipe"]

    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_a_killed_save_leaves_the_old_or_the_new(self, tmp_path):
        pipes, sums = [make(0), make(1)], []
        for i, pipe in enumerate(pipes):
            pipe.save_pretrained(tmp_path / f"{i}")
            sums.append(read_manifest(tmp_path / f"{i}"))
        target, chance, seen, died = tmp_path / "target", random.Random(0), [0, 0], 0
        pipes[0].save_pretrained(target)

        def write(pipe) -> int:
            """Save in a child, which is warm at once and never returns to pytest."""
            child = os.fork()
            if child == 0:
                try:
                    pipe.save_pretrained(target)
                finally:
                    os._exit(0)
            return child

        started = time.perf_counter()
        os.waitpid(write(pipes[0]), 0)
        delay = time.perf_counter() - started
        for kill in range(KILLS):
            child = write(pipes[(kill + 1) % 2])
            time.sleep(delay * chance.uniform(0.5, 1.1))
            os.kill(child, signal.SIGKILL)
            killed = os.waitpid(child, 0)[1] == signal.SIGKILL
            delay *= 1.25 if killed else 0.8  # so kills gather around the moment when the new folder takes its place
            died += killed
            pipe = Pipeline.from_pretrained(target)
            found = read_manifest(target if target.is_dir() else target.with_name(".target.backup"))
            assert found in sums
            index = sums.index(found)
            seen[index] += 1
            state, expected = pipe.denoiser.state_dict(), pipes[index].denoiser.state_dict()
            assert all(torch.equal(state[name], expected[name]) for name in expected)
        assert died and min(seen)
