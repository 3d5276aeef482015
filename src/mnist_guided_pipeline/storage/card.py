"""The model card: a template filled with what was measured and what the folder holds.

``model_card.md`` is a Jinja template. Its front matter is made by huggingface_hub's card classes, its tables by
``evaluation/report.py``; it may use ``view(name, view)`` and ``has(name)`` for runs of ``metrics.json``, ``load_line``
and ``import_name`` for the example, and ``networks`` and ``recipe``, tables of what is in the pipeline's folder.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from ..evaluation.tables import find_runs, markdown_table, render_view
from .atomic import atomic_write, read_manifest, verify_manifest, write_manifest

__all__ = ["CARD_RUN", "find_template", "render_model_card", "write_model_card"]

CARD_RUN = "default"
"""The run of ``metrics.json`` that the card's front matter reports."""

_RESULTS = {
    "accuracy": "accuracy of the wanted class, by the judge",
    "judge_fid": "Frechet distance in the judge's features",
    "judge_kid": "kernel distance in the judge's features",
    "judge_precision": "precision in the judge's features",
    "judge_recall": "recall in the judge's features",
    "judge_density": "density in the judge's features",
    "judge_coverage": "coverage in the judge's features",
    "classification_accuracy_score": "accuracy on real images of a classifier trained on generated ones",
}
_RECIPE = (
    *("network", "network_config", "num_train_epochs", "max_train_steps", "train_batch_size"),
    *("gradient_accumulation_steps", "learning_rate", "lr_scheduler", "lr_warmup_steps"),
    *("max_grad_norm", "use_ema", "ema_decay"),
    *("reconstruction", "kl_weight", "reconstruction_weight", "r1_gamma", "beta_schedule", "num_train_timesteps"),
    *(
        "prediction_type",
        "label_dropout",
        "snr_gamma",
        "score_matching_weight",
        "random_label_share",
        "mixed_precision",
        "seed",
    ),
)


def render_model_card(
    pipeline_folder: str | os.PathLike[str],
    metrics: dict[str, dict[str, Any]],
    repo_id: str | None = None,
    template: str | os.PathLike[str] | None = None,
) -> str:
    """Fill the template for one pipeline.

    Args:
        pipeline_folder: what ``save_pretrained`` wrote; a ``train_config.json`` beside a network's weights gives its
            training recipe.
        metrics: runs by name, as ``evaluation.records.read_runs`` reads them; the run or group ``default`` is needed.
        repo_id: Hub id, or a folder, that the card's example loads; the shipped default if None.
        template: another Jinja template.

    Returns:
        The card: valid front matter, and a Markdown body without a placeholder left.

    Raises:
        FileNotFoundError: the folder holds no pipeline, or there is no template.
        ValueError: a run is missing, the template asks for something unknown, or the card is not valid.
    """
    from huggingface_hub import ModelCardData
    from jinja2 import Environment, StrictUndefined, TemplateError

    folder = Path(pipeline_folder)
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(f"{str(folder)!r} has no model_index.json: it is not the folder of a pipeline.")
    record = next(iter(find_runs(metrics, CARD_RUN).values()))
    dataset = record["dataset"]["name"]
    data = ModelCardData(
        license="apache-2.0",
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        tags=["diffusers", "mnist", "classifier-guidance", "latent-diffusion", "class-conditional-image-generation"],
        datasets=[dataset] if "/" in dataset else None,
        metrics=[name for name in _RESULTS if name in record["figures"]],
        model_name="mnist-guided-pipeline",
        eval_results=_eval_results(record, dataset),
    )
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    try:
        text = environment.from_string(Path(template or find_template()).read_text()).render(
            card_data=data.to_yaml(),
            view=lambda name, view="table": render_view(metrics, name, view),
            has=lambda name: any(key == name or key.startswith(f"{name}/") for key in metrics),
            import_name="load_default" if repo_id is None else "ClassifierGuidedLatentPipeline",
            load_line="load_default()"
            if repo_id is None
            else f'ClassifierGuidedLatentPipeline.from_pretrained("{repo_id}")',
            networks=_networks(folder),
            recipe=_recipe(folder),
        )
    except TemplateError as error:
        raise ValueError(f"The template of the model card cannot be filled: {error}") from error
    _validate(text, data)
    return text


def write_model_card(pipeline_folder: str | os.PathLike[str], text: str) -> None:
    """Write the card as the folder's ``README.md``; a manifest is checked before it takes in the new sum.

    Raises:
        IntegrityError: a file of the folder is damaged.
    """
    folder = Path(pipeline_folder)
    card = folder / "README.md"
    listed = read_manifest(folder)
    if listed is not None:
        verify_manifest(folder, [name for name in listed if name != card.name])
    atomic_write(card, text)
    if listed is not None:
        write_manifest(folder, [card.name], {name: sum for name, sum in listed.items() if name != card.name})


def find_template() -> Path:
    """The template inside an installed package, or at the root of a checkout.

    Raises:
        FileNotFoundError: it is at neither place.
    """
    places = (Path(__file__).parents[1] / "model_card.md", Path(__file__).parents[3] / "model_card.md")
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"There is no template of the model card at {' or '.join(map(str, places))}.")


def _eval_results(record: dict[str, Any], dataset: str) -> list[Any]:
    """The run's figures for ``model-index``."""
    from huggingface_hub import EvalResult

    settings = {name: value for name, value in record["settings"].items() if value is not None}
    return [
        EvalResult(
            task_type="unconditional-image-generation",
            task_name="class-conditional image generation",
            dataset_type=dataset,
            dataset_name=dataset.rpartition("/")[2],
            dataset_split="test",
            metric_type=name,
            metric_name=description,
            metric_value=record["figures"][name]["value"],
            metric_args=settings,
        )
        for name, description in _RESULTS.items()
        if name in record["figures"]
    ]


def _networks(folder: Path) -> str:
    """A row a network: its class and its number of parameters."""
    from safetensors import safe_open

    index = json.loads((folder / "model_index.json").read_text())
    rows = [["part", "class", "parameters"]]
    for name in ("vae", "denoiser", "classifier", "weak_denoiser"):
        if index.get(name, [None])[0] is None:
            continue
        count = 0
        for file in sorted((folder / name).glob("*.safetensors")):
            with safe_open(file, "pt") as weights:
                count += sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())
        rows.append([name, index[name][1], f"{count:,}"])
    rows.append(["scheduler", index["scheduler"][1], ""])
    return markdown_table(rows, text_columns=2)


def _recipe(folder: Path) -> str:
    """A row a setting, a column a training that left its settings beside the weights; empty where none has."""
    files = {name: folder / name / "train_config.json" for name in ("vae", "denoiser", "classifier")}
    if (first := folder / "vae" / "vae_train_config.json").is_file():  # then the decoder was sharpened
        files = {"vae": first, "decoder": files.pop("vae"), **files}
    configs = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
    if not configs:
        return ""
    rows = [["setting", *configs]]
    for setting in _RECIPE:
        values = ["" if config.get(setting) is None else str(config[setting]) for config in configs.values()]
        if any(values):
            rows.append([setting, *values])
    return markdown_table(rows, text_columns=len(rows[0]))


def _validate(text: str, data: Any) -> None:
    """Read the card back as the Hub does, as far as that goes without a network."""
    from huggingface_hub import ModelCard

    read = ModelCard(text).data
    if read.to_dict() != data.to_dict():
        raise ValueError("The front matter of the model card does not come back as it was written: check the template.")
    if "license" not in read or not read.get("eval_results"):
        raise ValueError("The model card lacks its front matter: the template must begin with it.")
