"""Tensors in memory: images, points in the plane, and the posteriors of encoded images."""

DEFAULT_DATASET = "ylecun/mnist"
