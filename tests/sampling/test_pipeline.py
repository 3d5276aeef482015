"""The life cycle of a call: what the pipeline adds to a plain diffusers loop, and nothing else."""

import contextlib
import inspect
import io
import math
import operator
from concurrent.futures import ThreadPoolExecutor

import diffusers
import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.evaluation.oracle import (
    COSINE,
    LINEAR,
    PLANE,
    even_noise,
    exact_pipeline,
    make_scheduler,
)
from mnist_guided_pipeline.sampling.noise import noise_level
from mnist_guided_pipeline.sampling.schedulers import SUPPORTED
from tiny import seeds

ODE = ["DDIM", "DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete", "HeunDiscrete", "KDPM2Discrete", "LMSDiscrete"]
SDE = ["DDPM", "EulerAncestralDiscrete", "KDPM2AncestralDiscrete", "LCM"]


def tiny(
    name: str = "DDIM", kind: str = "epsilon", vae: bool = False, **components
) -> mgp.ClassifierGuidedLatentPipeline:
    """A pipeline of small real networks on samples of four numbers."""
    torch.manual_seed(0)
    made = {
        "vae": mgp.MLPVAE(latent_dim=4, hidden_size=16, latents_mean=[0.1] * 4, latents_std=[2.0] * 4) if vae else None,
        "denoiser": mgp.MLPDenoiser(sample_shape=(4,), hidden_size=16),
        "classifier": mgp.MLPClassifier(sample_shape=(4,), hidden_size=16),
        "scheduler": make_scheduler(f"{name}Scheduler", kind, LINEAR),
    }
    for network in (made["denoiser"], made["classifier"]):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(3)  # so that labels and scales are seen in the samples
    names = {index: f"digit {index}" for index in range(10)}
    return mgp.ClassifierGuidedLatentPipeline(**{**made, **components}, id2label=names)


def on_cosine(name: str, **options) -> mgp.ClassifierGuidedLatentPipeline:
    """A tiny pipeline on the noise schedule of the shipped networks, under any scheduler that can run them."""
    pipe = tiny(scheduler=make_scheduler("DDIMScheduler", "epsilon", COSINE))
    pipe.scheduler = pipe.make_scheduler(f"{name}Scheduler", **options)
    return pipe


def draw(pipe, class_labels=3, **arguments) -> torch.Tensor:
    arguments = {"generator": seeds(0)[0], "num_inference_steps": 5, "output_type": "latent", **arguments}
    return pipe(class_labels, **arguments).images


def calls_of(network) -> list:
    """The inputs of every call of a network, from now on."""
    calls = []
    network.register_forward_hook(lambda _, inputs, output: calls.append(inputs))
    return calls


class TestUnguided:
    @pytest.mark.parametrize("name", [*ODE, *SDE])
    @pytest.mark.parametrize("how", [{"guidance_scale": 0.0}, {"guidance_scale": [0.0, 0.0]}, {"class_labels": None}])
    def test_equals_a_plain_diffusers_loop_bit_for_bit(self, name, how):
        pipe = tiny(name)
        classified = calls_of(pipe.classifier)
        arguments = {"class_labels": [1, 2], "num_images_per_label": 2 if how.get("class_labels", 1) is None else 1}
        found = draw(pipe, **{**arguments, **how})

        scheduler, generator = pipe.scheduler, seeds(0)[0]
        scheduler.set_timesteps(5)
        takes = inspect.signature(scheduler.step).parameters
        latents = torch.randn(2, 4, generator=generator) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            with torch.no_grad():
                prediction = pipe.denoiser(scheduler.scale_model_input(latents, t), t).sample
            extra = {"generator": generator} if "generator" in takes else {}
            latents = scheduler.step(prediction, t, latents, **extra).prev_sample
        assert torch.equal(found, latents)
        if how != {"guidance_scale": [0.0, 0.0]}:  # a scale per label is not read, so that no device is waited for
            assert not classified

    def test_eta_and_the_generator_reach_the_scheduler(self):
        pipe = tiny("DDIM")
        assert not torch.equal(draw(pipe, eta=1.0), draw(pipe, eta=0.0))
        assert torch.equal(draw(pipe, eta=1.0), draw(pipe, eta=1.0))


class TestGuidance:
    @pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
    @pytest.mark.parametrize("name", ["DDIM", "DPMSolverMultistep", "EulerDiscrete", "HeunDiscrete"])
    def test_prediction_is_linear_in_the_scale(self, name, kind):
        def first(scale):
            seen = []
            draw(
                tiny(name, kind),
                guidance_scale=scale,
                callback_on_step_end=lambda pipe, i, t, tensors: seen.append(tensors["prediction"]),
                callback_on_step_end_tensor_inputs=["prediction"],
            )
            return seen[0]

        base, one, three = first(0.0), first(1.0), first(3.0)
        assert (one - base).abs().max() > 1e-4 * base.abs().max()
        torch.testing.assert_close(three - base, 3 * (one - base), rtol=1e-4, atol=1e-6 * float(three.abs().max()))

    @pytest.mark.parametrize("name", [*ODE, *SDE, "DPMSolverSDE"])
    @pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
    def test_a_sample_does_not_depend_on_its_batch(self, name, guidance_scale):
        if name == "DPMSolverSDE":
            pytest.importorskip("torchsde")
        pipe, labels = tiny(name), [3, 1, 4, 9]

        def part(which):
            chosen = [labels[i] for i in which]
            return draw(pipe, chosen, generator=seeds(*which), guidance_scale=guidance_scale)

        whole, parts = part(range(4)), torch.cat([part([0]), part([1, 2, 3])])
        torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-5 * float(whole.abs().max()))

    def test_one_scale_per_label(self):
        pipe = tiny()
        both = draw(pipe, [3, 5], generator=seeds(0, 1), guidance_scale=[0.0, 6.0])
        for i, scale in enumerate([0.0, 6.0]):
            alone = draw(pipe, [3, 5][i], generator=seeds(i), guidance_scale=scale)
            torch.testing.assert_close(both[i : i + 1], alone, rtol=1e-4, atol=1e-5)
        twice = draw(pipe, [3, 5], num_images_per_label=2, generator=seeds(0, 0, 1, 1), guidance_scale=[0.0, 6.0])
        torch.testing.assert_close(twice, both.repeat_interleave(2, dim=0))
        as_tensor = draw(pipe, [3, 5], generator=seeds(0, 1), guidance_scale=torch.tensor([0.0, 6.0]))
        assert torch.equal(as_tensor, both)

    def test_images_come_in_label_order(self):
        pipe = tiny()
        found = draw(pipe, [3, 7], num_images_per_label=2, generator=seeds(0, 1, 2, 3), guidance_scale=6.0)
        assert torch.equal(found, draw(pipe, [3, 3, 7, 7], generator=seeds(0, 1, 2, 3), guidance_scale=6.0))
        assert not torch.allclose(found, draw(pipe, [7, 3, 7, 3], generator=seeds(0, 1, 2, 3), guidance_scale=6.0))

    def test_defaults_come_from_the_config(self):
        pipe = tiny()
        noise = even_noise(1, 4).float()
        chosen = {"guidance_scale": 2.5, "num_inference_steps": 4, "guidance_interval": (0.1, 5.0)}
        expected = pipe(3, latents=noise, output_type="latent", **chosen)
        pipe.register_to_config(sampling_defaults={**chosen, "guidance_interval": [0.1, 5.0]})
        assert torch.equal(pipe(3, latents=noise, output_type="latent").images, expected.images)

    def test_defaults_do_not_depend_on_the_scheduler(self):
        """Earlier versions saved some for single classes; those of the saved scheduler's class are kept."""
        saved = {
            "guidance_scale": 2.5,
            "schedulers": {"DDIMScheduler": {"guidance_scale": 0.5}},
            "classifier_alone": {},
        }
        pipe = tiny()
        old = mgp.ClassifierGuidedLatentPipeline(**pipe.components, sampling_defaults=saved)
        assert old.config.sampling_defaults == {"guidance_scale": 0.5}
        old.scheduler = old.make_scheduler(EulerDiscreteScheduler)
        assert old.sampling_defaults["guidance_scale"] == 0.5


class TestInterval:
    @pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete", "HeunDiscrete", "KDPM2Discrete"])
    def test_edges_lie_on_steps(self, name):
        """Of five steps the second and the third are guided; a two-stage step is guided in both stages or in none."""
        pipe = tiny(name)
        classified = calls_of(pipe.classifier)
        pipe.scheduler.set_timesteps(5)
        order = getattr(pipe.scheduler, "order", 1)
        times = pipe.scheduler.timesteps
        ratios = [noise_level(pipe.scheduler, i, times[i]).ratio for i in range(0, len(times), order)]
        denoised = calls_of(pipe.denoiser)
        draw(pipe, guidance_interval=(ratios[3], ratios[1]))
        guided = [float(inputs[1]) for inputs in classified]
        assert guided == times[order : 3 * order].tolist() and len(denoised) == len(times)  # one call a step

    def test_everything_and_nothing(self):
        pipe = tiny()
        torch.testing.assert_close(draw(pipe, guidance_interval=(0.0, math.inf)), draw(pipe))
        assert torch.equal(draw(pipe, guidance_interval=(1e6, 1e7)), draw(pipe, guidance_scale=0.0))


@pytest.mark.parametrize("name", ["DDIM", "DPMSolverMultistep", "HeunDiscrete"])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_classifier_free_guidance_is_classifier_guidance(name, kind, scale):
    """With exact networks extrapolating by w is guiding with s = w (Ho and Salimans 2022, section 3)."""
    call = {"num_images_per_label": 64, "latents": even_noise(64, 2), "num_inference_steps": 12}
    guided = draw(exact_pipeline(PLANE, f"{name}Scheduler", kind), [1], guidance_scale=scale, **call)
    pipe = exact_pipeline(PLANE, f"{name}Scheduler", kind, conditional=True)
    for free in (0.0, min(scale, 1.0), scale):  # the rest of the scale is the classifier's
        found = draw(pipe, [1], cfg_scale=free, guidance_scale=scale - free, **call)
        torch.testing.assert_close(found, guided, rtol=1e-5, atol=1e-6)


class TestOutput:
    @pytest.mark.parametrize("vae", [True, False])
    def test_types_agree(self, vae):
        networks = {"denoiser": mgp.MLPDenoiser, "classifier": mgp.MLPClassifier}
        pixels = {name: network((1, 28, 28), hidden_size=8) for name, network in networks.items()}
        pipe = tiny(vae=vae, **({} if vae else pixels))

        def of(output_type):
            return draw(pipe, [3, 5], output_type=output_type)

        pt, array, images = of("pt"), of("np"), of("pil")
        assert pt.shape == (2, 1, 28, 28) and array.shape == (2, 28, 28, 1)
        assert 0 <= float(pt.min()) < float(pt.max()) <= 1
        np.testing.assert_array_equal(array, pt.permute(0, 2, 3, 1).numpy())
        assert [(image.mode, image.size) for image in images] == [("L", (28, 28))] * 2
        np.testing.assert_array_equal(np.stack([np.asarray(image) for image in images]), (array[..., 0] * 255).round())
        latents = of("latent")
        assert latents.shape == (2, *pipe.denoiser.config.sample_shape)
        (as_tuple,) = pipe([3, 5], 1, num_inference_steps=5, generator=seeds(0)[0], output_type="pt", return_dict=False)
        assert torch.equal(pt, as_tuple)
        decoded = pipe.vae.decode(latents * 2.0 + 0.1).sample if vae else latents
        torch.testing.assert_close(pt, (decoded / 2 + 0.5).clamp(0, 1).detach())


class TestLoop:
    def test_latents_are_where_it_starts(self):
        pipe = tiny("EulerDiscrete")
        noise = torch.randn(1, 4, generator=seeds(0)[0])
        kept = noise.clone()
        assert torch.equal(draw(pipe, latents=noise), draw(pipe))
        assert torch.equal(noise, kept)

    def test_custom_timesteps(self):
        pipe, seen = tiny("DDPM"), []
        custom = draw(pipe, timesteps=[900, 500, 20], callback_on_step_end=lambda p, i, t, k: seen.append((i, int(t))))
        assert seen == [(0, 900), (1, 500), (2, 20)] and pipe.num_timesteps == 3
        regular = tiny("DDPM").scheduler
        regular.set_timesteps(4)
        assert torch.equal(draw(pipe, timesteps=regular.timesteps.tolist()), draw(pipe, num_inference_steps=4))
        assert not torch.equal(custom, draw(pipe, num_inference_steps=3))

    @pytest.mark.parametrize("name", ["DDIM", "DPMSolverMultistep", "HeunDiscrete", "EulerAncestralDiscrete"])
    def test_calls_in_several_threads_do_not_meet(self, name):
        pipe = tiny(name)

        def call(i):
            steps, scale = 3 + i % 4, float(i)
            return draw(pipe, i, num_inference_steps=steps, guidance_scale=scale, generator=seeds(i)[0])

        alone = [call(i) for i in range(8)]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(call, range(8)))
        assert all(map(torch.equal, alone, together))

    def test_custom_sigmas(self):
        pipe = tiny("EulerDiscrete")
        pipe.scheduler.set_timesteps(4)
        sigmas = pipe.scheduler.sigmas.tolist()
        torch.testing.assert_close(draw(pipe, sigmas=sigmas), draw(pipe, num_inference_steps=4), rtol=1e-4, atol=1e-4)
        seen = []
        draw(pipe, sigmas=[20.0, 2.0, 0.0], callback_on_step_end=lambda call, i, t, k: seen.append(call.scheduler))
        assert seen[-1].sigmas.tolist() == [20.0, 2.0, 0.0] and seen[-1] is not pipe.scheduler

    @pytest.mark.parametrize("name", ["DDIM", "HeunDiscrete", "KDPM2Discrete", "FlowMatchHeunDiscrete"])
    def test_the_bar_counts_steps(self, name):
        pipe, bars = tiny("DDIM"), []
        pipe.scheduler = pipe.make_scheduler(getattr(diffusers, f"{name}Scheduler"))
        pipe.set_progress_bar_config(disable=False, file=io.StringIO())
        make = pipe.progress_bar

        @contextlib.contextmanager
        def kept(**options):
            with make(**options) as bar:
                bars.append(bar)
                yield bar

        pipe.progress_bar = kept
        draw(pipe, num_inference_steps=6)
        assert bars[0].n == bars[0].total == 6

    def test_a_callback_may_change_the_latents(self):
        kept = []

        def replace(pipe, i, t, tensors):
            kept.append(tensors["latents"])
            return {"latents": torch.full_like(tensors["latents"], 7.0)} if i == 4 else {}

        found = draw(tiny(), callback_on_step_end=replace)
        assert torch.equal(found, torch.full((1, 4), 7.0)) and len(kept) == 5

    @pytest.mark.parametrize("kind", ["function", "callback of diffusers", "several of them"])
    def test_a_callback_may_change_the_scale(self, kind):
        class Cutoff(PipelineCallback):
            tensor_inputs = ["latents", "prediction"]

            def callback_fn(self, pipe, i, t, tensors):
                assert pipe.guidance_scale == (2.0 if i < 2 else 0.0)
                if i == 1:
                    pipe._guidance_scale = 0.0
                return tensors

        pipe = tiny()
        classified, kept = calls_of(pipe.classifier), []
        callback = Cutoff(cutoff_step_ratio=None, cutoff_step_index=1)
        forms = {"function": callback.callback_fn, "several of them": MultiPipelineCallbacks([callback])}
        changed = draw(pipe, guidance_scale=2.0, callback_on_step_end=forms.get(kind, callback))
        assert len(classified) == 2
        draw(pipe, guidance_scale=2.0, callback_on_step_end=lambda pipe, i, t, tensors: kept.append(tensors["latents"]))
        from_there = draw(  # DDIM keeps nothing between steps
            pipe, guidance_scale=0.0, callback_on_step_end=lambda pipe, i, *_: {"latents": kept[1]} if i == 1 else {}
        )
        assert torch.equal(changed, from_there)

    def test_a_callback_may_interrupt(self):
        pipe, seen = tiny(), []
        denoised = calls_of(pipe.denoiser)

        def stop(pipe, i, t, tensors):
            seen.append(tensors["latents"])
            pipe._interrupt = i == 1

        found = draw(pipe, callback_on_step_end=stop)
        assert len(denoised) == 2 and torch.equal(found, seen[-1])
        draw(pipe)
        assert len(denoised) == 7  # the next call is not interrupted

    @pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete", "HeunDiscrete"])
    def test_under_inference_mode(self, name):
        pipe = tiny(name)
        expected = draw(pipe, [3, 5], guidance_scale=[1.0, 3.0])
        with torch.inference_mode():
            assert torch.equal(draw(pipe, [3, 5], guidance_scale=[1.0, 3.0]), expected)

    @pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete"])
    def test_networks_in_half_precision(self, name):
        pipe = tiny(name, vae=True)
        expected = draw(pipe, [3, 5], output_type="pt")
        pipe.to(torch.bfloat16)
        found = draw(pipe, [3, 5], output_type="pt")
        assert found.dtype == torch.float32
        assert float((found - expected).abs().mean()) < 0.02 < float(expected.std())
        assert draw(pipe).dtype == torch.float32  # the scheduler's arithmetic stays in float32

    def test_networks_are_left_as_they_were(self):
        pipe = tiny(vae=True)
        pipe.classifier.train()
        before = {name: value.clone() for name, value in pipe.classifier.state_dict().items()}
        draw(pipe, output_type="pt")
        assert pipe.classifier.training and all(
            p.requires_grad and p.grad is None for p in pipe.classifier.parameters()
        )
        assert all(torch.equal(value, before[name]) for name, value in pipe.classifier.state_dict().items())


BAD_INPUTS = [
    ({"class_labels": 10}, ValueError, "class_labels: 10 is not a class"),
    ({"class_labels": True}, TypeError, "class_labels must be a class index"),
    ({"negative_class_labels": 3}, ValueError, "class_labels and negative_class_labels were both given"),
    ({"class_labels": None, "negative_class_labels": 10}, ValueError, "negative_class_labels: 10 is not a class"),
    *(({"num_images_per_label": bad}, ValueError, "num_images_per_label must be an integer") for bad in (0, -1, 1.5)),
    *(({"num_inference_steps": bad}, ValueError, "num_inference_steps must be an integer") for bad in (0, True, 2.0)),
    *(({"guidance_scale": bad}, ValueError, "guidance_scale must be finite") for bad in (-1, math.nan, math.inf)),
    ({"guidance_scale": [1.0, 2.0]}, ValueError, r"guidance_scale has shape \(2,\) for 1 labels"),
    *(({"guidance_scale": bad}, TypeError, "guidance_scale must be a number") for bad in ("2", ["x"], {}, 10**400)),
    ({"class_labels": [1, 2], "guidance_scale": [[1.0, 2.0]]}, TypeError, "guidance_scale must be a number"),
    *(({"cfg_scale": bad}, ValueError, "cfg_scale must be a number at least 0") for bad in (-1.0, math.nan, "2")),
    ({"cfg_scale": 2.0}, ValueError, "cfg_scale is 2.0, but the denoiser is not class-conditional"),
    *(
        ({"guidance_interval": bad}, ValueError, "guidance_interval must be")
        for bad in ((1.0, 1.0), (2.0, 1.0), (-1.0, 2.0), (1.0,), 3.0, (math.nan, 1.0), ("a", "b"), {0, 1})
    ),
    *(({"eta": bad}, ValueError, "eta must be a number from 0 to 1") for bad in (-0.1, 1.1, "1")),
    *(({"classifier_temperature": bad}, ValueError, "classifier_temperature must be") for bad in (0.0, -1.0)),
    *(({"guidance_rescale": bad}, ValueError, "guidance_rescale must be") for bad in (-0.1, 1.1)),
    ({"autoguidance_scale": -1.0}, ValueError, "autoguidance_scale must be"),
    ({"autoguidance_scale": 2.0}, ValueError, "autoguidance_scale is 2.0, but there is no weak_denoiser"),
    ({"output_type": "jpg"}, ValueError, "output_type must be one of 'pil'"),
    ({"output_type": "pil"}, ValueError, "output_type 'pil' makes images, but this pipeline has no VAE"),
    ({"timesteps": [900, 100]}, ValueError, "DDIMScheduler does not take custom timesteps"),
    ({"sigmas": [9.0, 0.1]}, ValueError, "DDIMScheduler does not take custom sigmas"),
    ({"timesteps": [900], "sigmas": [1.0]}, ValueError, "timesteps and sigmas were both given"),
    ({"generator": seeds(0, 1)}, ValueError, "generator is a list of 2, but 1 samples are drawn"),
    *(({"generator": bad}, TypeError, "generator must be") for bad in (0, "0", [0])),
    ({"latents": torch.zeros(2, 4)}, ValueError, r"latents must have shape \(1, 4\), got \(2, 4\)"),
    ({"latents": [[0.0] * 4]}, TypeError, "latents must be a tensor"),
    ({"callback_on_step_end_tensor_inputs": ["score"]}, ValueError, "callback_on_step_end_tensor_inputs must be"),
    ({"callback_on_step_end": 3}, TypeError, "callback_on_step_end must be"),
    *(
        ({"callback_on_step_end_tensor_inputs": bad}, TypeError, "callback_on_step_end_tensor_inputs must be a list")
        for bad in ("latents", None)
    ),
    *(({name: 1e300}, ValueError, f"{name} must be a number") for name in ("cfg_scale", "autoguidance_scale")),
    *(({"eta": bad}, ValueError, "eta must be a number") for bad in (np.bool_(True), b"1", np.array([0.5]), 10**400)),
    ({"latents": torch.zeros(1, 4).to_sparse()}, ValueError, "latents must be finite .* torch.sparse_coo on cpu"),
    ({"latents": torch.zeros(1, 4, device="meta")}, ValueError, "latents must be finite .* on meta"),
    (
        {"num_inference_steps": 1001},
        ValueError,
        "num_inference_steps must be from 1 to 1000 under DDIMScheduler, got 1001",
    ),
    *(({"latents": torch.full((1, 4), bad)}, ValueError, "with NaN or infinity") for bad in (math.nan, -math.inf)),
    (
        {"latents": torch.zeros(1, 4, dtype=torch.int64)},
        ValueError,
        "latents must be finite floating-point noise, got torch.int64",
    ),
]
BAD_WAYS = [["9", "3"], {9: 1}, [100, 900], [900, 900], [900, -1], [1001, 3], [math.nan], [], "900", [None]]


@pytest.mark.parametrize("way", BAD_WAYS, ids=repr)
def test_a_way_that_does_not_fall_from_noise_to_sample_is_refused(way):
    for argument, name in (
        ("timesteps", "DPMSolverMultistepScheduler"),
        ("sigmas", "EulerDiscreteScheduler"),
        ("timesteps", "FlowMatchEulerDiscreteScheduler"),
        ("sigmas", "FlowMatchEulerDiscreteScheduler"),
    ):
        pipe = exact_pipeline(PLANE, name, SUPPORTED[name].prediction_types[0])
        calls = calls_of(pipe.denoiser)
        with pytest.raises((ValueError, TypeError), match=f"{argument} must (fall|be a list)"):
            draw(pipe, 1, **{argument: way})
        assert calls == []


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("vae.decoder", "images overflowed in the VAE, which computes in torch.float32"),
        ("denoiser", "overflowed under DDIMScheduler in 5 steps at guidance_scale 1.0"),
    ],
)
def test_what_overflows_is_an_error_and_no_images(network, words):
    pipe = tiny(vae=True)
    torch.nn.init.constant_(next(operator.attrgetter(network)(pipe).parameters()), math.inf)
    with pytest.raises(ValueError, match=words):
        draw(pipe, output_type="pt")


@pytest.mark.parametrize(
    ("arguments", "error", "words"), BAD_INPUTS, ids=[f"{i}-{'-'.join(case[0])}" for i, case in enumerate(BAD_INPUTS)]
)
def test_a_bad_argument_is_named_before_any_work(arguments, error, words):
    pipe = tiny()
    calls = [calls_of(pipe.denoiser), calls_of(pipe.classifier)]
    with pytest.raises(error, match=words):
        draw(pipe, **arguments)
    assert calls == [[], []]


@pytest.mark.parametrize(("answer", "words"), [(5, "it returned 5"), ({"latents": torch.zeros(1)}, r"returned \(1,\)")])
def test_a_callback_that_spoils_the_latents_is_named(answer, words):
    with pytest.raises((TypeError, ValueError), match=f"callback_on_step_end must .*{words}"):
        draw(tiny(), callback_on_step_end=lambda *_: answer)


def test_numbers_of_numpy_and_torch_are_those_of_python():
    def drawn(whole, real):
        arguments = {"num_images_per_label": whole(2), "num_inference_steps": whole(3), "num_particles": whole(1)}
        names = ("guidance_scale", "eta", "guidance_rescale", "classifier_temperature")
        arguments |= {name: real(0.5) for name in names} | {"guidance_interval": (real(0.0), real(2.0))}
        return draw(tiny("DDIM"), [whole(3)], **arguments)

    expected = drawn(int, float)
    for whole, real in ((np.int64, np.float32), (np.array, np.array), (torch.tensor, torch.tensor)):
        assert torch.equal(drawn(whole, real), expected)


@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [
        ("EulerDiscrete", {}, {"timesteps": [999, 500.5, 0]}),
        ("EulerDiscrete", {}, {"sigmas": np.array([100.0, 3.0, 0.5, 0.0])}),
        ("HeunDiscrete", {}, {"timesteps": [990.7, 500.2, 3.1]}),
        ("DDPM", {}, {"timesteps": np.array([900.0, 500.0, 3.0])}),
        ("FlowMatchEulerDiscrete", {}, {"timesteps": [1000, 500.5, 3]}),
        ("FlowMatchEulerDiscrete", {}, {"sigmas": [1.0, 0.5, 0.1]}),
        ("UniPCMultistep", {"use_flow_sigmas": True}, {"sigmas": [1.0, 0.5, 0.1]}),
    ],
)
def test_steps_that_fall_are_those_of_the_call(name, options, steps):
    pipe, seen = on_cosine(name, **options), []
    found = pipe([1], **steps, output_type="latent", callback_on_step_end=lambda _, i, t, k: seen.append(float(t)))
    assert torch.isfinite(found.images).all()
    if "timesteps" in steps:
        assert sorted(set(seen), reverse=True) == pytest.approx(list(steps["timesteps"]))
    assert len(set(seen)) == 3


@pytest.mark.parametrize(
    ("name", "options", "steps", "words"),
    [
        *(
            (name, {}, {"timesteps": [900.5, 300.2]}, rf"become \[900.0, 300.0\] under {name}Scheduler")
            for name in ("DDPM", "DDPMParallel", "DPMSolverMultistep", "DPMSolverSinglestep", "LCM", "TCD")
        ),
        *(
            (name, options, {"timesteps": [900, 700, 300]}, f"timesteps .* become .* under {name}Scheduler")
            for name in ("FlowMatchEulerDiscrete", "FlowMatchLCM")
            for options in ({"shift": 3.0}, {"use_karras_sigmas": True}, {"shift_terminal": 0.1})
        ),
        *(
            (name, {"use_flow_sigmas": True}, {"timesteps": [900, 300]}, "does not take custom timesteps")
            for name in ("DPMSolverMultistep", "DPMSolverSinglestep")
        ),
        *(
            ("EulerDiscrete", {}, {"sigmas": sigmas}, "sigmas must lead to 0 under EulerDiscreteScheduler")
            for sigmas in ([100.0, 1.0], [3.0], [0.0])
        ),
        (
            "PNDM",
            {},
            {"num_inference_steps": 3},
            "steps must be from 4 to 1000 under PNDMScheduler, got 3",
        ),
        (
            "DDIM",
            {"steps_offset": 1, "timestep_spacing": "leading"},
            {"num_inference_steps": 1000},
            "num_inference_steps 1000 and the scheduler's steps_offset.*timestep 1000",
        ),
        ("DDIM", {}, {"num_inference_steps": 600}, "600 .* begins at timestep 599 of 999.* at most 500"),
        ("HeunDiscrete", {}, {"timesteps": [999, 500, 0]}, "timesteps must fall .* from 0 to 996"),
        *(
            (name, {}, steps, f"{name}Scheduler would start from noise at timestep .* more signal than noise")
            for name, steps in (
                ("DDIM", {"num_inference_steps": 1}),
                ("EulerAncestralDiscrete", {"num_inference_steps": 1}),
                ("DDPM", {"timesteps": [300, 200, 100]}),
                ("EulerDiscrete", {"sigmas": [0.5, 0.1, 0.0]}),
                ("FlowMatchEulerDiscrete", {"sigmas": [0.4, 0.1]}),
            )
        ),
    ],
)
def test_steps_that_a_scheduler_would_change_or_not_draw_with_are_refused_before_any_work(name, options, steps, words):
    pipe = on_cosine(name, **options)
    calls = calls_of(pipe.denoiser)
    with pytest.raises(ValueError, match=words):
        pipe([1], **steps, output_type="latent")
    assert calls == []


def test_latents_of_ones_own_may_start_anywhere():
    pipe = on_cosine("DDPM")
    assert torch.isfinite(pipe([1], timesteps=[300], latents=torch.ones(1, 4), output_type="latent").images).all()


def test_parts_in_another_order_and_unknown_defaults_are_refused_by_the_constructor():
    parts = tiny().components
    swapped = {"denoiser": parts["classifier"], "classifier": parts["denoiser"]}
    with pytest.raises(TypeError, match="classifier is a MLPDenoiser, which takes class_labels"):
        mgp.ClassifierGuidedLatentPipeline(**{**parts, **swapped})
    with pytest.raises(ValueError, match="a name in sampling_defaults must be one of 'guidance_scale'.*got 'guidance'"):
        mgp.ClassifierGuidedLatentPipeline(**parts, sampling_defaults={"guidance": 3})


class TestLabelsMatter:
    """A label is never ignored in silence."""

    @pytest.mark.parametrize("labels", [{"class_labels": 3}, {"class_labels": None, "negative_class_labels": 3}])
    def test_without_anything_that_reads_labels(self, labels):
        unnamed = mgp.ClassifierGuidedLatentPipeline(None, tiny().denoiser, None, tiny().scheduler)
        for pipe in (tiny(classifier=None), unnamed):
            with pytest.raises(ValueError, match="class_labels were given, but there is neither"):
                draw(pipe, **labels)

    def test_distributions_need_a_classifier_that_guides_alone(self):
        conditional = mgp.MLPDenoiser(sample_shape=(4,), hidden_size=16, num_classes=10)
        pipe, either = tiny(denoiser=conditional), torch.tensor([[0.0] * 3 + [0.5, 0.0, 0.5] + [0.0] * 4])
        with pytest.raises(ValueError, match="labels are distributions .* use cfg_scale=0"):
            draw(pipe, either)
        assert torch.isfinite(draw(pipe, either, cfg_scale=0.0)).all()

    def test_a_conditional_denoiser_reads_them(self):
        conditional = mgp.MLPDenoiser(sample_shape=(4,), hidden_size=16, num_classes=10)
        pipe = tiny(denoiser=conditional, classifier=None)
        assert not torch.equal(draw(pipe, 3), draw(pipe, 5))
        with pytest.raises(ValueError, match="guidance_scale is above 0, but there is no classifier"):
            draw(pipe, 3, guidance_scale=1.0)
