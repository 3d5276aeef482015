"""What loads from a folder draws the same as what was saved; a folder is the old one or the new, never a mixture."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.storage.atomic import IntegrityError, write_manifest
from mnist_guided_pipeline.storage.lineage import LATENTS_OF, autoencoder_fingerprint
from mnist_guided_pipeline.storage.pipelines import load_network
from mnist_guided_pipeline.storage.strict import weight_files
from tiny import NOISE, images, make

Pipeline = mgp.ClassifierGuidedLatentPipeline
MIXTURE = {
    **{"means": [[0.0, 1.0], [1.0, 0.0]], "covariances": [[[1.0, 0.0], [0.0, 1.0]]] * 2},
    **{"classes": [0, 1], "weights": [0.5, 0.5]},
}
WEIGHTS = "diffusion_pytorch_model.safetensors"
ROLES = ("Denoiser", "Classifier", "VAE", "Generator", "Discriminator")
NETWORKS = sorted({name for name in mgp.__all__ if name.endswith(ROLES)} - {"GuidedDenoiser"})
SETTINGS = {  # of those that want some, and of what else must come back
    **dict.fromkeys(("MixtureDenoiser", "MixtureClassifier"), MIXTURE),
    "MLPVAE": {"latent_dim": 2, "latents_mean": [0.1, 0.2], "latents_std": [1.3, 1.4]},
    "ConvClassifier": {"noise_schedule": {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000}},
}


def with_another_last_bit(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


class TestLoading:
    """What diffusers offers goes on working."""

    def test_a_reloaded_pipeline_draws_the_very_same(self, tmp_path):
        """Also where kernels depend on how weights lie in memory, which a mapped file would choose."""
        pipe = make(vae=None, denoiser=mgp.UNetDenoiser((1, 28, 28)), classifier=mgp.ConvClassifier((1, 28, 28)))
        pipe.save_pretrained(tmp_path / "pipe")
        loaded = Pipeline.from_pretrained(tmp_path / "pipe")
        assert torch.equal(images(loaded), images(pipe))
        for network in (loaded.denoiser, loaded.classifier, load_network(tmp_path / "pipe", "denoiser")):
            assert {weight.data_ptr() % 64 for weight in network.parameters()} == {0}

    def test_diffusers_finds_the_class_that_the_folder_names(self, folder):
        pipe = DiffusionPipeline.from_pretrained(folder)
        assert type(pipe) is Pipeline and torch.equal(images(pipe), images(make()))
        with torch.inference_mode():
            pipe = Pipeline.from_pretrained(folder)
        assert torch.equal(images(pipe), images(make()))
        with pytest.raises(ValueError, match="use_safetensors must be True"):
            Pipeline.from_pretrained(folder, use_safetensors=False)

    def test_networks_of_another_vae_are_refused(self, tmp_path):
        pipe = make()
        pipe.denoiser.register_to_config(**{LATENTS_OF: autoencoder_fingerprint(make(1).vae)})
        pipe.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="The denoiser of '.*' was trained on the latents of .* another VAE"):
            Pipeline.from_pretrained(tmp_path)
        assert Pipeline.from_pretrained(tmp_path, vae=make(1).vae).vae is not None

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

    def test_a_damaged_variant_is_noticed_where_it_is_read(self, folder):
        make().save_pretrained(folder, variant="fp16")
        with_another_last_bit(folder / "vae" / "diffusion_pytorch_model.fp16.safetensors")
        make().save_pretrained(folder)  # which does not sign what it has not written
        Pipeline.from_pretrained(folder)
        with pytest.raises(IntegrityError, match="fp16.safetensors is damaged"):
            Pipeline.from_pretrained(folder, variant="fp16")

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
        swapped = Pipeline.from_pretrained(folder, classifier=None, scheduler=DDIMScheduler(clip_sample=False))
        with pytest.raises(ValueError, match="was trained for 'v_prediction'"):
            swapped(3)
        shutil.rmtree(folder / "vae")
        assert Pipeline.from_pretrained(str(folder), classifier=None, vae=None).vae is None
        with pytest.raises(IntegrityError, match=r"samples of shape \(4,\), the classifier on \(5,\)"):
            Pipeline.from_pretrained(folder, vae=None, classifier=mgp.MLPClassifier(sample_shape=(5,), hidden_size=8))

    @pytest.mark.parametrize("name", NETWORKS)
    def test_every_network_of_the_package(self, tmp_path, name):
        torch.manual_seed(0)
        network = getattr(mgp, name)(**SETTINGS.get(name, {}))
        network.save_pretrained(tmp_path / name)
        write_manifest(tmp_path / name)
        assert not list((tmp_path / name).glob("*.bin"))
        expected = {**network.state_dict(), **dict(network.named_buffers())}
        for loaded in (load_network(tmp_path / name), type(network).from_pretrained(tmp_path / name)):
            state = {**loaded.state_dict(), **dict(loaded.named_buffers())}
            assert state.keys() == expected.keys() and not loaded.training
            assert all(torch.equal(state[key], expected[key]) for key in expected)
            assert loaded.config.get("latents_std") == network.config.get("latents_std")

    def test_one_network_of_a_pipeline(self, folder):
        assert type(load_network(folder, "vae")) is type(load_network(folder, subfolder="vae")) is mgp.MLPVAE
        with pytest.raises(ValueError, match="vae '.*denoiser' holds a MLPDenoiser, a denoiser, where a vae is needed"):
            load_network(folder / "denoiser", "vae")
        assert load_network(folder, "vae", torch_dtype=torch.float16).dtype == torch.float16
        with_another_last_bit(folder / "vae" / WEIGHTS)
        with pytest.raises(IntegrityError, match="vae/.* is damaged"):
            load_network(folder, "vae")
        with pytest.raises(IntegrityError, match="the network is ClassifierGuidedLatentPipeline"):
            shutil.copy(folder / "model_index.json", folder / "config.json")
            load_network(folder)


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

    def test_what_is_saved_does_not_say_where_it_was_loaded(self, tmp_path):
        make().save_pretrained(tmp_path / "first")
        Pipeline.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
        texts = [file.read_text() for file in (tmp_path / "second").rglob("*.json")]
        assert len(texts) == 6 and not any(str(tmp_path) in text for text in texts)
        assert torch.equal(images(Pipeline.from_pretrained(tmp_path / "second")), images(make()))

    def test_a_file_in_the_way(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(NotADirectoryError, match="is a file; name a folder"):
            make().save_pretrained(tmp_path / "file")
        assert (tmp_path / "file").read_text() == "mine"

    def test_what_would_not_load_is_not_written(self, tmp_path):
        for parts in ({"id2label": dict.fromkeys(range(10), "a")}, {"vae": mgp.MLPVAE(latent_dim=5, hidden_size=8)}):
            with pytest.raises(ValueError, match="id2label must name|the vae on"):
                make(**parts).save_pretrained(tmp_path / "pipe")
        assert not list(tmp_path.iterdir())

    def test_into_the_working_folder_and_a_failing_save_leaves_the_old(self, tmp_path, monkeypatch):
        (tmp_path / "pipe").mkdir()
        monkeypatch.chdir(tmp_path / "pipe")
        make(0).save_pretrained(".")
        before = {file: file.read_bytes() for file in (tmp_path / "pipe").rglob("*") if file.is_file()}
        broken = make(1)

        def no_space(*args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(broken.classifier, "save_pretrained", no_space)
        with pytest.raises(OSError, match="No space left"):
            broken.save_pretrained(tmp_path / "pipe")
        assert {file: file.read_bytes() for file in (tmp_path / "pipe").rglob("*") if file.is_file()} == before
        assert os.listdir(tmp_path) == ["pipe"]
        assert torch.equal(images(Pipeline.from_pretrained(tmp_path / "pipe")), images(make(0)))
