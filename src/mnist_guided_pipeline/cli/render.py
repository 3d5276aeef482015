"""``mnist-guided render``: tables and model cards from measurements."""

from __future__ import annotations

from pathlib import Path

from .options import check_model

__all__ = ["render"]


def render(
    documents: tuple[Path, ...] = (),
    metrics: Path | None = None,
    card: Path | None = None,
    repo_id: str | None = None,
    check: bool = False,
) -> None:
    """Fill the tables of Markdown files, and write a pipeline's model card, from measurements.

    Example: mnist-guided render --documents README.md --card runs/pipeline --metrics metrics.json

    Args:
        documents: Markdown files with markers, rewritten in place.
        metrics: File that evaluate wrote; the one shipped with the package if left out.
        card: Folder of a pipeline, whose README.md becomes its model card.
        repo_id: Hub id that the card's example loads.
        check: Change nothing; end with an error where a file is stale.
    """
    from ..evaluation.records import read_runs
    from ..evaluation.tables import render_document
    from ..storage.atomic import atomic_write
    from ..storage.card import render_model_card, write_model_card
    from ..weights import METRICS_FILE

    metrics = metrics or METRICS_FILE
    for option, file in (("metrics", metrics), *(("documents", file) for file in documents)):
        if not file.is_file():
            raise FileNotFoundError(f"--{option}: there is no file {str(file)!r}.")
    if card is not None:
        check_model(str(card))
    runs = read_runs(metrics)
    rendered = {file: render_document(file.read_text(), runs) for file in documents}
    if card is not None:
        rendered[card / "README.md"] = render_model_card(card, runs, repo_id)
    stale = [file for file, text in rendered.items() if not file.is_file() or file.read_text() != text]
    if check and stale:
        raise ValueError(f"{', '.join(map(str, stale))}: not what {metrics} says; run this without --check.")
    for file in stale:
        if card is not None and file == card / "README.md":
            write_model_card(card, rendered[file])
        else:
            atomic_write(file, rendered[file])
    print(f"{len(stale)} of {len(rendered)} files rendered anew from {metrics}.")
