"""Saving and loading of a pipeline: whole or not at all, and nothing but JSON and safetensors."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES
from diffusers.utils import logging
from huggingface_hub import create_repo, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from ..data.images import is_nowhere, quiet_transport
from ..sampling import pipeline as sampling
from ..weights import DEFAULT_FOLDER
from .atomic import MANIFEST, IntegrityError, atomic_folder, read_manifest, write_manifest
from .lineage import check_latents
from .places import find_folder, public_name
from .strict import (
    PACKAGE,
    check_fit,
    check_listed,
    check_network,
    check_pipeline,
    check_role,
    installed_names,
    known_class,
    read_json,
    weight_files,
)

logger = logging.get_logger(__name__)

# diffusers then names the package, and not the module, as the home of a saved network
LOADABLE_CLASSES[PACKAGE] = {
    base: ["save_pretrained", "from_pretrained"] for base in ("ModelMixin", "SchedulerMixin", "DiffusionPipeline")
}
_HUB_OPTIONS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision")


class ClassifierGuidedLatentPipeline(sampling.ClassifierGuidedLatentPipeline):
    """The guided pipeline, loaded strictly and saved whole or not at all; see the base class for its arguments.

    ``from_pretrained`` and ``save_pretrained`` have the options of ``DiffusionPipeline``.
    """

    @classmethod
    @torch.inference_mode(False)  # in which tensors would be of no use to the classifier's gradient
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Load a pipeline from a folder or a Hub id; see ``DiffusionPipeline.from_pretrained`` for the options.

        Only JSON and safetensors are read, and everything is checked first (``strict.py``). No code of the folder or
        repository is run, also not of an exported one.

        Raises:
            IntegrityError: a file is missing, damaged or does not fit the others; the message names it.
            ValueError: pickled weights are asked for, and only safetensors are read; or a network was trained on the
                latents of another VAE.
        """
        if kwargs.setdefault("use_safetensors", True) is not True:
            raise ValueError("use_safetensors must be True: pickled weights can run code, so they are not read.")
        name = os.fspath(pretrained_model_name_or_path)
        folder = find_folder(name)
        remote = folder is None
        if folder is None:
            options = {key: kwargs.pop(key) for key in _HUB_OPTIONS if key in kwargs}
            folder = Path(cls.download(name, variant=kwargs.get("variant"), **options))
        try:
            check_pipeline(folder, cls, kwargs, kwargs.get("variant"))
        except IntegrityError as error:
            if remote and error.file is not None:
                raise _forgotten(error, name) from error
            raise
        pipe = super().from_pretrained(str(folder), **kwargs)
        for component in pipe.components.values():
            if isinstance(component, ModelMixin) and all(component is not given for given in kwargs.values()):
                _copy_out(component)
        pipe.register_to_config(_name_or_path=name)
        for part in ("denoiser", "classifier") if pipe.vae is not None else ():
            if isinstance(network := getattr(pipe, part), ModelMixin):
                check_latents(network, pipe.vae, f"The {part} of {name!r}")
        return pipe

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Any:
        """A pipeline on the components and settings of another; see ``DiffusionPipeline.from_pipe`` for the options.

        The networks are shared, not copied, and brought to ``torch_dtype``, which is float32 where it is left out.
        ``kwargs`` are components and settings in place of the other's.
        """
        # diffusers takes over a network whose very class a type hint names; here any class will do, so all are given
        known = inspect.signature(cls.__init__).parameters
        components = {name: component for name, component in pipeline.components.items() if name in known}
        return super().from_pipe(pipeline, **components | kwargs)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Download a pipeline's JSON and safetensors files, and no code; see ``DiffusionPipeline.download``.

        Returns:
            The folder in the cache; all of its files are of one commit.
        """
        options = {name: kwargs[name] for name in _HUB_OPTIONS if kwargs.get(name) is not None}
        return _download(pretrained_model_name, kwargs.get("variant"), **options)

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """The pipeline's index; exported code is named as the installed classes, which take its place."""
        config = super().load_config(*args, **kwargs)
        return installed_names(config) if isinstance(config, dict) else config

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save to a folder, in safetensors only; see ``DiffusionPipeline.save_pretrained`` for the options.

        The folder is replaced as a whole: whoever reads it, after a crash too, finds the old pipeline or the new one.
        Files of it that are not the pipeline's stay. A manifest of SHA-256 sums is written, which loading compares.

        Raises:
            NotADirectoryError: ``save_directory`` is a file.
            TypeError: a component that cannot be saved, such as a ``CleanClassifierGuide``.
            ValueError: the components do not fit one another, so what is written would not load.
        """
        target = Path(save_directory).resolve()
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(f"save_directory {str(save_directory)!r} is a file; name a folder.")
        for name, part in self.components.items():
            if part is not None and not hasattr(part, "save_pretrained"):
                raise TypeError(
                    f"{name} is a {type(part).__name__}, which cannot be saved; register_modules({name}=None) leaves "
                    "it out, and it is made anew after loading."
                )
        check_fit(self.components, self.config.training_noise, self.id2label)  # what is saved will load
        if not safe_serialization:
            logger.warning("safe_serialization=False is not followed: weights are written as safetensors only.")
        hub_options = {name: kwargs.pop(name) for name in ("private", "token") if name in kwargs}
        commit_options = {name: kwargs.pop(name) for name in ("commit_message", "create_pr") if name in kwargs}
        repo_id = kwargs.pop("repo_id", target.name)
        if push_to_hub:
            repo_id = create_repo(repo_id, exist_ok=True, **hub_options).repo_id  # what fails, fails early
        with atomic_folder(target) as partial:
            super().save_pretrained(
                partial, safe_serialization=True, variant=variant, max_shard_size=max_shard_size, **kwargs
            )
            for file in partial.glob("**/config.json"):
                _forget_place(file)
            _forget_place(partial / "model_index.json")
            _keep_other_files(target, partial, variant)
        if push_to_hub:
            self.push_to_hub(repo_id, variant=variant, **hub_options, **commit_options)


# where ``DiffusionPipeline.from_pretrained`` looks for the class that a pipeline's folder names; it makes no checks
diffusers.ClassifierGuidedLatentPipeline = ClassifierGuidedLatentPipeline


def load_default(**options: Any) -> ClassifierGuidedLatentPipeline:
    """The pipeline that the package ships, trained on all of MNIST; the weights, stored in half precision, are widened.

    Args:
        options: of ``from_pretrained``, such as ``torch_dtype``.

    Returns:
        A ``ClassifierGuidedLatentPipeline``, in float32 where no type is given, on the CPU.
    """
    return ClassifierGuidedLatentPipeline.from_pretrained(str(DEFAULT_FOLDER), **options)


@torch.inference_mode(False)
def load_network(path: str | os.PathLike[str], component: str | None = None, **options: Any) -> ModelMixin:
    """Load a network of this package or of diffusers, in ``eval()`` mode, after the checks of ``strict.py``.

    Args:
        path: folder or Hub id of the network, or of a pipeline or a training that holds it under its name.
        component: the network's name in a pipeline, such as ``"vae"``; a network of another role is refused.
        options: passed to ``from_pretrained``, such as ``torch_dtype``, ``variant``, ``subfolder`` or ``revision``.

    Raises:
        FileNotFoundError: the path is neither a folder nor a Hub id.
        IntegrityError: a file is missing, damaged or does not fit the others, or the network's class is not known;
            the message names it.
        ValueError: the network has another role than ``component``.
    """
    variant = options.get("variant")
    root = fetched(path, variant, **{name: options.pop(name) for name in _HUB_OPTIONS if name in options})
    subfolder = options.pop("subfolder", None)
    if component is not None and ((root / "model_index.json").is_file() or (root / component).is_dir()):
        subfolder = component
    folder = root / (subfolder or "")
    config = folder / "config.json"
    class_name = str(read_json(config).get("_class_name"))
    library = PACKAGE if hasattr(sys.modules[PACKAGE], class_name) else "diffusers"
    network_class = known_class(config, "the network", [library, class_name])
    files = weight_files(folder, variant)
    check_listed(root, [config, *files])
    network = check_network(folder, network_class, variant)
    if component is not None:
        check_role(component, network, f"{component} {os.fspath(path)!r}")
    if variant and f".{variant}" not in files[0].name:
        options.pop("variant")  # this network has none, as in a pipeline where only some have
    return _copy_out(network_class.from_pretrained(folder, use_safetensors=True, **options))


def fetched(path: str | os.PathLike[str], variant: str | None = None, **hub_options: Any) -> Path:
    """The folder of that name, or the copy in the cache of what the Hub has under it; see :func:`load_network`."""
    return find_folder(path) or Path(_download(os.fspath(path), variant, **hub_options))


def _copy_out(network: ModelMixin) -> ModelMixin:
    """The network, its weights copied out of the mapped file: how they lie in memory chooses the kernels."""
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.clone()
    return network


def _download(repo_id: str, variant: str | None = None, **options: Any) -> str:
    """The folder of JSON and safetensors files of one commit of a Hub repository, also those of ``variant``.

    A download that was interrupted is a ConnectionError, what is not there, nor in the cache, an OSError.
    """
    patterns = ["*.json", "*.safetensors"] if variant else ["*.json", "*model.safetensors", "*-of-?????.safetensors"]
    try:
        with quiet_transport():
            return snapshot_download(repo_id, allow_patterns=patterns, **options)
    except LocalEntryNotFoundError as error:
        raise LocalEntryNotFoundError(f"{repo_id!r} {is_nowhere(error)}; give a folder or another Hub id.") from error
    except (OSError, ValueError):
        raise  # of huggingface_hub, which names the repository and the revision
    except Exception as error:  # of its HTTP library, which changes between versions
        with contextlib.suppress(LocalEntryNotFoundError):
            cached = snapshot_download(repo_id, allow_patterns=patterns, **{**options, "local_files_only": True})
            logger.warning("The Hub cannot be reached (%s); the copy of %r in the cache is used.", error, repo_id)
            return cached
        raise ConnectionError(
            f"The download of {repo_id!r} from the Hub was interrupted ({type(error).__name__}: {error}). Nothing "
            "unfinished is used; run it again, and it goes on where it stopped."
        ) from error


def _forgotten(error: IntegrityError, repo_id: str) -> IntegrityError:
    """The same error, once the damaged file is gone from the Hub cache, so that the next load fetches it anew."""
    file = error.file
    if file is not None and (file.is_symlink() or file.is_file()):
        blob = file.resolve()
        file.unlink()
        if blob != file:
            blob.unlink(missing_ok=True)
    return IntegrityError(f"{error.message} This copy of {repo_id!r} was removed from the cache; load it again.", file)


def _forget_place(file: Path) -> None:
    """What is shared does not say in which folder of a machine it was made."""
    settings = read_json(file)
    if name := settings.get("_name_or_path"):
        text = json.dumps(settings | {"_name_or_path": public_name(name)}, indent=2, sort_keys=True)
        file.write_text(text + "\n", encoding="utf-8")


def _keep_other_files(old: Path, new: Path, variant: str | None) -> None:
    """List the new pipeline in its manifest, and take over what else the old folder held.

    Stale weights of the variant that is written anew stay behind; other variants stay, and stay listed.
    """
    written = {file.relative_to(new).as_posix() for file in new.rglob("*") if file.is_file()}
    present = {file.relative_to(old).as_posix() for file in old.rglob("*") if file.is_symlink() or file.is_file()}
    others = [name for name in present - written - {MANIFEST} if not _is_stale(name, written, variant)]
    known: dict[str, str] = {}
    with contextlib.suppress(IntegrityError):  # a damaged old manifest has nothing to say about the new folder
        known = {name: sum for name, sum in (read_manifest(old) or {}).items() if name in others}
    write_manifest(new, sorted(written), known)
    for name in others:
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(old / name, new / name, follow_symlinks=False)
        except OSError:  # a file system without links
            shutil.copy2(old / name, new / name, follow_symlinks=False)
    if old.is_dir():
        shutil.copymode(old, new)


def _is_stale(name: str, written: set[str], variant: str | None) -> bool:
    """Whether a file holds weights that the component has written anew in other files."""
    folder, _, file = name.rpartition("/")
    middle = re.escape(f".{variant}") if variant else ""
    pattern = rf"diffusion_pytorch_model({middle}(-\d+-of-\d+)?\.\w+|\.\w+\.index{middle}\.json)"
    replaced = bool(folder) and any(other.startswith(f"{folder}/") for other in written)
    return replaced and re.fullmatch(pattern, file) is not None
