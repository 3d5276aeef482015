"""The states of guided sampling that a pair of networks trains on, and that training on them does what it is for."""

import pytest
import torch
from safetensors.torch import load_file

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.evaluation.oracle import LINEAR, PLANE, exact_pipeline
from mnist_guided_pipeline.training.rollouts import VisitedStates, roll_out
from tiny import seeds
from training_runs import history, make_config, train

NOISE = {"law": "preserving", "prediction_type": "epsilon", **LINEAR}


def test_the_newest_states_are_kept_in_a_ring_and_only_what_was_visited_is_picked():
    visited = VisitedStates(5, (2,))
    for number in range(1, 5):
        visited.add(torch.full((2, 2), float(number)), torch.tensor(number), torch.full((2,), number))
        assert visited.pick(torch.rand(50, generator=seeds(0)[0]))[2].min() >= 1
    kept = visited.pick((torch.arange(5) + 0.5) / 5)
    assert sorted(kept[2].tolist()) == [2, 3, 3, 4, 4]
    assert torch.equal(kept[0][:, 0], kept[2].float()) and torch.equal(kept[1], kept[2])


def test_a_rollout_ends_where_its_labels_say():
    """With exact networks the last states are those of the classes that were asked for, and all levels are visited."""
    pipe = exact_pipeline(PLANE, "DDIMScheduler", "epsilon", conditional=True)
    visited = VisitedStates(12 * 400, (2,)).double()
    roll_out(visited, pipe.denoiser, pipe.classifier, NOISE, 400, 12, seeds(0)[0])
    times = visited.rows.reshape(12, 400)[:, 0]
    assert times.tolist() == sorted(set(times.tolist()), reverse=True) and times[0] >= 870 and times[-1] < 170
    late = visited.rows == times[-1]
    with torch.no_grad():
        believed = pipe.classifier(visited.samples[late], times[-1]).logits.argmax(dim=1)
    assert (believed == visited.labels[late]).float().mean() > 0.85
    again = VisitedStates(12 * 400, (2,)).double()
    roll_out(again, pipe.denoiser, pipe.classifier, NOISE, 400, 12, seeds(0)[0])
    assert torch.equal(again.samples, visited.samples)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A teacher that knows two moons of points, and a classifier."""
    root = tmp_path_factory.mktemp("parts")
    common = {"max_train_samples": 2000, "train_batch_size": 128, "max_train_steps": 400, "learning_rate": 3e-3}
    common |= {"validation_steps": 400, "checkpointing_steps": None, "max_eval_samples": 500}
    sizes = '"hidden_size": 64, "num_layers": 1, "condition_dim": 16'
    for name, more in (
        ("denoiser", {"network": "ResidualMLPDenoiser", "network_config": f'{{{sizes}, "num_classes": 2}}'}),
        ("classifier", {"network": "ResidualMLPClassifier", "network_config": f"{{{sizes}}}"}),
    ):
        plain = {"snr_gamma": None} if name == "denoiser" else {"score_matching_weight": 0.0}
        train(name, make_config(name, "points:moons", root / name, **common, **more, **plain))
    return root, {**common, "denoiser_path": str(root / "denoiser"), "classifier_path": str(root / "classifier")}


@pytest.mark.parametrize("target", ["teacher", "data"])
def test_the_pair_learns_what_the_teacher_draws(parts, tmp_path, target):
    """The guided prediction nears the teacher's for the label that it is guided to, and the null branch the mixture."""
    root, common = parts
    shares = {"visited_share": 0.0} if target == "data" else {"rollout_interval": 20, "rollout_size": 128}
    config = make_config("pair", "points:moons", tmp_path, **common | {"target": target} | shares)
    config.validation_steps, config.checkpointing_steps = 50, 400
    train("pair", config)
    lines = [line for line in history(tmp_path) if "test/gap" in line]
    held = load_file(tmp_path / "checkpoint-400" / "pair.safetensors")
    assert held["visited.count"] == (0 if target == "data" else 400 / 20 * 128 * 3)  # refilled to the end
    if target == "teacher":
        assert lines[-1]["test/gap"] < 0.7 * lines[0]["test/gap"]
    assert lines[-1]["test/guided"] < lines[-1]["test/unlabelled"] - 0.01
    assert lines[-1]["test/told"] < lines[-1]["test/unlabelled"] - 0.01
    denoiser = mgp.PosteriorResidualMLPDenoiser.from_pretrained(tmp_path / "denoiser")
    with pytest.raises(ValueError, match="class_labels is None.*softmax of a classifier's logits"):
        denoiser(torch.zeros(1, 2), torch.tensor(5))


def test_bad_settings_are_named(parts, tmp_path):
    _, common = parts
    for changes, message in (
        ({"denoiser_path": ""}, "denoiser_path is missing"),
        ({"target": "data"}, "visited_share 0.75 needs target 'teacher'"),
        ({"prediction_type": "flow_prediction"}, "not for train_pair.py"),
    ):
        with pytest.raises(ValueError, match=message):
            make_config("pair", "points:moons", tmp_path, **common | changes)
    with pytest.raises(ValueError, match="holds a ResidualMLPClassifier|another role|classifier"):
        train(
            "pair",
            make_config("pair", "points:moons", tmp_path, **common | {"denoiser_path": common["classifier_path"]}),
        )
