"""The rooms of the package stand in one order, and what a module imports is in its own room or in one below."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import equiformer_pytorch

PACKAGE = Path(equiformer_pytorch.__file__).parent
NAME = "equiformer_pytorch"
WORK = ("base", "so3", "graph", "ops", "layers", "inputs", "published", "models", "atoms")
ROOMS = (*WORK, "clients", "training", "cli")
# Doors at the top: what they may look into is what is below the room that they open.
DOORS = {
    "__init__": "cli",
    "version": "base",
    "irr_repr": "graph",
    "utils": "graph",
    "equiformer_pytorch": "atoms",
    "testing": "training",
    # How old pickles become today's models, which hand themselves over; and the names under which they look.
    "legacy.modules": "so3",
    "legacy.paths": "training",
}
# Named by anything: a version, and what models of today ask of old pickles.
ANYWHERE = {"version", "legacy.modules", "irr_repr"}


def place(module: str) -> str:
    """The room or the door of a module, by its name within the package."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "legacy" else parts[0]


def height(name: str) -> int:
    return ROOMS.index(DOORS.get(name, name))


def imported(source: str, here: str) -> Iterator[str]:
    """Modules of the package that a source imports, for type checkers, too; it is of the module `here`."""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{here} has a relative import"
            names = [node.module or ""]
            if node.module == NAME:
                names = [f"{NAME}.{alias.name}" for alias in node.names]
        for name in names:
            if name == NAME or name.startswith(f"{NAME}."):
                yield name[len(NAME) + 1 :]


def up(source: str, here: str) -> list[str]:
    """What a module imports from above; names that are not modules are those of the package itself."""
    modules = [module for module in imported(source, here) if module not in equiformer_pytorch.__all__]
    found = [
        module
        for module in modules
        if place(module) not in ANYWHERE
        and place(module) != place(here)
        and (height(place(module)) >= height(place(here)) if place(module) in ROOMS else True)
    ]
    # The package's own names stand above all rooms but the programs.
    named = [module for module in imported(source, here) if module in equiformer_pytorch.__all__]
    return found + [module for module in named if place(here) not in ("training", "cli", "testing")]


SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def test_every_room_has_its_place():
    places = {place(module) for module in SOURCES} - {"legacy"}
    assert places == {*ROOMS, *DOORS}


@pytest.mark.parametrize("module", [module for module in SOURCES if module != "legacy"])
def test_arrows_go_down(module):
    assert up(SOURCES[module].read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        ("graph.edges", "from equiformer_pytorch.layers.conv import Convolution", ["layers.conv"]),
        ("graph.edges", "import equiformer_pytorch.ops.pieces", ["ops.pieces"]),
        ("layers.conv", "from equiformer_pytorch.ops.rotate import rotate_in", []),
        ("layers.conv", "from equiformer_pytorch.layers.attention import base", []),
        ("models.equiformer", "from equiformer_pytorch import EquiformerV2", ["EquiformerV2"]),
        ("base.checks", "from equiformer_pytorch.utils import cast_tuple", ["utils"]),
        ("atoms.load", "def f():\n    from equiformer_pytorch.training.loop import train", ["training.loop"]),
    ],
)
def test_an_arrow_up_is_found(module, line, found):
    assert up(line, module) == found


def test_plots_leave_matplotlib_to_the_user():
    """pyplot has one backend for a process, and a notebook has chosen it."""
    files = [*SOURCES.values(), *(Path(__file__).parents[1] / "examples").rglob("*.py")]
    found = [path.name for path in files if re.search(r"pyplot|matplotlib\.use", path.read_text("utf-8"))]
    assert found == []
