"""The reader: exactly the images on disk, once; and every bad row or argument is named."""

import io

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Features, Image, Value
from PIL import Image as PILImage
from pyarrow import parquet

from conftest import FEATURES, write_split
from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.data import images as data
from mnist_guided_pipeline.data.digits import NAMES
from mnist_guided_pipeline.data.images import DatasetError, load_images, to_model_range, to_uint8, to_unit_range


def png(image: PILImage.Image) -> dict[str, bytes | None]:
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture
def one() -> PILImage.Image:
    """A grey image that is no constant."""
    return PILImage.fromarray(np.arange(28 * 28, dtype=np.uint32).reshape(28, 28).astype(np.uint8))


def read(folder, split="train", **options):
    return load_images(folder, split, **options)


class TestReading:
    def test_equals_plain_decoding(self, digits, digits_folder):
        images, labels = digits
        train, test = read(digits_folder), read(digits_folder, "test")
        expected = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
        assert torch.equal(torch.cat([train.images, test.images]), expected)
        assert torch.cat([train.labels, test.labels]).tolist() == labels
        assert (train.images.dtype, train.labels.dtype) == (torch.uint8, torch.int64)
        assert (len(train), len(test)) == (1500, 297)
        assert test.class_names == tuple("0123456789") and test.id2label[3] == "3"

    def test_the_bundled_digits_go_the_same_way_from_the_command(self, digits, tmp_path):
        main(["digits", "--output", str(tmp_path / "digits")])
        train, test = (read(tmp_path / "digits", split) for split in ("train", "test"))
        assert train.class_names == test.class_names == NAMES
        assert (len(train), train.labels.tolist() + test.labels.tolist()) == (1500, digits[1])
        assert bytes(test.images[-1].numpy()) == digits[0][-1].tobytes()

    def test_second_reading_is_the_first_and_decodes_nothing(self, digits_folder, tmp_path, monkeypatch):
        first = read(digits_folder, cache_dir=tmp_path)
        monkeypatch.setattr(data, "_decode_image", None)
        second = read(digits_folder, cache_dir=tmp_path)
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.labels, second.labels)

    def test_the_first_rows(self, digits_folder):
        whole, part = read(digits_folder), read(digits_folder, max_samples=7)
        assert torch.equal(part.images, whole.images[:7])
        assert len(read(digits_folder, max_samples=10_000)) == 1500

    def test_other_column_names(self, tmp_path, one):
        features = Features({"picture": Image(), "kind": ClassLabel(names=["shirt", "boot"])})
        write_split(tmp_path, "train", [one, one], [1, 0], features)
        split = read(tmp_path, image_column="picture", label_column="kind")
        assert split.labels.tolist() == [1, 0]
        assert split.class_names == ("shirt", "boot")

    def test_changed_data_are_not_taken_from_the_cache(self, tmp_path, one):
        folder, cache = tmp_path / "data", tmp_path / "cache"
        write_split(folder, "train", [one], [1])
        read(folder, cache_dir=cache)
        write_split(folder, "train", [PILImage.new("L", (28, 28), 9)], [2])
        again = read(folder, cache_dir=cache)
        assert again.labels.tolist() == [2]
        assert again.images.unique().tolist() == [9]

    def test_the_test_split_of_mnist(self, mnist):
        test = read(mnist, "test")
        assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        assert test.images.float().mean().item() / 255 == pytest.approx(0.1325, abs=1e-4)


class TestLabelColumns:
    @pytest.mark.parametrize(
        ("dtype", "train", "test", "names"),
        [("int64", [10, 2], [5], ("2", "5", "10")), ("string", ["boot", "shirt"], ["coat"], ("boot", "coat", "shirt"))],
    )
    def test_values_become_classes_the_same_for_every_split(self, tmp_path, one, caplog, dtype, train, test, names):
        features = Features({"image": Image(), "label": Value(dtype)})
        for split, labels in (("train", train), ("test", test)):
            write_split(tmp_path, split, [one] * len(labels), labels, features)
        for split, labels in (("train", train), ("test", test)):
            data = read(tmp_path, split)
            assert data.class_names == names
            assert [names[index] for index in data.labels] == [str(label) for label in labels]
        assert "became classes" in caplog.text


class TestSizesAndModes:
    def test_colour_is_three_channels_also_where_one_image_is_grey(self, tmp_path, one):
        colour = PILImage.merge("RGB", [one, one.rotate(90), one.rotate(180)])
        write_split(tmp_path, "train", [colour, one], [1, 2])
        split = read(tmp_path)
        assert split.image_shape == (3, 28, 28)
        assert torch.equal(split.images[0], torch.from_numpy(np.asarray(colour).copy()).permute(2, 0, 1))
        assert torch.equal(split.images[1], torch.from_numpy(np.asarray(one).copy()).expand(3, 28, 28))

    @pytest.mark.parametrize("mode", ["1", "P", "RGB", "RGBA", "LA", "I;16"])
    def test_other_modes_of_a_grey_image(self, tmp_path, one, mode, caplog):
        black_and_white = one.point(lambda value: 255 * (value > 127))
        if mode == "I;16":
            image = PILImage.fromarray(np.asarray(black_and_white).astype(np.uint16) * 257)
        else:
            image = black_and_white.convert(mode)
        assert image.mode == mode
        write_split(tmp_path, "train", [image] * 2, [1, 2])
        split = read(tmp_path)
        assert split.image_shape == (1, 28, 28)
        assert torch.equal(split.images[1], torch.from_numpy(np.asarray(black_and_white).copy()))
        assert [f"2 of mode {mode}" in record.message for record in caplog.records] == [True] * (mode != "RGB")

    def test_resolution(self, tmp_path, one):
        write_split(tmp_path, "train", [one, one.resize((100, 30))], [1, 2])
        images = read(tmp_path, resolution=16).images
        assert torch.equal(
            images[0], torch.from_numpy(np.asarray(one.resize((16, 16), PILImage.Resampling.BILINEAR)).copy())
        )
        assert images.shape == (2, 16, 16)


class TestRefusals:
    def refuses(self, match, folder, split="train", **options):
        with pytest.raises(DatasetError, match=match):
            read(folder, split, **options)

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"split": "validation"}, r"it has no split 'validation'; it has train, test"),
            ({"image_column": "wrong"}, r"image_column 'wrong' is not a column .* image, label"),
            ({"label_column": "wrong"}, r"label_column 'wrong' is not a column .* image, label"),
            ({"image_column": "label"}, r"image_column 'label' must be an Image"),
            ({"max_samples": 0}, r"max_samples must be at least 1 .* got 0"),
            ({"max_samples": -3}, r"max_samples must be at least 1 .* got -3"),
            ({"resolution": 7}, r"resolution must be from 8 to 64 .* got 7"),
            ({"resolution": 65}, r"resolution must be from 8 to 64 .* got 65"),
        ],
        ids=str,
    )
    def test_arguments(self, digits_folder, options, match):
        self.refuses(match, digits_folder, **options)

    def test_what_is_no_data_set(self, tmp_path):
        self.refuses(r"is no folder, and neither the Hub", tmp_path / "nothing")
        self.refuses(r"must hold parquet files", tmp_path)
        self.refuses(
            r"^dataset_name 'nobody/nothing' is no folder, and neither the Hub \(not asked, .*\) nor the local cache "
            r"has it; give a Hub id such as 'ylecun/mnist', or a folder with the same parquet files.$",
            "nobody/nothing",
        )

    @pytest.mark.parametrize(
        ("images", "labels", "dtype", "match"),
        [
            ([None], [1.5], "float32", r"label_column 'label' must be a ClassLabel feature, integers or strings"),
            ([None] * 2, [3, -1], "int64", r"Row 1 of split 'train': column 'label' is -1, which is no class"),
            ([None] * 2, [3, None], "int64", r"Row 1 of split 'train': column 'label' is None, which is no class"),
            ([(28, 28), None], [3, 4], None, r"Row 1: column 'image' holds no image"),
            (
                [(28, 28), (32, 30)],
                [3, 4],
                None,
                r"Row 1: column 'image' is 30x32, row 0 is 28x28; .* Give a res",
            ),
            ([(65, 30)], [3], None, r"Row 0: column 'image' is 30x65; height and width must be from 8 to 64"),
        ],
    )
    def test_rows(self, tmp_path, one, images, labels, dtype, match):
        features = FEATURES if dtype is None else Features({"image": Image(), "label": Value(dtype)})
        images = [one if dtype else size and one.resize(size) for size in images]
        write_split(tmp_path, "train", images, labels, features)
        self.refuses(match, tmp_path)

    def test_truncated_file(self, tmp_path, one):
        write_split(tmp_path, "train", [one] * 100, [1] * 100)
        (file,) = tmp_path.rglob("*.parquet")
        file.write_bytes(file.read_bytes()[:-100])
        self.refuses(r"Cannot read split 'train'", tmp_path)

    @pytest.mark.parametrize("label", [10, -1, None])
    def test_label_that_is_no_class(self, tmp_path, one, label):
        plain = Features({"image": Image(), "label": Value("int64")})
        write_split(tmp_path, "train", [one, one], [3, label], plain)
        declare_class_labels(tmp_path)
        self.refuses(rf"Row 1: column 'label' is {label}; it must be a class index from 0 to 9", tmp_path)

    def test_damaged_image(self, tmp_path, one):
        cell = png(one)
        cell["bytes"] = cell["bytes"][: len(cell["bytes"]) // 2]
        write_split(tmp_path, "train", [png(one), cell], [3, 4])
        self.refuses(r"Row 1: column 'image' is not a readable image", tmp_path)

    def test_every_truncation_and_flipped_bit_is_found_or_harmless(self, digits):
        images, _ = digits
        bits = np.random.default_rng(0)
        for image in images[:10]:
            encoded, expected = png(image)["bytes"], image.tobytes()
            damaged = [encoded[:length] for length in range(len(encoded))]
            for position in range(len(encoded)):
                flipped = bytearray(encoded)
                flipped[position] ^= 1 << bits.integers(8)
                damaged.append(bytes(flipped))
            for content in damaged:
                try:
                    decoded = data._decode_image({"bytes": content, "path": None}, 0, "image").tobytes()
                except DatasetError:
                    continue
                assert decoded == expected

    @pytest.mark.parametrize("row_groups", [0, 1])
    def test_no_rows(self, tmp_path, row_groups):
        with parquet.ParquetWriter(tmp_path / "train.parquet", FEATURES.arrow_schema) as file:
            for _ in range(row_groups):
                file.write_table(FEATURES.arrow_schema.empty_table())
        self.refuses(r"the split is empty", tmp_path)


def declare_class_labels(folder):
    """Say in the file's own metadata that its labels are classes, as a faulty exporter would; the values stay."""
    (file,) = folder.rglob("*.parquet")
    table = parquet.read_table(file)
    parquet.write_table(table.replace_schema_metadata(FEATURES.arrow_schema.metadata), file)


class TestRanges:
    def test_conversions_are_inverse(self):
        images = torch.arange(256, dtype=torch.uint8).repeat(4)[: 28 * 28].reshape(1, 28, 28)
        model_range = to_model_range(images)
        assert model_range.shape == (1, 1, 28, 28)
        assert (model_range.min().item(), model_range.max().item()) == (-1.0, 1.0)
        assert torch.equal(to_uint8(model_range), images)
        assert torch.equal(to_unit_range(images) * 2 - 1, model_range)
        assert torch.equal(to_unit_range(images[:, None]), to_unit_range(images))
        extremes = torch.tensor([-3.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 1, 28, 28)
        assert to_uint8(extremes).flatten(1).unique().tolist() == [0, 255]
