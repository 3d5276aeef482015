"""Points in the plane: what is read is what is there."""

import re

import numpy as np
import pytest
import torch

from mnist_guided_pipeline.data.images import DatasetError
from mnist_guided_pipeline.data.points import JITTER, check_point_set, is_point_set, load_points
from mnist_guided_pipeline.data.posteriors import clean_samples

SHAPES = "dino away h_lines v_lines x_shape star high_lines dots circle bullseye slant_up slant_down wide_lines".split()
MADE = {"points:moons": 2, "points:mixture": 8, "points:swiss-roll": 1}


class TestDatasaurus:
    def test_thirteen_shapes_of_142_points(self):
        data = load_points("points:datasaurus")
        assert sorted(data.class_names) == sorted(SHAPES)
        for label in range(13):
            assert len(data.points[data.labels == label].unique(dim=0)) == 142

    @pytest.mark.parametrize("shape", SHAPES)
    def test_same_statistics_different_graphs(self, shape):
        data = load_points(f"points:{shape}")
        assert data.class_names == (shape,)
        counts = data.points.unique(dim=0, return_counts=True)[1]
        assert len(data) >= 20_000 and counts.min() == counts.max()  # every point stands as often
        points = data.to_data_units(data.points.unique(dim=0).double()).numpy()
        deviations = np.std(points, axis=0, ddof=1)
        assert np.abs(points.mean(axis=0) - (54.26, 47.83)).max() < 0.01
        assert np.abs(deviations - (16.76, 26.93)).max() < 0.011
        assert abs(np.corrcoef(points.T)[0, 1] + 0.065) < 0.006


class TestLoading:
    @pytest.mark.parametrize("name", [*MADE, "points:dino", "points:datasaurus"])
    def test_what_is_trained_on_has_mean_0_and_variance_1(self, name):
        data = load_points(name)
        samples = clean_samples(data, None)
        drawn = samples.draw(torch.arange(len(data)), torch.randn(len(data), 2, generator=torch.manual_seed(0)))
        assert samples.sample_shape == (2,)
        assert drawn.dtype == torch.float32
        assert drawn.mean(dim=0).abs().max() < 2e-3
        assert (drawn.std(dim=0) - 1).abs().max() < 2e-3
        if data.jitter:
            assert abs((drawn - data.points).std() / JITTER - 1) < 0.02

    @pytest.mark.parametrize("name", MADE)
    def test_test_split_is_other_points_in_the_same_units(self, name):
        train, test = load_points(name), load_points(name, "test")
        assert len(train.class_names) == MADE[name]
        assert len(train) == 20_000
        assert len(test) == 4_000
        assert torch.equal(train.mean, test.mean)
        assert torch.equal(train.std, test.std)
        assert len(torch.cat([train.points, test.points]).unique(dim=0)) == 24_000
        assert train.labels.unique().tolist() == list(range(MADE[name]))

    def test_data_units_are_those_of_the_library(self):
        expected = pytest.importorskip("sklearn.datasets").make_moons(20_000, noise=0.06, random_state=0)[0]
        data = load_points("points:moons")
        assert np.abs(data.to_data_units(data.points.double()).numpy() - expected).max() < 1e-6

    def test_classes_of_the_mixture_are_where_their_names_say(self):
        data = load_points("points:mixture")
        for label, name in enumerate(data.class_names):
            x, y = data.to_data_units(data.points[data.labels == label].double()).mean(dim=0).tolist()
            assert ("E" in name) == (x > 0.5) and ("W" in name) == (x < -0.5), name
            assert ("N" in name) == (y > 0.5) and ("S" in name) == (y < -0.5), name

    def test_fresh_points_are_of_their_class_and_near_their_centres(self):
        data = load_points("points:mixture")
        for label in range(8):
            drawn = data.draw(label, 200, seed=3)
            assert (data.nearest_class(drawn) == label).float().mean() > 0.99
        dino = load_points("points:dino")
        first, again, other = (dino.draw(0, 4_000, seed) for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.cdist(first, dino.points).min(dim=1).values.max() < 6 * JITTER

    def test_max_samples(self):
        assert len(load_points("points:datasaurus", max_samples=500)) == 500
        assert len(load_points("points:datasaurus", max_samples=500).labels.unique()) == 13
        with pytest.raises(DatasetError, match="max_samples must be at least 1 .* got 0"):
            load_points("points:dino", max_samples=0)


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("points:dinosaur", "there is no set 'dinosaur'; there are moons, mixture, swiss-roll, datasaurus, dino"),
            ("points:", "there is no set ''"),
        ],
    )
    def test_names(self, name, message):
        for refuse in (check_point_set, load_points):
            with pytest.raises(DatasetError, match=re.escape(f"dataset_name {name!r}: {message}")):
                refuse(name)
        assert is_point_set(name)
        assert not is_point_set("ylecun/mnist")
        with pytest.raises(DatasetError, match="split 'validation' is unknown"):
            load_points("points:dino", "validation")
