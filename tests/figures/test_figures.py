"""Figures hold what they were given, where it belongs, and need no display."""

import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm
from sklearn.decomposition import PCA

from mnist_guided_pipeline.cli.options import check_figure
from mnist_guided_pipeline.figures.curves import Curve, line_panels
from mnist_guided_pipeline.figures.images import image_rows, manifold, manifold_coordinates, save_figure
from mnist_guided_pipeline.figures.points import latent_scatter, point_frames, point_panels, principal_plane

RNG = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, size=shape, dtype=np.uint8)


class TestImageRows:
    @pytest.mark.parametrize("labels", [["one", "two"], ["", ""]])
    @pytest.mark.parametrize("columns", [None, list("abc")])
    def test_every_image_is_in_its_place(self, labels, columns):
        rows = pixels(2, 3, 28, 28)
        sheet = np.asarray(image_rows(rows, labels, columns))
        right, bottom = sheet.shape[1] - 16, sheet.shape[0] - 16  # the margin
        for row in range(2):
            for column in range(3):
                left, top = right - (3 - column) * 60 + 4, bottom - (2 - row) * 60 + 4  # 56 pixels and a gap of 4
                image = sheet[top : top + 56, left : left + 56]
                np.testing.assert_array_equal(image, rows[row, column].repeat(2, 0).repeat(2, 1))
                assert (sheet[top : top + 56, left - 4 : left] == 255).all()
        assert (sheet[:, : right - 3 * 60] < 255).any() == bool(labels[0])
        assert (sheet[: bottom - 2 * 60] < 255).any() == bool(columns)
        for edge in (sheet[0], sheet[-1], sheet[:, 0], sheet[:, -1]):  # no label is cut off
            assert (edge == 255).all()

    def test_pictures_and_arrays_grey_and_coloured(self):
        images = pixels(1, 2, 8, 6)
        pictures = image_rows([[Image.fromarray(image) for image in images[0]]], ["a"])
        assert pictures.mode == "L" and pictures.tobytes() == image_rows(images, ["a"]).tobytes()
        coloured = pixels(1, 2, 8, 6, 3)
        assert image_rows(coloured, ["a"]).mode == "RGB"

    @pytest.mark.parametrize(
        ("rows", "labels", "columns", "message"),
        [
            ([], [], None, "equally many images of one size"),
            ([(2, 4, 4), (3, 4, 4)], ["a", "b"], None, r"got \[2, 3\] images"),
            ([(2, 4, 4), (2, 4, 5)], ["a", "b"], None, r"of the sizes \[\(4, 4\), \(4, 5\)\]"),
            ([(2, 4, 4)], ["a", "b"], None, "longer than argument 1"),
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
        picture = np.asarray(manifold(images, manifold_coordinates(4)))[-16 - 48 : -16, -16 - 48 : -16]
        for row in range(4):
            for column in range(4):
                place = picture[12 * (3 - row) : 12 * (4 - row), 12 * column : 12 * (column + 1)]
                np.testing.assert_array_equal(place, images[row, column].repeat(2, 0).repeat(2, 1))


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
        figure = line_panels({"": curves}, "steps", "judge-FID", log_x=True)
        (axes,) = figure.axes
        assert [list(line.get_ydata()) for line in axes.lines] == [[3.0, 2.0, 1.0], [4.0, 4.0]]
        assert len(axes.collections) == 1  # one curve has a band
        band = axes.collections[0].get_paths()[0].vertices
        assert {(1.0, 2.5), (100.0, 1.5)} <= {tuple(vertex) for vertex in band}
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("steps", "judge-FID")
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ours", "theirs"]
        assert line_panels({"": {"ours": curves["ours"]}}, "x", "y").axes[0].get_legend() is None

    def test_panels_have_scales_of_their_own(self):
        figure = line_panels(
            {"reconstruction": {"a": Curve([0, 1], [200, 80])}, "KL": {"a": Curve([0, 1], [3, 5])}}, "x"
        )
        assert [axes.get_title(loc="left") for axes in figure.axes] == ["reconstruction", "KL"]
        assert figure.axes[0].get_ylim()[0] > figure.axes[1].get_ylim()[1]


class TestPoints:
    DATA = RNG.normal(size=(100, 2))

    def test_every_point_is_drawn_in_the_colour_of_its_class(self):
        labels = np.arange(30) % 3
        drawn = point_panels([("a", self.DATA[:30]), ("b", self.DATA[30:60])], labels, ["x", "y", "z"], self.DATA)
        for axes, expected in zip(drawn.axes, (self.DATA[:30], self.DATA[30:60]), strict=True):
            samples = axes.collections[1]
            assert np.allclose(samples.get_offsets(), expected)
            assert len(np.unique(samples.get_facecolors(), axis=0)) == 3
        assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["x", "y", "z"]

    def test_frames_are_as_many_as_steps_and_move(self):
        frames = list(point_frames(np.stack([self.DATA, 0.1 * self.DATA]), np.zeros(100, dtype=int), self.DATA))
        assert [frame.size for frame in frames] == [(480, 480)] * 2
        assert frames[0].tobytes() != frames[1].tobytes()


class TestSaving:
    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
    def test_every_format_in_one_rename(self, tmp_path, suffix):
        output = tmp_path / f"figure.{suffix}"
        check_figure(output, force=False)
        save_figure(image_rows([np.full((2, 8, 8), 0, np.uint8)], ["black"]), output)
        with Image.open(output) as picture:
            low, high = picture.convert("L").getextrema()
            assert low < 10 < 245 < high
        assert [file.name for file in tmp_path.iterdir()] == [output.name]
        with pytest.raises(FileExistsError, match="--force"):
            check_figure(output, force=False)
