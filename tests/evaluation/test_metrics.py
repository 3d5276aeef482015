"""Laws of the metrics: closed forms, reference implementations, and invariances."""

import numpy as np
import pytest
import torch

from mnist_guided_pipeline.evaluation import metrics

scipy_stats = pytest.importorskip("scipy.stats")


def draw(seed: int, count: int, width: int = 6, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


def pictures(seed: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=generator)


class TestClassification:
    def test_confusion_matrix_equals_scikit_learn(self):
        sklearn_metrics = pytest.importorskip("sklearn.metrics")
        labels, predictions = torch.randint(0, 5, (2, 300), generator=torch.Generator().manual_seed(0))
        expected = sklearn_metrics.confusion_matrix(labels, predictions, labels=range(6))
        assert metrics.confusion_matrix(labels, predictions, 6).tolist() == expected.tolist()

    def test_calibration_error_equals_torchmetrics(self):
        functional = pytest.importorskip("torchmetrics.functional.classification")
        probabilities = (2 * draw(0, 2000, 4)).softmax(dim=1)
        labels = torch.randint(0, 4, (2000,), generator=torch.Generator().manual_seed(1))
        expected = functional.multiclass_calibration_error(probabilities, labels, num_classes=4, n_bins=15)
        assert metrics.expected_calibration_error(probabilities, labels) == pytest.approx(expected.item(), abs=1e-5)


class TestDistances:
    @pytest.mark.parametrize("rank", [6, 3])
    def test_fid_equals_the_matrix_square_root_of_scipy(self, rank):
        linalg = pytest.importorskip("scipy.linalg")
        real, fake = draw(0, 50).double(), draw(1, 50, rank, shift=0.3).double() @ draw(2, rank).double()
        cov1, cov2 = np.cov(real.T.numpy()), np.cov(fake.T.numpy())
        apart = (real.mean(dim=0) - fake.mean(dim=0)).square().sum().item()
        expected = apart + np.trace(cov1 + cov2 - 2 * linalg.sqrtm(cov1 @ cov2).real)
        assert metrics.judge_fid(real, fake) == pytest.approx(expected, rel=1e-5)

    def test_fid_equals_torchmetrics(self):
        fid = pytest.importorskip("torchmetrics.image.fid")
        real, fake = draw(0, 500).double(), draw(1, 400, shift=0.3).double() * 1.5
        known = torch.nn.Identity()
        known.num_features = 6
        oracle = fid.FrechetInceptionDistance(feature=known).set_dtype(torch.float64)
        oracle.update(real, real=True)
        oracle.update(fake, real=False)
        assert metrics.judge_fid(real, fake) == pytest.approx(oracle.compute().item(), rel=1e-9)
        assert metrics.judge_fid(real, real.flip(0)) == pytest.approx(0.0, abs=1e-9)

    def test_kid_equals_torchmetrics_on_the_whole_sets_in_chunks_too(self):
        kid = pytest.importorskip("torchmetrics.image.kid")
        real, fake = draw(0, 200).double(), draw(1, 200, shift=0.2).double()
        expected = pytest.approx(kid.poly_mmd(real, fake).item(), rel=1e-9)
        assert metrics.judge_kid(real, fake) == expected and metrics.judge_kid(real.flip(0), fake, 7) == expected


class TestManifold:
    @pytest.mark.parametrize("k", [1, 5])
    @pytest.mark.parametrize("shift", [0.0, 1.0, 20.0])
    def test_equals_the_authors_package(self, k, shift, capsys):
        prdc = pytest.importorskip("prdc")
        real, fake = draw(0, 60).double(), draw(1, 45, shift=shift).double()
        expected = prdc.compute_prdc(real.numpy(), fake.numpy(), nearest_k=k)
        result = metrics.precision_recall_density_coverage(real, fake, k, chunk_size=13)
        assert result == pytest.approx({name: float(value) for name, value in expected.items()}, abs=1e-9)
        flipped = metrics.precision_recall_density_coverage(real.flip(0), fake.flip(0), k)
        assert result == pytest.approx(flipped, abs=1e-12)


@pytest.mark.parametrize("metric", [metrics.judge_fid, metrics.judge_kid, metrics.precision_recall_density_coverage])
def test_bad_features_are_refused(metric):
    for real, fake, message in (
        (draw(0, 20), draw(1, 1), r"features_fake must be .* at least"),
        (draw(0, 20), draw(1, 20, width=5), "one width, got 6 and 5"),
        (draw(0, 20) / 0.0, draw(1, 20), "features_real must be .* finite"),
    ):
        with pytest.raises(ValueError, match=message):
            metric(real, fake)


class TestMemorisation:
    def test_nearest_distances_equal_brute_force(self):
        queries, references = pictures(0, 23), pictures(1, 50)
        queries[3] = references[40]
        gaps = (queries[:, None].double() - references[None].double()).flatten(2).norm(dim=2) / 255.0
        distances = metrics.nearest_distances(queries, references, chunk_size=7)
        assert torch.allclose(distances.double(), gaps.min(dim=1).values, rtol=1e-6) and distances[3] == 0

    def test_shouts_on_copies_and_is_quiet_on_fresh_images(self):
        train, few = pictures(0, 400), pictures(2, 400)
        held_out = metrics.nearest_distances(pictures(1, 400), train)
        assert metrics.near_copies(train[:200], train, held_out) == 1.0
        assert metrics.near_copies(few, train, held_out) < 0.05
        few[::5] = train[:80]  # one copy in five
        assert 0.2 <= metrics.near_copies(few, train, held_out) < 0.25


class TestSlicedWasserstein:
    def test_translation_in_the_plane(self):
        """Along a direction at an angle a the distance is |cos a|, whose mean over the circle is 2 / pi."""
        points = np.random.default_rng(0).normal(size=(500, 2))
        moved = metrics.sliced_wasserstein(points, points + np.array([3.0, 0.0]), directions=20_000)
        assert moved == pytest.approx(3 * 2 / np.pi, rel=0.01)
        assert metrics.sliced_wasserstein(points, points[::-1]) == pytest.approx(0.0)

    def test_equals_scipy_in_one_dimension(self):
        first, second = np.random.default_rng(0).normal(size=(2, 300, 1))
        expected = scipy_stats.wasserstein_distance(first[:, 0], second[:, 0])
        assert metrics.sliced_wasserstein(first, second) == pytest.approx(expected)
        with pytest.raises(ValueError, match=r"one shape \(N, d\), got \(300, 1\) and \(4, 1\)"):
            metrics.sliced_wasserstein(first, second[:4])
