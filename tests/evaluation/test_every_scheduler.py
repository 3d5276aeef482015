"""A swap of schedulers, as README invites, draws the digits that were asked for: the shipped weights, by the judge."""

import inspect

import pytest
import torch

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.images import to_uint8
from mnist_guided_pipeline.evaluation.judge import load_judge

SETTINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas")
LABELS = torch.arange(10).repeat_interleave(10)


def accuracy(pipe, judge) -> float:
    generator = torch.Generator().manual_seed(0)
    pixels = pipe(LABELS, num_inference_steps=10, generator=generator, output_type="pt").images
    return float((judge.predict(to_uint8(2 * pixels - 1)).argmax(dim=1) == LABELS).float().mean())


def test_ten_steps_by_every_scheduler_at_its_defaults_and_with_each_of_its_spacings():
    pytest.importorskip("scipy")
    pytest.importorskip("torchsde")
    pipe, judge = mgp.load_default(), load_judge()
    poor, refused = {}, set()
    for scheduler in pipe.compatible_schedulers:
        has = inspect.signature(scheduler.__init__).parameters
        for options in ({}, *({name: True} for name in SETTINGS if name in has)):
            name = f"{scheduler.__name__} {' '.join(options)}"
            try:
                pipe.scheduler = pipe.make_scheduler(scheduler, **options)
            except ValueError as error:
                assert options and next(iter(options)) in str(error)
                refused.add(name)
                continue
            if (read := accuracy(pipe, judge)) < (0.95 if options else 0.97):
                poor[name] = read
    assert not poor
    assert len(refused) == 10
