"""Figures hold what they were given, where it belongs, and need no display."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from scipy.stats import norm
from sklearn.decomposition import PCA

from mnist_guided_pipeline.cli.figures import check_figure, save_figure
from mnist_guided_pipeline.figures.curves import Curve, line_panels, metric_curves, roc_curves
from mnist_guided_pipeline.figures.images import image_rows, manifold, manifold_coordinates
from mnist_guided_pipeline.figures.latents import latent_scatter, principal_plane

RNG = np.random.default_rng(0)


def shown(axes) -> np.ndarray:
    """The pixels of the one picture of these axes."""
    (picture,) = axes.images
    return np.asarray(picture.get_array())


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, size=shape, dtype=np.uint8)


class TestImageRows:
    def test_every_image_is_in_its_place(self):
        rows = [pixels(5, 28, 28) for _ in range(3)]
        figure = image_rows(rows, ["one", "two", "three"], column_labels=list("abcde"), title="images")
        assert len(figure.axes) == 3
        for axes, row, label in zip(figure.axes, rows, ["one", "two", "three"], strict=True):
            assert axes.get_ylabel() == label
            strip = shown(axes)
            assert strip.shape == (28, 5 * 30 - 2)
            for column in range(5):
                np.testing.assert_array_equal(strip[:, 30 * column : 30 * column + 28], row[column])
                assert (strip[:, 30 * column + 28 : 30 * column + 30] == 255).all()
        assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == list("abcde")

    @pytest.mark.parametrize(("count", "label"), [(1, "mlp16-plain: reconstructed"), (12, "x"), (3, "WWWWWWWW")])
    def test_every_label_is_inside(self, count, label):
        figure = image_rows([pixels(count, 28, 28)] * 9, [label] * 9, ["image"] * count, title="a")
        renderer = FigureCanvasAgg(figure).get_renderer()
        for axes in figure.axes:
            box, label_box = axes.get_tightbbox(renderer), axes.yaxis.label.get_window_extent(renderer)
            assert 0 <= box.x0 and label_box.x0 >= 0
            assert 0 <= box.y0 and box.y1 <= figure.bbox.height

    @pytest.mark.parametrize(
        ("rows", "labels", "columns", "message"),
        [
            ([], [], None, "one or more arrays"),
            ([(2, 4, 4), (3, 4, 4)], ["a", "b"], None, r"one shape, got \[\(2, 4, 4\), \(3, 4, 4\)\]"),
            ([(2, 4, 4)], ["a", "b"], None, "row_labels must be 1 names, .* got 2"),
            ([(2, 4, 4)], ["a"], ["x"], "column_labels must be 2 names, .* got 1"),
        ],
    )
    def test_refuses_what_does_not_fit(self, rows, labels, columns, message):
        with pytest.raises(ValueError, match=message):
            image_rows([np.zeros(shape, np.uint8) for shape in rows], labels, columns)


class TestManifold:
    @pytest.mark.parametrize("count", [1, 2, 20])
    def test_coordinates_are_equal_steps_of_probability(self, count):
        coordinates = manifold_coordinates(count)
        np.testing.assert_allclose(coordinates, norm.ppf((np.arange(count) + 0.5) / count), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(np.diff(norm.cdf(coordinates)), 1 / count)

    def test_first_dimension_to_the_right_second_upwards(self):
        images = pixels(4, 4, 6, 6)
        figure = manifold(images, manifold_coordinates(4))
        (axes,) = figure.axes
        picture = shown(axes)
        assert picture.shape == (24, 24)
        np.testing.assert_array_equal(picture[18:, :6], images[0, 0])  # both latents least: below, at the left
        np.testing.assert_array_equal(picture[18:, 18:], images[0, 3])
        np.testing.assert_array_equal(picture[:6, :6], images[3, 0])
        ticks = [float(tick.get_text().replace("\N{MINUS SIGN}", "-")) for tick in axes.get_xticklabels()]
        np.testing.assert_allclose(ticks, manifold_coordinates(4), atol=0.005)
        assert list(axes.get_xticks()) == [3, 9, 15, 21]
        assert list(axes.get_yticks()) == [21, 15, 9, 3]

    def test_refuses_another_number_of_images(self):
        with pytest.raises(ValueError, match=r"3 rows of 3, .* got \(2, 3\)"):
            manifold(pixels(2, 3, 4, 4), manifold_coordinates(3))


class TestLatents:
    def test_a_colour_and_a_name_for_every_class_that_has_points(self):
        points, labels = RNG.normal(size=(60, 2)), np.repeat([0, 2], 30)
        figure = latent_scatter(points, labels, ["shirt", "boot", "bag"])
        (axes,) = figure.axes
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["shirt", "bag"]
        for collection, index in zip(axes.collections, (0, 2), strict=True):
            np.testing.assert_array_equal(collection.get_offsets(), points[labels == index])
        assert len({tuple(collection.get_facecolor()[0]) for collection in axes.collections}) == 2

    def test_principal_plane_is_that_of_scikit_learn(self):
        latents = RNG.normal(size=(200, 7)) @ np.diag([5, 3, 1, 1, 1, 1, 0.5]) + 4
        points, shares = principal_plane(latents)
        reference = PCA(2, svd_solver="full").fit(latents)
        np.testing.assert_allclose(np.abs(points), np.abs(reference.transform(latents)), atol=1e-9)
        np.testing.assert_allclose(shares, reference.explained_variance_ratio_)


class TestCurves:
    def test_lines_bands_and_scales(self):
        curves = {
            "ours": Curve([1, 10, 100], [3.0, 2.0, 1.0], low=[2.5, 1.5, 0.5], high=[3.5, 2.5, 1.5]),
            "theirs": Curve([1, 10], [4.0, 4.0]),
        }
        figure = metric_curves(curves, "steps", "judge-FID", log_x=True)
        (axes,) = figure.axes
        assert [list(line.get_ydata()) for line in axes.lines] == [[3.0, 2.0, 1.0], [4.0, 4.0]]
        assert len(axes.collections) == 1  # one curve has a band
        band = axes.collections[0].get_paths()[0].vertices
        assert {(1.0, 2.5), (100.0, 1.5)} <= {tuple(vertex) for vertex in band}
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("steps", "judge-FID")
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ours", "theirs"]
        assert metric_curves({"ours": curves["ours"]}, "x", "y").axes[0].get_legend() is None

    def test_panels_have_scales_of_their_own(self):
        figure = line_panels(
            {"reconstruction": {"a": Curve([0, 1], [200, 80])}, "KL": {"a": Curve([0, 1], [3, 5])}}, "x"
        )
        assert [axes.get_title(loc="left") for axes in figure.axes] == ["reconstruction", "KL"]
        assert figure.axes[0].get_ylim()[0] > figure.axes[1].get_ylim()[1]
        with pytest.raises(ValueError, match="at least one panel"):
            line_panels({}, "x")

    def test_roc_names_the_areas(self):
        figure = roc_curves({"noise": Curve([0, 0, 1], [0, 1, 1])}, {"noise": 1.0})
        (axes,) = figure.axes
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["noise: AUC 1.000"]
        assert len(axes.lines) == 2  # and the diagonal


class TestSaving:
    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
    def test_every_format_in_one_rename(self, tmp_path, suffix):
        output = tmp_path / f"figure.{suffix}"
        check_figure(output, force=False)
        save_figure(image_rows([np.full((2, 8, 8), 0, np.uint8)], ["black"]), output)
        with Image.open(output) as picture:
            assert picture.getextrema()[0][0] < 10 < 245 < picture.getextrema()[0][1]
        assert [file.name for file in tmp_path.iterdir()] == [output.name]
        with pytest.raises(FileExistsError, match="--force"):
            check_figure(output, force=False)

    def test_missing_package_names_the_extra(self, tmp_path):
        with pytest.raises(ValueError, match=r"needs no_such_package: pip install 'mnist-guided-pipeline\[plots\]'"):
            check_figure(tmp_path / "x.png", False, needs=("matplotlib", "no_such_package"))
