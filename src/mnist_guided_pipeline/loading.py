"""Loading one network by the class its folder names."""

from __future__ import annotations

import os
from typing import Any

from diffusers import ConfigMixin, ModelMixin

__all__ = ["load_network"]


class _NetworkConfig(ConfigMixin):
    """Reads a network's config before its class is known."""

    config_name = "config.json"


def load_network(path: str | os.PathLike[str], component: str | None = None, **options: Any) -> ModelMixin:
    """Load a network of this package, in ``eval()`` mode, safetensors only.

    Args:
        path: folder or Hub id of the network, or of a pipeline that holds it.
        component: the network's name in a pipeline, such as ``"vae"``.
        options: passed to ``from_pretrained``, such as ``torch_dtype`` or ``revision``.

    Raises:
        FileNotFoundError: a path that looks like a folder is none.
        ValueError: the folder names a class that is not one of this package.
    """
    import mnist_guided_pipeline as package

    path = os.fspath(path)
    if path.startswith((".", "/", "~")) and not os.path.isdir(path):
        raise FileNotFoundError(f"There is no folder {path!r}.")
    if component is not None and os.path.isfile(os.path.join(path, "model_index.json")):
        options["subfolder"] = component
    config = _NetworkConfig.load_config(path, subfolder=options.get("subfolder"), revision=options.get("revision"))
    name = config.get("_class_name", "nothing")
    network_class = getattr(package, name, None)
    if not (isinstance(network_class, type) and issubclass(network_class, ModelMixin)):
        raise ValueError(f"{path!r} holds a {name}, which is not a network of mnist_guided_pipeline.")
    return network_class.from_pretrained(path, use_safetensors=True, **options)
