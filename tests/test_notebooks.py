"""Every notebook runs from the first cell to the last on small settings; what is stored of it is light and clean."""

import ast
import re

import nbformat
import pytest

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

from run_notebooks import NOTEBOOKS, run_notebook  # noqa: E402

SECONDS = {
    "autoencoders": 600,
    "classifier_guidance": 600,
    "diffusion_in_2d": 600,
    "guide_your_own": 300,
}  # some 20 of processor time each
MAX_BYTES = 400_000
MACHINE = re.compile(r"(?<![\w./])/(?:work|tmp|home|root|Users|usr|opt|var|mnt)\b")


def load(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code_of(notebook):
    """The code cells' Python, without the magics."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return ["\n".join(line for line in cell.splitlines() if not line.startswith("%")) for cell in cells]


def test_all_notebooks_are_tested():
    assert {file.stem for file in NOTEBOOKS.glob("*.ipynb")} == set(SECONDS)


@pytest.mark.parametrize("name", sorted(SECONDS))
def test_runs(name, digits_folder):
    run_notebook(NOTEBOOKS / f"{name}.ipynb", SECONDS[name], QUICK="1", MNIST_DATASET=str(digits_folder))


@pytest.mark.parametrize("name", sorted(SECONDS))
def test_defines_no_models(name):
    """Networks, losses and loops are the package's: no classes at all, and only short helpers."""
    trees = [ast.parse(code) for code in code_of(load(name))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    assert not [node.name for node in nodes if isinstance(node, ast.ClassDef)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    assert all(node.end_lineno - node.lineno < 20 for node in functions)
    calls = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not calls & {"backward", "zero_grad"}


@pytest.mark.parametrize("name", sorted(SECONDS))
def test_stored_outputs(name):
    """Run in order, without an error or a warning, light, and saying nothing of the machine."""
    notebook = load(name)
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size < MAX_BYTES
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert notebook.metadata.kernelspec.name == "python3"
    assert not any(cell.metadata for cell in notebook.cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    assert all(output.output_type != "error" for output in outputs)
    assert all(output.get("name") != "stderr" for output in outputs)
    texts = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs]
    texts += [cell.source for cell in notebook.cells]
    assert not [text for text in texts if MACHINE.search(text)]
    assert not [text for text in texts if "Warning" in text or "it/s" in text]
