"""``mnist-guided render``: documents and model cards from measurements."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["render"]


def render(
    documents: tuple[Path, ...] = (),
    card: Path | None = None,
    repo_id: str | None = None,
    metrics: Path = Path("training/results/metrics.json"),
    check: bool = False,
) -> None:
    """Fill the tables of Markdown files, and write a pipeline's model card, from measurements.

    Without --documents and --card, in a checkout: README.md, training/RESULTS.md, the card of the shipped pipeline and
    the record that is shipped with it.

    Example: mnist-guided render --card runs/pipeline --metrics metrics.json

    Args:
        documents: Markdown files with markers, rewritten in place.
        card: Folder of a pipeline, whose README.md becomes its model card, by the run "default" of the metrics.
        repo_id: Hub id that the card's example loads.
        metrics: File that evaluate wrote.
        check: Change nothing; end with an error where a file is stale.
    """
    from ..evaluation.records import read_runs
    from ..evaluation.tables import find_runs, render_document
    from ..storage.atomic import atomic_write, write_listed
    from ..storage.card import render_model_card
    from ..weights import DEFAULT_FOLDER, METRICS_FILE

    own = not documents and card is None
    if own:
        documents, card = (Path("README.md"), Path("training/RESULTS.md")), DEFAULT_FOLDER
    for option, file in (("metrics", metrics), *(("documents", file) for file in documents)):
        if not file.is_file():
            raise FileNotFoundError(f"--{option}: there is no file {str(file)!r}.")
    runs = read_runs(metrics)
    rendered = {file: render_document(file.read_text(), runs) for file in documents}
    if own:
        rendered[METRICS_FILE] = json.dumps({"runs": find_runs(runs, "default")}, indent=1) + "\n"
    if card is not None:
        text = render_model_card(card, find_runs(runs, "default")["default"], repo_id)
        rendered[card / "README.md"] = render_document(text, runs)
    stale = [file for file, text in rendered.items() if not file.is_file() or file.read_text() != text]
    if check and stale:
        raise ValueError(f"{', '.join(map(str, stale))}: not what {metrics} says; run this without --check.")
    for file in stale:
        if card is not None and file == card / "README.md":
            write_listed(card, {file.name: rendered[file]})
        else:
            atomic_write(file, rendered[file])
    print(f"{len(stale)} of {len(rendered)} files rendered anew from {metrics}.")
