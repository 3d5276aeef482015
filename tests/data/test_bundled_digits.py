"""The bundled digits go the same way as MNIST, from the file to a class name at the command."""

import pytest

from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.data.digits import NAMES, bundled_digits
from mnist_guided_pipeline.data.images import load_images

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("bundled") / "digits"
    main(["digits", "--output", str(output)])
    return output


def test_both_splits_read_as_mnist_does(folder):
    images, labels = bundled_digits()
    train, test = (load_images(folder, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1500, 297)
    assert train.class_names == test.class_names == NAMES
    assert train.labels.tolist() + test.labels.tolist() == labels
    assert bytes(test.images[-1].numpy()) == images[-1].tobytes()
