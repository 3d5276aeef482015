"""``mnist-guided push``: a folder to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

__all__ = ["push"]


def push(
    folder: Positional[Path],
    repo_id: Positional[str],
    private: bool = False,
    revision: str | None = None,
    commit_message: str = "Upload model",
) -> None:
    """Upload a pipeline, or a network that a training script made, to the Hugging Face Hub.

    Example: mnist-guided push runs/pipeline user/digits --private

    Only the model goes: weights, configs, train_config.json, metrics.json, the card and pictures; no checkpoints, no
    logs. The token is the one that hf auth login saved, or HF_TOKEN.

    Args:
        folder: Folder of the pipeline or network.
        repo_id: Hub id such as user/digits; the repository is made where there is none.
        private: Make a new repository private.
        revision: Branch to commit to, made where there is none; main if left out.
        commit_message: Message of the commit.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")

    from ..storage.push import push_folder

    print(push_folder(folder, repo_id, private, revision, commit_message=commit_message))
