"""What the docstrings say of arguments and attributes is what there is, name by name and in order."""

import dataclasses
import importlib
import inspect
import pkgutil
import re

import pytest

import mnist_guided_pipeline as mgp

NEEDS_AN_EXTRA = {"gradio", "matplotlib", "sklearn", "imageio", "scipy", "torchmetrics"}


def public_objects():
    """``(name, object)`` of everything in the ``__all__`` of a module of the package, and of its public methods."""
    found = {}
    for info in pkgutil.walk_packages(mgp.__path__, "mnist_guided_pipeline."):
        if info.name.endswith("__main__"):
            continue
        try:
            module = importlib.import_module(info.name)
        except ModuleNotFoundError as error:
            assert error.name.partition(".")[0] in NEEDS_AN_EXTRA, error
            continue
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if not (inspect.isclass(thing) or inspect.isfunction(thing)) or thing.__module__ != info.name:
                continue
            found[f"{info.name}.{name}"] = thing
            for member, value in vars(thing).items() if inspect.isclass(thing) else ():
                value = inspect.unwrap(getattr(value, "__func__", value))
                if inspect.isfunction(value) and (member == "__call__" or not member.startswith("_")):
                    found[f"{info.name}.{name}.{member}"] = value
    return found


OBJECTS = public_objects()


def section(docstring: str, title: str) -> list[str] | None:
    """The names that a section of a Google docstring explains; None without the section."""
    match = re.search(rf"^{title}:\n((?:    .*\n|\n)*)", inspect.cleandoc(docstring) + "\n", re.MULTILINE)
    return None if match is None else re.findall(r"^    \*{0,2}(\w+)(?: \(.*\))?:", match[1], re.MULTILINE)


def parameters(thing) -> list[str]:
    return [name for name in inspect.signature(thing).parameters if name not in ("self", "cls")]


def test_the_parser_reads_a_section():
    text = "One line.\n\nArgs:\n    a: one\n        of two lines: here.\n    b: two.\n\nRaises:\n    E: d.\n"
    assert section(text, "Args") == ["a", "b"]
    assert section(text, "Raises") == ["E"] and section(text, "Returns") is None


def test_there_is_something_to_check():
    assert len(OBJECTS) > 250
    assert sum(section(thing.__doc__ or "", "Args") is not None for thing in OBJECTS.values()) > 80


@pytest.mark.parametrize("name", OBJECTS)
def test_a_docstring_tells_of_what_there_is(name):
    thing = OBJECTS[name]
    overrides = any(name.rpartition(".")[2] in vars(base) for base in getattr(thing, "__mro__", ())[1:])
    assert thing.__doc__ or overrides, "has no docstring"
    told, attributes = section(thing.__doc__, "Args"), section(thing.__doc__, "Attributes")
    if told is not None:
        assert told == parameters(thing)
    if inspect.isclass(thing) and attributes is not None:
        if dataclasses.is_dataclass(thing):
            assert attributes == [field.name for field in dataclasses.fields(thing)]
        elif hasattr(thing, "_fields"):
            assert attributes == list(thing._fields)
