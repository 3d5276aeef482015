"""The model card: the template ``model_card.md`` filled with what a pipeline's folder holds.

The template is Jinja: ``card_data`` is the front matter, made by huggingface_hub's card classes; ``import_name`` and
``load_line`` are the example's; ``picture`` says whether ``samples.png`` lies beside the card; ``networks`` lists
``(part, class, parameters)``; ``alone`` says whether by default only the classifier has the label; ``recipes`` holds
the training settings of each network that has them. What was measured stands between markers, which
:func:`mnist_guided_pipeline.evaluation.tables.render_document` fills as in any document.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

PICTURE = "samples.png"
"""The picture beside the card, such as ``mnist-guided generate`` writes."""

_RESULTS = {
    "accuracy": "accuracy of the wanted class, by the judge",
    "judge_fid": "Frechet distance in the judge's features",
    "judge_precision": "precision in the judge's features",
    "judge_recall": "recall in the judge's features",
    "judge_coverage": "coverage in the judge's features",
    "classification_accuracy_score": "accuracy on real images of a classifier trained on generated ones",
}


def render_model_card(
    pipeline_folder: str | os.PathLike[str],
    record: dict[str, Any],
    repo_id: str | None = None,
) -> str:
    """Fill the template for one pipeline; the markers of what was measured stay as they are.

    The ``train_config.json`` beside a network's weights gives its training recipe, ``record``, as ``mnist-guided
    evaluate`` files it, the front matter. The card's example loads ``repo_id``, a Hub id or a folder, or the shipped
    default.

    Returns:
        The card: valid front matter, and a Markdown body without a placeholder left.

    Raises:
        FileNotFoundError: the folder holds no pipeline.
    """
    from huggingface_hub import ModelCardData
    from jinja2 import Environment, StrictUndefined

    folder = Path(pipeline_folder)
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(f"{str(folder)!r} has no model_index.json: it is not the folder of a pipeline.")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    dataset = record["dataset"]["name"]
    data = ModelCardData(
        license="apache-2.0",
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        tags=["diffusers", "mnist", "classifier-guidance", "latent-diffusion", "class-conditional-image-generation"],
        datasets=[dataset] if "/" in dataset else None,
        metrics=[name for name in _RESULTS if name in record["figures"]],
        model_name="mnist-guided-pipeline",
        eval_results=_eval_results(record["figures"], dataset),
    )
    pipeline_class = "ClassifierGuidedLatentPipeline"
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    package = Path(__file__).parents[1]
    places = (package / "model_card.md", package.parents[1] / "model_card.md")  # installed, and in a checkout
    template = next(place for place in places if place.is_file())
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        card_data=data.to_yaml(),
        import_name="load_default" if repo_id is None else pipeline_class,
        load_line="load_default()" if repo_id is None else f'{pipeline_class}.from_pretrained("{repo_id}")',
        picture=(folder / PICTURE).is_file(),
        networks=_networks(folder, index),
        alone=index.get("sampling_defaults", {}).get("cfg_scale") == 0.0,
        recipes=_recipes(folder),
    )


def _eval_results(figures: dict[str, Any], dataset: str) -> list[Any]:
    """The run's figures for ``model-index``."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="unconditional-image-generation",
            task_name="class-conditional image generation",
            dataset_type=dataset,
            dataset_name=dataset.rpartition("/")[2],
            dataset_split="test",
            metric_type=name,
            metric_name=description,
            metric_value=figures[name]["value"],
        )
        for name, description in _RESULTS.items()
        if name in figures
    ]


def _networks(folder: Path, index: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Part, class and number of parameters of each network."""
    from safetensors import safe_open

    networks = []
    for name in ("vae", "denoiser", "classifier", "weak_denoiser"):
        if index.get(name, [None])[0] is None:
            continue
        count = 0
        for file in sorted((folder / name).glob("*.safetensors")):
            with safe_open(file, "pt") as weights:
                count += sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())
        networks.append((name, index[name][1], count))
    return networks


def _recipes(folder: Path) -> dict[str, dict[str, Any]]:
    """The settings of each training that left them beside the weights."""
    files: dict[str, Path] = {}
    for name, trained_on in (("vae", "decoder"), ("denoiser", "pair"), ("classifier", "pair")):
        last, first = (folder / name / file for file in ("train_config.json", f"{name}_train_config.json"))
        files |= {name: first, trained_on: last} if first.is_file() else {name: last}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}
