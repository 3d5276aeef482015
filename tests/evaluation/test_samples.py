"""Drawing: images depend on their index alone."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.evaluation.samples import SamplingSettings, draw_images, wanted_classes
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
    @pytest.mark.parametrize("scheduler", [None, "EulerAncestralDiscreteScheduler"])
    def test_does_not_depend_on_the_chunks(self, tiny, scheduler):
        settings, own = SamplingSettings(num_images=25, scheduler=scheduler), tiny.scheduler
        whole, cut = (draw_images(tiny, settings, chunk_size=size) for size in (25, 7))
        assert whole.images.shape == (25, 28, 28) and whole.seconds > 0
        assert differences(whole.images, cut.images) <= 1
        assert torch.equal(whole.labels, torch.arange(25) % 10)
        assert tiny.scheduler is own

    def test_images_are_those_of_the_pipeline(self, tiny):
        drawn = draw_images(tiny, SamplingSettings(num_images=13, seed=5, guidance_scale=2.0)).images
        generator = keyed_generator(5, 2, 1)  # image 12 is number 1 of class 2
        alone = tiny([2], guidance_scale=2.0, generator=[generator]).images[0]
        assert differences(drawn[12], torch.from_numpy(np.array(alone))) <= 1

    def test_pipeline_without_labels(self, tiny):
        plain = mgp.ClassifierGuidedLatentPipeline(tiny.vae, tiny.denoiser, None, tiny.scheduler)
        drawn = draw_images(plain, SamplingSettings(num_images=9, num_inference_steps=2), chunk_size=4)
        assert drawn.labels is None
        assert drawn.images.shape == (9, 28, 28)

    def test_options_are_those_of_the_scheduler(self, tiny):
        settings = SamplingSettings(scheduler="DPMSolverMultistepScheduler", scheduler_options={"solver_order": 3})
        assert settings.make_scheduler(tiny).config.solver_order == 3
        own = SamplingSettings(scheduler_options={"timestep_spacing": "leading"}).make_scheduler(tiny)
        assert type(own) is type(tiny.scheduler) and own.config.timestep_spacing == "leading"
        with pytest.raises(ValueError, match="has no setting colour"):
            SamplingSettings(scheduler_options={"colour": 1}).make_scheduler(tiny)

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
            "import sys, torch, mnist_guided_pipeline as mgp\n"
            "from mnist_guided_pipeline.evaluation.samples import SamplingSettings, draw_images, start_processes\n"
            "pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(sys.argv[1])\n"
            "drawn, state = draw_images(pipe, SamplingSettings(num_images=50), chunk_size=10), start_processes()\n"
            "assert state.num_processes == 2\n"
            "torch.save(drawn.images, f'{sys.argv[2]}/{state.process_index}.pt')\n"
            "state.destroy_process_group()\n"
        )
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        done = subprocess.run(
            [*launcher, str(script), str(tiny_pipeline_folder), str(tmp_path)],
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        one = draw_images(tiny, SamplingSettings(num_images=50), chunk_size=10).images
        assert all(differences(one, torch.load(tmp_path / f"{index}.pt")) <= 1 for index in range(2))
