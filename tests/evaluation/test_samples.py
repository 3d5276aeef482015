"""Drawing: images depend on their index alone, and what is drawn is kept."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.evaluation import samples
from mnist_guided_pipeline.evaluation.samples import DrawnImages, SamplingSettings, draw_images, wanted_classes
from mnist_guided_pipeline.seeding import keyed_generator


def differences(first: torch.Tensor, second: torch.Tensor) -> int:
    return (first.int() - second.int()).abs().max().item()


class TestWantedClasses:
    def test_equal_weights_take_the_classes_in_turn(self):
        labels, numbers = wanted_classes(25, 10)
        assert torch.equal(labels, torch.arange(25) % 10) and torch.equal(numbers, torch.arange(25) // 10)

    def test_every_prefix_has_the_proportions(self):
        weights = (980, 1135, 1032, 0, 982, 892)
        labels, numbers = wanted_classes(sum(weights), 6, weights)
        assert torch.bincount(labels, minlength=6).tolist() == list(weights)
        counts = torch.nn.functional.one_hot(labels, 6).cumsum(dim=0)
        assert torch.equal(counts.gather(1, labels[:, None])[:, 0] - 1, numbers)
        quota = torch.arange(1, len(labels) + 1)[:, None] * torch.tensor(weights) / sum(weights)
        assert (counts - quota).abs().max() < 2
        assert torch.equal(wanted_classes(777, 6, weights)[0], labels[:777])

    @pytest.mark.parametrize("weights", [(1, 2), (0, 0, 0), (1, -1, 1)])
    def test_refuses_what_is_no_mix(self, weights):
        with pytest.raises(ValueError, match="class_weights must be 3 numbers"):
            wanted_classes(10, 3, weights)


class TestDrawing:
    def test_does_not_depend_on_the_chunks(self, tiny, tmp_path):
        settings = SamplingSettings(num_images=25)
        whole = draw_images(tiny, settings, tmp_path / "a", chunk_size=25)
        cut = draw_images(tiny, settings, tmp_path / "b", chunk_size=7)
        assert len(whole.files) == 1
        assert len(cut.files) == 4
        assert whole.images().shape == (25, 28, 28)
        assert differences(whole.images(), cut.images()) <= 1
        assert torch.equal(whole.labels, torch.arange(25) % 10)
        assert whole.seconds > 0

    def test_stochastic_scheduler_too(self, tiny, tmp_path):
        settings = SamplingSettings(num_images=12, scheduler="EulerAncestralDiscreteScheduler", num_inference_steps=4)
        images = [draw_images(tiny, settings, tmp_path / str(size), size).images() for size in (12, 5)]
        assert differences(*images) <= 1

    def test_images_are_those_of_the_pipeline(self, tiny, tmp_path):
        drawn = draw_images(tiny, SamplingSettings(num_images=13, seed=5, guidance_scale=2.0), tmp_path).images()
        generator = keyed_generator(5, 2, 1)  # image 12 is number 1 of class 2
        alone = tiny([2], guidance_scale=2.0, generator=[generator]).images[0]
        assert differences(drawn[12], torch.from_numpy(np.array(alone))) <= 1

    def test_more_images_extend_what_is_there(self, tiny, tmp_path):
        few = draw_images(tiny, SamplingSettings(num_images=20), tmp_path, chunk_size=10)
        stamps = [file.stat().st_mtime_ns for file in few.files]
        more = draw_images(tiny, SamplingSettings(num_images=30), tmp_path, chunk_size=10)
        assert [file.stat().st_mtime_ns for file in more.files[:2]] == stamps
        assert torch.equal(more.images()[:20], few.images())

    def test_goes_on_after_an_interruption(self, tiny, tmp_path, monkeypatch):
        settings, finished = SamplingSettings(num_images=40), []
        draw = samples._draw_chunk

        def dies_in_the_third(pipe, call, file):
            if len(finished) == 2:
                raise KeyboardInterrupt
            finished.append(file.name[:6])
            draw(pipe, call, file)

        monkeypatch.setattr(samples, "_draw_chunk", dies_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            draw_images(tiny, settings, tmp_path / "a", chunk_size=10)
        monkeypatch.setattr(samples, "_draw_chunk", lambda *given: (finished.append(given[2].name[:6]), draw(*given)))
        resumed = draw_images(tiny, settings, tmp_path / "a", chunk_size=10)
        assert finished == ["000000", "000010", "000020", "000030"]
        assert torch.equal(resumed.images(), draw_images(tiny, settings, tmp_path / "b", chunk_size=10).images())

    @pytest.mark.parametrize("damage", [b"", b"rubbish", None])
    def test_a_damaged_chunk_is_drawn_again(self, tiny, tmp_path, damage):
        settings = SamplingSettings(num_images=20)
        before = draw_images(tiny, settings, tmp_path, chunk_size=10)
        images, file = before.images(), before.files[1]
        file.write_bytes(file.read_bytes()[:-5] if damage is None else damage)
        assert torch.equal(draw_images(tiny, settings, tmp_path, chunk_size=10).images(), images)

    def test_whatever_changes_the_images_changes_the_place(self, tiny, tmp_path):
        def folder(**changes) -> Path:
            return draw_images(tiny, SamplingSettings(num_images=10, **changes), tmp_path).files[0].parent

        places = {
            folder(),
            folder(seed=1),
            folder(guidance_scale=2.0),
            folder(num_inference_steps=2),
            folder(scheduler="DDIMScheduler"),
            folder(scheduler="DDIMScheduler", eta=1.0),
            folder(scheduler_options={"timestep_spacing": "leading"}),
            folder(guidance_interval=(0.5, 2.0)),
        }
        with torch.no_grad():
            next(tiny.classifier.parameters()).add_(1e-3)
        places.add(folder())
        assert len(places) == 9
        assert folder(num_inference_steps=3) == folder(guidance_scale=1.0) == folder()  # its defaults, said aloud

    def test_pipeline_without_labels(self, tiny, tmp_path):
        plain = mgp.ClassifierGuidedLatentPipeline(tiny.vae, tiny.denoiser, None, tiny.scheduler)
        drawn = draw_images(plain, SamplingSettings(num_images=9, num_inference_steps=2), tmp_path, chunk_size=4)
        assert drawn.labels is None
        assert drawn.images().shape == (9, 28, 28)

    def test_images_of_any_class_but_one(self, tiny, tmp_path):
        """The unwanted classes are taken in turn, and no class is wanted."""
        settings = SamplingSettings(5, seed=3, negative_class_labels=("digit 4", 9))
        drawn = draw_images(tiny, settings, tmp_path, chunk_size=2)
        assert drawn.labels is None
        alone = tiny(negative_class_labels=[9], generator=[keyed_generator(3, 0, 3)]).images[0]
        assert differences(drawn.images()[3], torch.from_numpy(np.array(alone))) <= 1

    def test_options_are_those_of_the_scheduler(self, tiny):
        settings = SamplingSettings(scheduler="DPMSolverMultistepScheduler", scheduler_options={"solver_order": 3})
        assert settings.make_scheduler(tiny).config.solver_order == 3
        own = SamplingSettings(scheduler_options={"timestep_spacing": "leading"}).make_scheduler(tiny)
        assert type(own) is type(tiny.scheduler) and own.config.timestep_spacing == "leading"
        with pytest.raises(ValueError, match="has no setting colour"):
            SamplingSettings(scheduler_options={"colour": 1}).make_scheduler(tiny)

    def test_leaves_the_scheduler_as_it_was(self, tiny, tmp_path):
        own = tiny.scheduler
        draw_images(tiny, SamplingSettings(num_images=2, scheduler="DDIMScheduler"), tmp_path)
        assert tiny.scheduler is own

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            *(("num_images", 0), ("scheduler", "NoScheduler"), ("num_inference_steps", 0), ("guidance_scale", -1.0)),
            *(("guidance_interval", (2.0, 1.0)), ("cfg_scale", -1.0), ("eta", 2.0), ("classifier_temperature", 0.0)),
        ],
    )
    def test_bad_settings(self, setting, value):
        with pytest.raises(ValueError, match=setting):
            SamplingSettings(**{setting: value})

    def test_two_processes_draw_what_one_draws(self, tiny, tiny_pipeline_folder, tmp_path):
        script = tmp_path / "draw.py"
        script.write_text(
            "import sys, mnist_guided_pipeline as mgp\n"
            "from mnist_guided_pipeline.evaluation.samples import SamplingSettings, draw_images, start_processes\n"
            "pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(sys.argv[1])\n"
            "drawn = draw_images(pipe, SamplingSettings(num_images=50), sys.argv[2], chunk_size=10)\n"
            "assert drawn.images().shape == (50, 28, 28) and start_processes().num_processes == 2\n"
            "start_processes().destroy_process_group()\n"
        )
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        done = subprocess.run(
            [*launcher, str(script), str(tiny_pipeline_folder), str(tmp_path / "two")],
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        one = draw_images(tiny, SamplingSettings(num_images=50), tmp_path / "one", chunk_size=10)
        folder = tmp_path / "two" / one.files[0].parent.name
        assert [file.name for file in one.files] == sorted(file.name for file in folder.iterdir())
        two = DrawnImages(tuple(folder / file.name for file in one.files), one.labels, 1.0)
        assert differences(one.images(), two.images()) <= 1
