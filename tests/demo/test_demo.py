"""The demo's functions: watching changes nothing, visitors do not meet, and what cannot be done is said."""

import asyncio
import base64
import shlex
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler
from PIL import Image, ImageChops
from transformers import ResNetConfig, ResNetForImageClassification

import mnist_guided_pipeline as mgp
import tiny
from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.demo.beliefs import plot_belief_in, plot_beliefs
from mnist_guided_pipeline.demo.draw import like_mnist, read_canvas, read_drawing
from mnist_guided_pipeline.demo.page import who_has_the_label
from mnist_guided_pipeline.demo.request import LIMITS, DemoSettings, command_line, draw
from mnist_guided_pipeline.demo.trace import fresh_pipeline
from mnist_guided_pipeline.evaluation.judge import Judge
from mnist_guided_pipeline.figures.images import image_rows
from mnist_guided_pipeline.seeding import keyed_generator
from mnist_guided_pipeline.weights import JUDGE_FOLDER

GOOD = {
    "class_labels": ("3", "7"),
    "num_images": 2,
    "scheduler": "DPMSolverMultistepScheduler",
    "num_inference_steps": 8,  # the fewest under which every scheduler samples
    "guidance_scale": 2.0,
    "cfg_scale": 1.0,
    "seed": 5,
}


def settings(**changes) -> DemoSettings:
    return DemoSettings(**{**GOOD, **changes})


def url_of(picture: Image.Image) -> str:
    """As a browser sends a canvas."""
    encoded = BytesIO()
    picture.save(encoded, format="PNG")
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()


def pixels(images: list[Image.Image]) -> list[bytes]:
    return [image.tobytes() for image in images]


@pytest.fixture(scope="module")
def pipe():
    """The shipped pipeline, without a progress bar."""
    return mgp.load_default()


@pytest.fixture(scope="module")
def edm_pipe():
    """Untrained networks under Karras preconditioning."""
    return tiny.make(classifier=mgp.MLPClassifier(sample_shape=(4,), hidden_size=16), scheduler=EDMEulerScheduler())


def test_the_page_says_who_is_given_the_digit(pipe):
    assert who_has_the_label(pipe) == (
        "Only the classifier knows which digit is wanted; the denoiser is told what the classifier believes."
    )
    told = fresh_pipeline(pipe)
    told.register_to_config(sampling_defaults={})
    assert who_has_the_label(told).startswith("Both know")
    told.register_modules(classifier=None)
    assert "no classifier" in who_has_the_label(told)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 16, 24)], ids=["colour", "grey"])
def test_tabs_in_other_sizes_and_in_colour(shape):
    pytest.importorskip("gradio")
    from mnist_guided_pipeline.demo.page import build_demo

    async def build(*parts):  # outside of a running loop, Gradio makes some that it never closes
        return build_demo(*parts)

    pipe = tiny.make(vae=mgp.MLPVAE(latent_dim=4, hidden_size=8, image_shape=shape))
    config = ResNetConfig(num_channels=shape[0], image_size=shape[1:], embedding_size=4, hidden_sizes=[4], depths=[1])
    config.num_labels = 10
    judge = Judge(ResNetForImageClassification(config)).of_classes(tuple(pipe.id2label.values()))
    reader, said = (judge, "of 2** as asked") if shape[0] == 3 else (None, "There is no judge")
    page = asyncio.run(build(pipe, reader))
    tabs = {function.api_name: function.fn for function in page.fns.values()}
    sampler = (type(pipe.scheduler).__name__, 2, 1.0, 1.0)
    gallery, verdict, _, _, _, sentence, *_ = tabs["generate"](["3"], 2, 0, *sampler)
    assert said in verdict and "a 3" in sentence
    picture = Image.open(BytesIO(base64.b64decode(gallery.partition("base64,")[2].partition('"')[0])))
    assert (picture.mode, picture.size) == ("RGB" if shape[0] == 3 else "L", (shape[2], shape[1]))
    *_, chart = tabs["compare"](["3"], 2, 0, *sampler, *sampler)
    assert chart is not None
    texts = "".join(str(block.value) for block in page.blocks.values() if hasattr(block, "value"))
    assert ("read" in tabs) == (shape[0] == 1) == ("images in colour: its networks cannot read" not in texts)
    if "read" in tabs:
        read, *_ = tabs["read"](url_of(TestDrawing().drawing(20, 30).convert("RGBA")))
        assert read.startswith("The classifier reads")
    with pytest.raises(ValueError, match=r"The judge reads images of shape \(1, 28, 28\), the pipeline makes those of"):
        build_demo(pipe, mgp.load_judge())


def test_the_command_takes_a_judge(monkeypatch, capsys):
    pytest.importorskip("gradio")
    given = []

    def build(pipe, judge, model):
        given.append(judge)
        raise ValueError("that is all")

    monkeypatch.setattr("mnist_guided_pipeline.demo.page.build_demo", build)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    for judge, said in ((str(JUDGE_FOLDER), "that is all"), ("nowhere", "--judge 'nowhere' is neither a folder nor")):
        with pytest.raises(SystemExit):
            main(["demo", "--port", "7861", "--judge", judge])
        assert said in capsys.readouterr().err
    assert [judge.class_names for judge in given] == [tuple("0123456789")]


class TestTracing:
    def test_watching_changes_no_image_under_any_scheduler(self, pipe):
        for found in pipe.compatible_schedulers:
            own = found is type(pipe.scheduler)
            plain = fresh_pipeline(pipe, None if own else pipe.make_scheduler(found))
            generators = [keyed_generator(5, row, i) for row in range(2) for i in range(2)]
            call = {"guidance_scale": 2.0, "cfg_scale": 1.0, "num_inference_steps": 8}
            expected = plain(["3", "7"], 2, generator=generators, **call).images
            reported = []
            trace = draw(pipe, settings(scheduler=found.__name__), lambda *step: reported.append(step))  # noqa: B023
            assert reported[-1] == (len(reported), len(reported)) and len(reported) >= 8
            assert pixels(trace.images) == pixels(expected), found.__name__
            assert len(trace.noise_shares) == len(trace.samples) == len(trace.clean) == len(trace.beliefs) >= 8

    def test_the_last_clean_sample_is_the_result(self, pipe, edm_pipe):
        trace = draw(pipe, settings(scheduler="EulerDiscreteScheduler"))
        torch.testing.assert_close(trace.clean[-1], trace.latents, rtol=0, atol=1e-5)
        trace = draw(edm_pipe, settings(scheduler="EDMEulerScheduler"))
        torch.testing.assert_close(trace.clean[-1], trace.latents, rtol=0, atol=1e-5)
        assert trace.noise_shares == sorted(trace.noise_shares, reverse=True)

    def test_beliefs_are_what_the_classifier_says_of_the_samples(self, pipe):
        trace = draw(pipe, settings(scheduler="EulerDiscreteScheduler"))
        scheduler = pipe.make_scheduler(DDIMScheduler)
        scheduler.set_timesteps(8)
        for sample, beliefs, timestep in zip(trace.samples, trace.beliefs, scheduler.timesteps, strict=True):
            with torch.no_grad():
                expected = pipe.classifier(sample, timestep).logits.softmax(dim=-1)
            torch.testing.assert_close(beliefs, expected, rtol=0, atol=1e-5)

    def test_unguided_networks_without_a_classifier(self, pipe):
        bare = mgp.ClassifierGuidedLatentPipeline(pipe.vae, pipe.denoiser, None, pipe.scheduler)
        trace = draw(bare, settings(guidance_scale=0.0))
        assert trace.beliefs is None
        assert pixels(trace.images) == pixels(draw(pipe, settings(guidance_scale=0.0)).images)


class TestVisitors:
    def test_at_once_or_one_after_another(self, pipe):
        wanted = [
            settings(seed=1, scheduler="UniPCMultistepScheduler", guidance_scale=4.0),
            settings(seed=2, class_labels=("0",), num_images=4),
            settings(seed=3, scheduler="EulerAncestralDiscreteScheduler", num_inference_steps=9),
            settings(seed=4, cfg_scale=0.0, guidance_scale=1.0),
        ] * 2
        alone = [pixels(draw(pipe, one).images) for one in wanted]
        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(lambda one: pixels(draw(pipe, one).images), wanted))
        assert together == alone
        assert len(set(map(tuple, alone))) == 4

    def test_the_command_shown_draws_the_same_images(self, pipe, tmp_path, capsys):
        for wanted in (
            settings(),
            settings(scheduler="DDIMScheduler", cfg_scale=0.5, class_labels=("9",)),
            settings(scheduler="DPMSolverSDEScheduler", num_images=1),
        ):
            words = shlex.split(command_line(pipe, wanted))
            assert words[0] == "mnist-guided"
            output = tmp_path / "digits.png"
            main([*words[1:-1], str(output), "--force", "--device", "cpu"])
            images = iter(draw(pipe, wanted).images)
            rows = [[next(images) for _ in range(wanted.num_images)] for _ in wanted.class_labels]
            expected = image_rows(rows, wanted.class_labels)
            with Image.open(output) as drawn:
                assert ImageChops.difference(drawn, expected).getbbox() is None


class TestBadValues:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"class_labels": ()}, "at least one digit"),
            ({"num_images": None}, "Images of each must be a whole number from 1 to 16, got nothing"),
            ({"num_images": 0}, "from 1 to 16, got 0"),
            ({"num_inference_steps": "20"}, "got '20'"),
            ({"seed": -1}, "Seed must be"),
            ({"guidance_scale": float("inf")}, "Guidance scale must be a number from 0 to 10, got inf"),
            ({"cfg_scale": -0.5}, "Classifier-free weight must be"),
            ({"class_labels": tuple("0123456789"), "num_images": 7}, "more than 64"),
        ],
    )
    def test_settings_name_what_was_wrong_and_what_would_do(self, changes, message):
        with pytest.raises(ValueError, match=message):
            settings(**changes)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"class_labels": ("eleven",)}, "'eleven' is not a class"),
            ({"scheduler": "os"}, "scheduler os is not supported"),
            ({"scheduler": "EDMEulerScheduler"}, "noise"),
        ],
    )
    def test_so_does_drawing(self, pipe, changes, message):
        with pytest.raises(ValueError, match=message):
            draw(pipe, settings(**changes))

    @pytest.mark.parametrize("end", [0, 1])
    def test_the_bounds_themselves_work(self, pipe, end):
        limits = {name: bounds[end] for name, bounds in LIMITS.items()}
        counts = {"num_images": limits["images of each"], "num_inference_steps": limits["steps"]}
        drawn = draw(
            pipe, settings(class_labels=("1",), **counts, guidance_scale=limits["guidance scale"], seed=limits["seed"])
        )
        assert len(drawn.images) == limits["images of each"]

    @pytest.mark.parametrize("port", [0, 70000])
    def test_a_port_that_is_none(self, refused, port):
        assert "from 1 to 65535" in refused("demo", "--port", port)

    def test_without_gradio_the_extra_is_named(self, refused, monkeypatch):
        monkeypatch.setattr("mnist_guided_pipeline.cli.options.find_spec", lambda package: None)
        monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        line = refused("demo", "--port", 7861)
        assert "this needs gradio and matplotlib: pip install 'mnist-guided-pipeline[demo]'" in line


class TestDrawing:
    def drawing(self, left: int, top: int, scale: int = 6) -> Image.Image:
        """An L of white ink."""
        canvas = Image.new("L", (280, 280))
        canvas.paste(255, (left, top, left + 4 * scale, top + 20 * scale))
        canvas.paste(255, (left, top + 16 * scale, left + 12 * scale, top + 20 * scale))
        return canvas

    def test_it_is_twenty_pixels_high_with_its_mass_in_the_middle_whatever_its_place_and_size(self):
        expected = like_mnist(self.drawing(20, 30))
        assert expected.size == (28, 28)
        image = np.asarray(expected, dtype=float)
        assert np.ptp(np.nonzero(image)[0]) + 1 == 20
        for axis in (0, 1):
            centre = (image.sum(axis=1 - axis) * np.arange(28)).sum() / image.sum()
            assert abs(centre - 13.5) <= 0.5
        _, top, _, bottom = like_mnist(self.drawing(20, 30), (56, 70)).getbbox()
        assert bottom - top == 40
        for left, top, scale in ((0, 0, 6), (150, 100, 6), (60, 20, 12), (5, 5, 3)):
            assert like_mnist(self.drawing(left, top, scale)).tobytes() == expected.tobytes()
        for size in ((1, 1), (1, 280), (280, 1), (280, 280)):  # any ink at all
            canvas = Image.new("L", (280, 280))
            canvas.paste(255, (0, 0, *size))
            assert like_mnist(canvas).getbbox() is not None

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            *((url, "could not be read") for url in (None, "", "http://127.0.0.1/", "x" * 10**6)),
            *((f"data:image/png;base64,{code}", "could not be read") for code in ("!!!", "aGVsbG8=")),
            (url_of(Image.new("L", (5000, 5000))), "at most 1024 pixels a side, got 5000x5000"),
            (url_of(Image.new("L", (280, 280))), "draw a digit first"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_what_is_no_drawing_is_refused(self, url, message):
        with pytest.raises(ValueError, match=message):
            like_mnist(read_canvas(url))

    def test_a_digit_is_known_without_noise_and_not_in_pure_noise(self, pipe):
        image = draw(pipe, settings(class_labels=("7",), num_images=1, num_inference_steps=20)).images[0]
        seen = read_drawing(pipe, image)
        assert seen.noise_shares == sorted(seen.noise_shares)
        assert seen.beliefs[0].argmax() == 7
        assert seen.beliefs[0, 7] > 0.95
        assert seen.beliefs[-1].max() < 0.3
        torch.testing.assert_close(seen.beliefs.sum(dim=1), torch.ones(len(seen.beliefs)))
        difference = np.asarray(seen.reconstruction, dtype=float) - np.asarray(image, dtype=float)
        assert np.abs(difference).mean() < 10
        assert len(seen.noised) == len(seen.noise_shares)


def test_charts():
    beliefs = torch.rand(7, 10, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    (axes,) = plot_beliefs(beliefs, range(1, 8), [str(digit) for digit in range(10)], 4, "step").axes
    lines = {tuple(np.round(line.get_ydata(), 6)) for line in axes.lines}
    assert lines == {tuple(np.round(beliefs[:, index].numpy(), 6)) for index in range(10)}
    assert "4 (asked for)" in [line.get_label() for line in axes.lines]
    (axes,) = plot_belief_in([("A", torch.linspace(0, 1, 5)), ("B", torch.linspace(0, 1, 9))]).axes
    for line, count in zip(axes.lines, (5, 9), strict=True):
        assert line.get_xdata().tolist() == np.linspace(0, 1, count).tolist()  # from noise to image
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["A", "B"]
