"""Laws of what a run begins with: ``init_from`` gives the weights, what does not fit is refused."""

import pytest
import torch

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.storage.lineage import LATENTS_OF, autoencoder_fingerprint
from mnist_guided_pipeline.storage.pipelines import load_network
from tiny import make
from training_runs import make_config, train

STILL = {"learning_rate": 1e-12, "max_train_steps": 1, "lr_warmup_steps": 0, "checkpointing_steps": None}
SETTINGS = {
    "vae": {},
    "denoiser": {},
    "classifier": {"network": "ResidualMLPClassifier", "score_matching_weight": 0.0},
}
NETWORK_CONFIGS = [
    ('{"hidden": 3}', "hidden is no setting of it. It takes sample_shape: .*hidden_size: int = "),
    ('{"hidden_size": "256"}', "hidden_size '256' is no int"),
    ('{"hidden_size": 0}', "it would have layers of no width"),
    ('{"hidden_size": -1}', "makes no MLPDenoiser: Trying to create tensor with negative dimension"),
    ('{"hidden_size": 1000000}', "its training would hold [0-9,]+ GB, and this machine has"),
    ('{"sample_shape": [3]}', r"sample_shape is \(1, 28, 28\) by the data set and noise; leave it out"),
]
JUDGE_CONFIGS = [
    ('{"hidden": 3}', "hidden is no setting of it. It takes .*embedding_size: int"),
    ('{"embedding_size": "64"}', "embedding_size '64' is no int"),
    ('{"hidden_sizes": [1000000, 1000000], "depths": [2, 2]}', "its training would hold [0-9,]+ GB"),
    ('{"num_channels": 3}', "num_channels is 1 by the data set and noise; leave it out"),
]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    make().save_pretrained(folder)
    return folder


def config(name, data, folder, pipeline, **changes):
    latent = {} if name == "vae" else {"vae_path": str(pipeline)}
    settings = {**SETTINGS[name], "network_config": "{}", "init_from": str(pipeline)}
    return make_config(name, data, folder, **STILL, **latent | settings | changes)


def same(first, second):
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.allclose(x, y, atol=1e-9) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_that_learns_nothing_leaves_what_it_began_with(pipeline, digits_folder, tmp_path, name):
    train(name, config(name, digits_folder, tmp_path / "first", pipeline))
    settings = {"init_from": str(tmp_path / "first"), "network_config": '{"hidden_size": 8}'}
    train(name, config(name, digits_folder, tmp_path / "second", pipeline, **settings))
    networks = [load_network(folder, name) for folder in (pipeline, tmp_path / "first", tmp_path / "second")]
    assert all(same(networks[0], network) for network in networks)
    if name == "vae":  # its statistics are fitted anew
        statistics = [network.config.latents_std for network in networks[1:]]
        assert statistics[0] == pytest.approx(statistics[1], rel=1e-5)
        assert statistics[0] != [0.9] * 4


def test_a_gan_begins_with_both_of_its_networks(digits_folder, tmp_path):
    generator = mgp.GANGenerator(num_classes=10, latent_dim=8, hidden_sizes=[16])
    discriminator = mgp.GANDiscriminator(num_classes=10, hidden_sizes=[16])
    generator.save_pretrained(tmp_path / "gan")
    discriminator.save_pretrained(tmp_path / "gan" / "discriminator")
    train("gan", make_config("gan", digits_folder, tmp_path / "next", **STILL, init_from=str(tmp_path / "gan")))
    assert same(generator, load_network(tmp_path / "next"))
    assert same(discriminator, load_network(tmp_path / "next", subfolder="discriminator"))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("denoiser", {"network_config": '{"hidden_size": 16}'}, "has hidden_size 8, this run 16: they must be alike"),
        ("denoiser", {"network": "UNetDenoiser"}, "has a MLPDenoiser, this run trains a UNetDenoiser"),
        ("denoiser", {"vae_path": None}, r"has sample_shape \[4\], this run \[1, 28, 28\]"),
        ("classifier", {"num_train_timesteps": 500}, "has noise_schedule {.*1000.*}, this run {.*500"),
    ],
)
def test_weights_of_another_network_are_refused(pipeline, digits_folder, tmp_path, name, changes, message):
    with pytest.raises(ValueError, match=f"init_from '.*' {message}"):
        train(name, config(name, digits_folder, tmp_path / "run", pipeline, **changes))
    assert not (tmp_path / "run").exists()


def test_weights_of_other_classes_or_latents_are_refused(pipeline, digits_folder, tmp_path):
    train("denoiser", config("denoiser", digits_folder, tmp_path / "run", pipeline))
    make(1).save_pretrained(tmp_path / "other")
    changes = {"init_from": str(tmp_path / "run"), "vae_path": str(tmp_path / "other")}
    with pytest.raises(ValueError, match="init_from '.*' was trained on the latents of .* here are .* another"):
        train("denoiser", config("denoiser", digits_folder, tmp_path / "again", pipeline, **changes))
    mgp.MLPDenoiser((4,), hidden_size=8, num_classes=9).save_pretrained(tmp_path / "nine")
    with pytest.raises(ValueError, match="init_from '.*' has num_classes 9, the data set has 10 classes"):
        nine = config("denoiser", digits_folder, tmp_path / "again", pipeline, init_from=str(tmp_path / "nine"))
        train("denoiser", nine)
    with pytest.raises(FileNotFoundError, match="init_from 'nowhere' is neither a folder nor a Hub id"):
        config("denoiser", digits_folder, tmp_path / "again", pipeline, init_from="nowhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_train_timesteps": 500}, "are of different noise .num_train_timesteps 1000 and 500.*"),
        ({"prediction_type": "sample"}, "are of different noise .prediction_type 'v_prediction' and 'sample'"),
        ({"vae_path": None}, r"works on samples of shape \(4,\), this run on \(1, 28, 28\)"),
        ({"vae_path": "other"}, "was trained on the latents of .* here are those of another VAE"),
        ({"denoiser_path": "nine"}, "knows 9 classes, the data set has 10"),
    ],
)
def test_a_denoiser_of_another_training_guides_no_classifier(pipeline, digits_folder, tmp_path, changes, message):
    make(1).save_pretrained(tmp_path / "other")
    mgp.MLPDenoiser((4,), hidden_size=8, num_classes=9).save_pretrained(tmp_path / "nine")
    denoiser = load_network(pipeline, "denoiser")
    denoiser.register_to_config(**{LATENTS_OF: autoencoder_fingerprint(load_network(pipeline, "vae"))})
    make(denoiser=denoiser).save_pretrained(tmp_path / "whole")
    paths = {name: str(tmp_path / place) for name, place in changes.items() if place in ("other", "nine")}
    settings = {"denoiser_path": str(tmp_path / "whole"), "init_from": None, "score_matching_weight": 1.0}
    run = config("classifier", digits_folder, tmp_path / "run", pipeline, **settings | changes | paths)
    with pytest.raises(ValueError, match=f"denoiser_path '.*' .*{message}"):
        train("classifier", run)
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [("denoiser", *row) for row in NETWORK_CONFIGS] + [("judge", *row) for row in JUDGE_CONFIGS],
)
def test_network_configs_that_make_no_network(digits_folder, tmp_path, name, text, message):
    with pytest.raises(ValueError, match=f"network_config '{{.*{message}"):
        train(name, make_config(name, digits_folder, tmp_path / name, network_config=text))
    assert not (tmp_path / name).exists()


def test_a_pair_begins_with_networks_that_fit(digits_folder, tmp_path):
    small = {"sample_shape": (1, 28, 28), "hidden_size": 8, "num_layers": 1, "condition_dim": 8, "num_classes": 10}
    mgp.ResidualMLPDenoiser(**small).save_pretrained(tmp_path / "teacher")
    mgp.ResidualMLPClassifier(**{**small, "num_classes": 9}).save_pretrained(tmp_path / "guide")
    paths = {"denoiser_path": str(tmp_path / "teacher"), "classifier_path": str(tmp_path / "guide")}
    with pytest.raises(ValueError, match="classifier_path '.*' knows 9 classes, the data set has 10"):
        train("pair", make_config("pair", digits_folder, tmp_path / "run", **paths, **STILL))
    mgp.ResidualMLPClassifier(**small).save_pretrained(tmp_path / "guide")
    train("pair", make_config("pair", digits_folder, tmp_path / "run", **paths, **STILL))
    assert same(load_network(tmp_path / "guide"), load_network(tmp_path / "run"))
