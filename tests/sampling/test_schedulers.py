"""Every diffusers scheduler either fits the networks or is refused with a line that helps."""

import inspect
import json
import re

import diffusers
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    SASolverScheduler,
)

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.evaluation.oracle import COSINE, LINEAR, PLANE, exact_pipeline, make_scheduler
from mnist_guided_pipeline.sampling.schedulers import (
    SUPPORTED,
    build_scheduler,
    check_scheduler,
    compatible_schedulers,
    describe_noise,
    preserving_table,
    scheduler_prediction_type,
    scheduler_schedule,
)

FOUND = {
    name: value
    for module in (diffusers, diffusers.schedulers)
    for name in dir(module)
    if inspect.isclass(value := getattr(module, name, None)) and name.endswith("Scheduler")
}
ZERO_SNR = {**LINEAR, "rescale_betas_zero_snr": True}
SHORT = {"num_train_timesteps": 100}  # two classes take seconds to be built for a thousand
SCALED = {**SHORT, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TRAINED = {"num_train_timesteps": 50, "trained_betas": torch.linspace(0.001, 0.2, 50).tolist()}
SCHEDULES = {"linear": {**LINEAR, **SHORT}, "cosine": {**COSINE, **SHORT}, "zero-snr": {**ZERO_SNR, **SHORT}}
SCHEDULES |= {"scaled": SCALED, "trained": TRAINED}
PRESERVING = [name for name, row in SUPPORTED.items() if row.schedule == "preserving"]


def instance(name: str, prediction_type: str = "epsilon", schedule: dict = LINEAR, **options):
    """A scheduler whose settings are those of the schedule, as far as the class has them."""
    if name == "UnCLIPScheduler":  # it has one schedule
        schedule = {"num_train_timesteps": schedule["num_train_timesteps"]}
    try:
        return make_scheduler(name, prediction_type, schedule, **options)
    except ImportError as missing:
        pytest.skip(str(missing).strip().splitlines()[0])


def noise_of(prediction_type: str, schedule: dict = LINEAR) -> dict:
    return describe_noise(DDPMScheduler(**schedule, prediction_type=prediction_type, clip_sample=False))


class TestSupport:
    @pytest.mark.parametrize("name", SUPPORTED)
    def test_every_supported_class_and_type_exists(self, name):
        for kind in SUPPORTED[name].prediction_types:
            flow = {"use_flow_sigmas": True} if kind == "flow_prediction" and "Flow" not in name else {}
            scheduler = instance(name, kind, **flow)
            assert scheduler_prediction_type(scheduler) == kind
            check_scheduler(scheduler, describe_noise(scheduler))

    @pytest.mark.parametrize("name", sorted(FOUND.keys() - SUPPORTED.keys()))
    def test_every_other_class_is_refused_with_those_that_will_do(self, name):
        scheduler = object.__new__(FOUND[name])  # the class decides; some cannot be built without data of their own
        for refuse in (
            lambda: check_scheduler(scheduler, noise_of("epsilon")),
            lambda: describe_noise(scheduler),
            lambda: build_scheduler(FOUND[name], noise_of("epsilon")),
        ):
            with pytest.raises(ValueError, match=f"^scheduler {name} is not supported.*use one of .*DDIMScheduler"):
                refuse()

    def test_a_class_of_the_future_is_not_guessed(self):
        class SharperDDIMScheduler(DDIMScheduler):
            pass

        pipe = exact_pipeline(PLANE, "DDIMScheduler", "epsilon")
        pipe.scheduler = SharperDDIMScheduler.from_config(pipe.scheduler.config)
        with pytest.raises(ValueError, match="^scheduler SharperDDIMScheduler is not supported"):
            pipe([0])


class TestNoiseSchedule:
    def test_noise_predicted_from_pure_noise_is_refused(self):
        scheduler = instance("DDIMScheduler", "epsilon", ZERO_SNR)
        with pytest.raises(ValueError, match="ends in pure noise.*v_prediction"):
            check_scheduler(scheduler, describe_noise(scheduler))

    @pytest.mark.parametrize("schedule", [*SCHEDULES, "its own"])
    @pytest.mark.parametrize("name", PRESERVING)
    def test_goes_through_json(self, name, schedule):
        settings = SCHEDULES.get(schedule, {"num_train_timesteps": 1000})
        zero_snr = settings.get("rescale_betas_zero_snr") and "v_prediction" in SUPPORTED[name].prediction_types
        kind = "v_prediction" if zero_snr else SUPPORTED[name].prediction_types[0]
        scheduler = instance(name, kind, settings, timestep_spacing="leading")
        noise = json.loads(json.dumps(describe_noise(scheduler)))
        assert noise["law"] == "preserving" and noise["prediction_type"] == kind
        table = scheduler.alphas_cumprod.float()
        torch.testing.assert_close(preserving_table(noise).float(), table, rtol=1e-3, atol=1e-6)
        check_scheduler(scheduler, noise)

    @pytest.mark.parametrize(
        ("name", "law", "settings"),
        [
            ("FlowMatchEulerDiscreteScheduler", "flow", {"num_train_timesteps": 1000}),
            ("EDMEulerScheduler", "edm", {"sigma_data": 0.5}),
            ("CosineDPMSolverMultistepScheduler", "arctan", {"sigma_data": 1.0}),
            ("IPNDMScheduler", "angle", {}),
        ],
    )
    def test_of_the_other_families(self, name, law, settings):
        scheduler = instance(name, SUPPORTED[name].prediction_types[0])
        expected = {"law": law, "prediction_type": SUPPORTED[name].prediction_types[0], **settings}
        assert describe_noise(scheduler) == expected

    @pytest.mark.parametrize(
        ("name", "other"),
        [("FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 500}), ("EDMEulerScheduler", {"sigma_data": 1.0})],
    )
    def test_other_settings_of_the_other_families_are_refused(self, name, other):
        noise = describe_noise(getattr(diffusers, name)())
        with pytest.raises(ValueError, match=f"{name} has another noise schedule"):
            check_scheduler(getattr(diffusers, name)(**other), noise)


NOISE_SCHEDULES = {
    **{name: noise_of("v_prediction", schedule) for name, schedule in SCHEDULES.items()},
    **{kind: noise_of(kind, SCHEDULES["linear"]) for kind in ("epsilon", "sample")},
    "flow": {"law": "flow", "prediction_type": "flow_prediction", **SHORT},
    "flow, x0": {"law": "flow", "prediction_type": "sample", **SHORT},
    "edm": {"law": "edm", "prediction_type": "epsilon", "sigma_data": 0.5},
    "arctan": {"law": "arctan", "prediction_type": "v_prediction", "sigma_data": 1.0},
    "angle": {"law": "angle", "prediction_type": "v_prediction"},
}


@pytest.mark.parametrize("noise", NOISE_SCHEDULES.values(), ids=NOISE_SCHEDULES)
def test_compatible_classes_are_those_that_fit_and_are_built_with_nothing_dropped(noise):
    schedule = {key: value for key, value in noise.items() if key not in ("law", "prediction_type")}
    leading = {"timestep_spacing": "leading", "use_flow_sigmas": noise["law"] == "flow"}

    def fits(name):
        try:
            check_scheduler(make_scheduler(name, noise["prediction_type"], SHORT | schedule, **leading), noise)
        except (ValueError, ImportError):
            return False
        return True

    compatible = {found.__name__: found for found in compatible_schedulers(noise)}
    assert list(compatible) == [name for name in SUPPORTED if fits(name)] != []
    for name in SUPPORTED:
        if name not in compatible:
            with pytest.raises((ValueError, ImportError), match=name):
                build_scheduler(name, noise)
            continue
        scheduler = build_scheduler(compatible[name], noise)
        if scheduler_schedule(scheduler) == noise["law"] == "preserving":
            table = DDPMScheduler(**schedule).alphas_cumprod
            torch.testing.assert_close(scheduler.alphas_cumprod.float(), table, rtol=1e-3, atol=1e-6)
        if scheduler_schedule(scheduler) == noise["law"]:
            for setting in noise.keys() & scheduler.config.keys():
                assert scheduler.config[setting] == noise[setting]
        assert not scheduler.config.get("clip_sample", False)
        assert scheduler.config.get("timestep_spacing", "leading") == "leading"


class TestBuild:
    def test_a_preserving_network_may_run_on_flow_sigmas(self):
        scheduler = build_scheduler(DPMSolverMultistepScheduler, noise_of("epsilon"), use_flow_sigmas=True)
        assert scheduler_schedule(scheduler) == "flow" and scheduler.config.prediction_type == "flow_prediction"

    @pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "DDIMScheduler"])
    def test_a_schedule_that_the_class_does_not_know_by_name(self, name):
        trained = DDPMScheduler(beta_schedule="sigmoid", prediction_type="v_prediction", clip_sample=False)
        built = build_scheduler(getattr(diffusers, name), describe_noise(trained))
        torch.testing.assert_close(built.alphas_cumprod, trained.alphas_cumprod, rtol=1e-4, atol=1e-7)

    def test_an_unknown_option_is_refused(self):
        with pytest.raises(ValueError, match="^DDIMScheduler has no setting use_karras_sigmas; it has .*beta_start"):
            build_scheduler(DDIMScheduler, noise_of("epsilon"), use_karras_sigmas=True)

    @pytest.mark.parametrize(
        "option", [{"beta_end": 0.5}, {"prediction_type": "sample"}, {"clip_sample": True}, {"thresholding": True}]
    )
    def test_an_option_that_breaks_the_networks_is_refused(self, option):
        with pytest.raises(ValueError, match="DDIMScheduler"):
            build_scheduler(DDIMScheduler, noise_of("epsilon"), **option)


def tiny_pipe(scheduler) -> mgp.ClassifierGuidedLatentPipeline:
    networks = mgp.MLPDenoiser((2,), hidden_size=8), mgp.MLPClassifier((2,), num_classes=3, hidden_size=8)
    return mgp.ClassifierGuidedLatentPipeline(None, *networks, scheduler)


class TestSwap:
    def test_from_config_of_a_made_scheduler_drops_nothing(self):
        """The idiom of diffusers works, from every scheduler of the networks' own noise schedule to another."""
        pipe = tiny_pipe(DDIMScheduler(**SHORT, beta_schedule="squaredcos_cap_v2", clip_sample=False))
        for scheduler_class in pipe.compatible_schedulers:
            made = pipe.make_scheduler(scheduler_class)
            if "FlowMatch" not in scheduler_class.__name__:  # these name no prediction type to carry on
                check_scheduler(DDIMScheduler.from_config(made.config), dict(pipe.config.training_noise))

    @pytest.mark.parametrize(
        ("swapped", "words"),
        [
            (HeunDiscreteScheduler.from_config, "beta_end is 0.012, trained on 0.02.*from_config"),
            (lambda config: DDIMScheduler(clip_sample=True), "clip_sample=True.*clip_sample=False"),
            (DDPMScheduler.from_config, "clip_sample=True"),
            (lambda config: DPMSolverMultistepScheduler(**LINEAR, thresholding=True), "thresholding=False"),
            (lambda config: DDIMScheduler(prediction_type="v_prediction", clip_sample=False), "trained for 'epsilon'"),
            (lambda config: DDIMScheduler(num_train_timesteps=500, clip_sample=False), "num_train_timesteps is 500"),
            (lambda config: DDIMScheduler(rescale_betas_zero_snr=True, clip_sample=False), "another noise schedule"),
        ],
        ids=["from_config", "clip", "clip from_config", "thresholding", "prediction type", "length", "zero snr"],
    )
    def test_a_trap_is_refused_with_the_line_that_fixes_it(self, swapped, words):
        pipe, calls = tiny_pipe(DDPMScheduler()), []
        pipe.denoiser.register_forward_hook(lambda *_: calls.append(1))
        pipe.scheduler = swapped(DDPMScheduler().config)
        with pytest.raises(ValueError, match=words) as refusal:
            pipe([0], num_inference_steps=2, output_type="latent")
        assert not calls
        line = re.search(r"pipe\.scheduler = pipe\.make_scheduler\(\w+\)", str(refusal.value)).group()
        exec(line, {"pipe": pipe, **FOUND})
        assert torch.isfinite(pipe([0], num_inference_steps=2, output_type="latent").images).all()

    def test_a_trap_for_a_flow_network_too(self):
        flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 1.0}
        pipe = tiny_pipe(DPMSolverMultistepScheduler(**flow))
        pipe.scheduler = DPMSolverMultistepScheduler()
        with pytest.raises(ValueError, match="of the noise schedule 'preserving', these were trained on 'flow'"):
            pipe([0], output_type="latent")
        pipe.scheduler = pipe.make_scheduler(DPMSolverMultistepScheduler)
        assert torch.isfinite(pipe([0], num_inference_steps=2, output_type="latent").images).all()

    @pytest.mark.parametrize("name", ["PNDMScheduler", "EulerAncestralDiscreteScheduler"])
    def test_a_class_that_cannot_take_the_prediction_is_refused(self, name):
        pipe = tiny_pipe(DDPMScheduler(prediction_type="sample", clip_sample=False))
        with pytest.raises(ValueError, match=f"{name} does not work with prediction_type 'sample'"):
            pipe.make_scheduler(getattr(diffusers, name))


@pytest.mark.parametrize(
    ("scheduler", "setting"),
    [
        (DDPMScheduler(), "clip_sample"),
        (DDIMScheduler(), "clip_sample"),
        (DEISMultistepScheduler(thresholding=True), "thresholding"),
        (DDPMScheduler(thresholding=True, beta_end=0.03), "clip_sample and thresholding=True"),
    ],
)
def test_the_pipeline_switches_distortions_off_and_says_so(scheduler, setting, caplog):
    pipe = tiny_pipe(scheduler)
    assert re.search(setting, caplog.text) and "switched off" in caplog.text
    kept = {**scheduler.config, "clip_sample": False, "thresholding": False}
    assert all(pipe.scheduler.config[key] == kept[key] for key in scheduler.config.keys() - {"_use_default_values"})
    assert scheduler.config.get("clip_sample") or scheduler.config.thresholding  # the caller's own is left alone
    caplog.clear()
    tiny_pipe(pipe.scheduler)
    assert not caplog.text


@pytest.mark.parametrize("setting", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
def test_settings_that_draw_far_from_right_in_few_steps_are_refused(setting):
    with pytest.raises(ValueError, match=f"SASolverScheduler has {setting}=True.*. Set {setting}=False"):
        build_scheduler(SASolverScheduler, noise_of("v_prediction"), **{setting: True})
