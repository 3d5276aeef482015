"""diffusers' networks as they are, through every route of ours; and ours through diffusers' own pipelines."""

import json

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UNet2DModel,
)

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.posteriors import encode_images
from mnist_guided_pipeline.sampling.latents import denormalise, normalise
from mnist_guided_pipeline.sampling.networks import arguments_for, null_label, num_classes, sample_shape
from mnist_guided_pipeline.storage.assemble import assemble_pipeline
from mnist_guided_pipeline.storage.export import export_pipeline
from mnist_guided_pipeline.storage.pipelines import load_network
from tiny import NOISE, UNET, noise, seeds, shaken, unet
from training_runs import make_config, train

SMALL = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
FITTED = {"latents_mean": [0.5, -0.5], "latents_std": [2.0, 3.0]}
CODER = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
DIT = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "norm_num_groups": 4, "patch_size": 2}


def dit(channels=2, size=8, variance=False, **options):
    options = {"num_embeds_ada_norm": 3, **DIT, **options}
    return shaken(
        DiTTransformer2DModel(in_channels=channels, out_channels=channels * (1 + variance), sample_size=size, **options)
    )


def classifier(*shape, classes=3):
    return shaken(mgp.MLPClassifier(sample_shape=shape, hidden_size=16, num_classes=classes))


def pipeline(denoiser, vae=None, classes=3, **options):
    guide = classifier(*sample_shape(denoiser), classes=classes)
    return mgp.ClassifierGuidedLatentPipeline(vae, denoiser, guide, DDIMScheduler(**NOISE), **options)


def draw(pipe, labels=(0, 1, 2), **call):
    call = {"num_inference_steps": 3, "output_type": "pt", "guidance_scale": 5.0, **call}
    return pipe(list(labels), generator=seeds(*range(len(labels))), **call).images


DENOISERS = {
    "UNet2DModel": lambda: unet(),
    "UNet2DModel of colour": lambda: unet(3, 16),
    "UNet2DModel with classes": lambda: unet(num_class_embeds=3),
    "UNet2DModel with a null class": lambda: unet(num_class_embeds=4),
    "DiTTransformer2DModel": lambda: dit(1),
    "DiTTransformer2DModel with a variance": lambda: dit(1, variance=True),
}


@pytest.mark.parametrize("name", DENOISERS)
class TestDenoisers:
    def test_it_is_guided_saved_loaded_exported_and_assembled_alike(self, name, tmp_path):
        pipe = pipeline(DENOISERS[name]())
        images = draw(pipe)
        assert images.shape == (3, *sample_shape(pipe.denoiser))
        assert (draw(pipe, guidance_scale=0.0) - images).abs().max() > 1e-3
        if num_classes(pipe.denoiser) is not None:
            assert num_classes(pipe.denoiser) == 3
            calm = {"guidance_scale": 0.0}
            assert (draw(pipe, (0, 0, 0), **calm) - draw(pipe, (0, 1, 2), **calm))[1:].abs().max() > 1e-4
        pipe.save_pretrained(tmp_path / "saved")
        loaded = mgp.ClassifierGuidedLatentPipeline.from_pretrained(tmp_path / "saved")
        assert torch.equal(draw(loaded), images)
        export_pipeline(tmp_path / "saved", tmp_path / "exported")
        alone = DiffusionPipeline.from_pretrained(tmp_path / "exported", trust_remote_code=True)
        assert torch.equal(draw(alone), images)
        pipe.scheduler.save_pretrained(tmp_path / "saved" / "denoiser" / "scheduler")
        pipe.scheduler.save_pretrained(tmp_path / "saved" / "classifier" / "scheduler")
        for part in ("denoiser", "classifier"):
            assert type(load_network(tmp_path / "saved" / part, part)) is type(getattr(pipe, part))
        if "variance" not in name:
            again = assemble_pipeline(None, tmp_path / "saved" / "denoiser", tmp_path / "saved" / "classifier")
            assert torch.equal(draw(again), images)

    def test_any_scheduler_runs_it_and_images_of_its_kind_come_out(self, name):
        pipe = pipeline(DENOISERS[name]())
        for scheduler in (DPMSolverMultistepScheduler, EulerDiscreteScheduler, DDPMScheduler):
            pipe.scheduler = pipe.make_scheduler(scheduler)
            assert draw(pipe).isfinite().all()
        picture = draw(pipe, output_type="pil")[0]
        assert picture.mode == ("RGB" if "colour" in name else "L")


def test_where_there_is_no_null_class_it_is_said():
    without, with_one = unet(num_class_embeds=3), pipeline(unet(num_class_embeds=4))
    assert null_label(without) is None and null_label(with_one.denoiser) == 3
    assert null_label(dit()) == 3
    for call in ({"cfg_scale": 0.0}, {"cfg_scale": 2.0}):
        assert draw(with_one, **call).isfinite().all()
        with pytest.raises(ValueError, match="UNet2DModel has no null class.*leave cfg_scale at 1"):
            draw(pipeline(without), **call)
    with pytest.raises(ValueError, match="no null class"):
        pipeline(without)(None, output_type="pt")


def test_classifier_free_guidance_is_between_null_and_label():
    pipe = pipeline(dit(1))
    call = {"num_inference_steps": 1, "latents": noise(3, *sample_shape(pipe.denoiser)), "guidance_scale": 0.0}
    null, told, half = (draw(pipe, cfg_scale=w, **call) for w in (0.0, 1.0, 0.5))
    torch.testing.assert_close(half, (null + told) / 2, rtol=1e-3, atol=1e-4)


def test_a_learned_variance_reaches_the_scheduler_that_takes_it():
    pipe = pipeline(dit(1, variance=True))
    assert (draw(pipe) - draw(pipeline(dit(1)))).abs().max() > 0
    pipe.scheduler = DDPMScheduler(**NOISE, variance_type="learned_range")
    assert draw(pipe).isfinite().all()


@pytest.mark.parametrize("statistics", [{}, {"scaling_factor": 0.5, "shift_factor": 0.25}, FITTED], ids=str)
def test_autoencoder_kl_scales_its_latents_as_it_says(statistics, tmp_path):
    vae = shaken(AutoencoderKL(1, 1, latent_channels=2, **CODER, **SMALL, **statistics))
    z, shift, scale = torch.randn(2, 2, 8, 8), vae.config.shift_factor or 0.0, 1 / vae.config.scaling_factor
    if statistics == FITTED:
        shift, scale = (torch.tensor(values).reshape(1, 2, 1, 1) for values in FITTED.values())
    expected = (z - shift) / scale
    torch.testing.assert_close(normalise(z, vae.config), expected)
    torch.testing.assert_close(denormalise(expected, vae.config), z)

    pipe = pipeline(dit(2), vae)
    latents = draw(pipe, output_type="latent")
    with torch.no_grad():
        decoded = vae.decode(denormalise(latents, vae.config)).sample
    torch.testing.assert_close(draw(pipe), (decoded / 2 + 0.5).clamp(0, 1))
    pipe.save_pretrained(tmp_path / "saved")
    assert torch.equal(draw(mgp.ClassifierGuidedLatentPipeline.from_pretrained(tmp_path / "saved")), draw(pipe))

    images = torch.randint(256, (4, 28, 28), dtype=torch.uint8)
    table = encode_images(vae, images, progress=False)
    with torch.no_grad():
        posterior = vae.encode(images[:, None] / 127.5 - 1).latent_dist
    torch.testing.assert_close(table.mean, normalise(posterior.mean, vae.config))
    torch.testing.assert_close(table.std, posterior.std / scale)


def test_autoencoder_tiny_has_points_for_latents():
    sizes = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    vae = AutoencoderTiny(1, 1, latent_channels=2, **sizes, **blocks)
    table = encode_images(vae, torch.randint(256, (4, 16, 16), dtype=torch.uint8), progress=False)
    assert table.std is None and table.sample_shape == (2, 8, 8)
    assert draw(pipeline(dit(2), vae)).shape == (3, 1, 16, 16)


def test_parts_that_do_not_fit_are_refused(tmp_path):
    vae = AutoencoderKL(1, 1, latent_channels=4, **CODER, **SMALL)
    with pytest.raises(ValueError, match=r"samples of shape \(2, 8, 8\), the vae on \(4, 8, 8\)"):
        pipeline(dit(2), vae).save_pretrained(tmp_path / "x")
    strange = AutoencoderKL(1, 1, **CODER, **SMALL)
    strange.register_to_config(sample_size=None)
    with pytest.raises(ValueError, match="AutoencoderKL does not say what it samples.*neither sample_shape nor both"):
        sample_shape(strange)
    with pytest.raises(ValueError, match="is for images"):
        arguments_for(UNet2DModel, (32,))


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("UNet2DModel", {**UNET, "num_class_embeds": 11}),
        ("DiTTransformer2DModel", {**DIT, "num_embeds_ada_norm": 10, "patch_size": 7}),
    ],
)
def test_a_network_of_diffusers_is_trained_resumed_and_drawn_with(network, options, digits_folder, tmp_path):
    settings = {"network": network, "network_config": json.dumps(options), "max_train_steps": 4}
    settings |= {"checkpointing_steps": 2, "validation_steps": 4, "label_dropout": 0.5, "lr_warmup_steps": 1}
    train("denoiser", make_config("denoiser", digits_folder, tmp_path / "once", **settings))
    settings["resume_from_checkpoint"] = str(tmp_path / "once" / "checkpoint-2")
    train("denoiser", make_config("denoiser", digits_folder, tmp_path / "twice", **settings))
    once, twice = (load_network(tmp_path / name, "denoiser") for name in ("once", "twice"))
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True))
    assert type(once).__name__ == network and num_classes(once) == 10 and null_label(once) == 10
    pipe = mgp.ClassifierGuidedLatentPipeline(None, shaken(once), None, DDIMScheduler(**NOISE))
    assert pipe([3], num_inference_steps=2, output_type="pt").images.shape == (1, 1, 28, 28)


@pytest.mark.parametrize("name", ["MLPDenoiser", "UNetDenoiser", "DiTDenoiser", "FiLMConvDenoiser"])
def test_ours_are_run_by_pipelines_of_diffusers(name, tmp_path):
    options = {
        "UNetDenoiser": {"patch_size": 1, "block_channels": [8, 16]},
        "DiTDenoiser": {"patch_size": 2, "hidden_size": 16, "num_layers": 1},
    }
    options |= {"FiLMConvDenoiser": {"patch_size": 1, "channels": 8, "num_layers": 1}}
    network = shaken(getattr(mgp, name)(sample_shape=(3, 8, 16), **options.get(name, {})))

    assert list(network.config.sample_size) == [8, 16]
    network.save_pretrained(tmp_path)
    for pipeline_class, scheduler in ((DDPMPipeline, DDPMScheduler(**NOISE)), (DDIMPipeline, DDIMScheduler(**NOISE))):
        pipe = pipeline_class(unet=type(network).from_pretrained(tmp_path), scheduler=scheduler)
        assert pipe(batch_size=2, num_inference_steps=2, output_type="np").images.shape == (2, 8, 16, 3)
