"""Law: imports between the rooms of the package go down only."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import mnist_guided_pipeline as mgp

PACKAGE = Path(mgp.__file__).parent
FLOORS = (
    {"seeding", "weights"},
    {"models", "sampling"},
    {"data"},
    {"storage"},
    {"training"},
    {"evaluation"},
    {"figures", "benchmarks"},
    {"demo"},
    {"cli"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of all that a file imports, anywhere in it."""
    package = (PACKAGE.name, *file.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, str(node.module)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            if node.module:
                yield node.lineno, ".".join((*base, node.module))
            else:
                yield from ((node.lineno, ".".join((*base, alias.name))) for alias in node.names)


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file.name not in ("__init__.py", "__main__.py")]
FILES += [file for file in sorted(PACKAGE.rglob("__init__.py")) if file.parent != PACKAGE]


def test_every_file_is_in_a_room():
    assert {room_of(file) for file in FILES} == FLOOR_OF.keys()


def test_imports_go_down_only():
    upwards = []
    for file in FILES:
        room = room_of(file)
        for line, name in imports(file):
            if name.partition(".")[0] != PACKAGE.name:
                continue
            other = name.split(".")[1] if "." in name else "the package itself"
            if other != room and FLOOR_OF.get(other, len(FLOORS)) >= FLOOR_OF[room]:
                upwards.append(f"{file.relative_to(PACKAGE)}:{line} imports {other}")
    assert not upwards, "\n".join(upwards)


def test_the_sampler_and_the_networks_know_torch_and_diffusers_only():
    known = {"torch", "diffusers", PACKAGE.name, *sys.stdlib_module_names}
    for file in FILES:
        if room_of(file) in ("sampling", "models"):
            foreign = [name for _, name in imports(file) if name.partition(".")[0] not in known]
            assert not foreign, (file.name, foreign)
