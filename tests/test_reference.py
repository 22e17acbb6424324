"""The reference names everything public, what it names is there, each has a docstring, which says what every argument
is; pictures are up to date."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("accelerate", reason="needs the extra train")
pytest.importorskip("ase", reason="needs the extra atoms")

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
PUBLIC = ("equiformer_pytorch", *(f"equiformer_pytorch.{room}" for room in ("atoms", "training", "testing")))
# Modules that are shown whole, with what is public in them.
WHOLE = [name for page in PAGES for name in re.findall(r"automodule:: (\S+)", page.read_text(encoding="utf-8"))]
ROOMS = ("so3", "ops", "layers")

pytestmark = pytest.mark.skipif(not PAGES, reason="an installed package has no pages beside its tests")


def named() -> list[str]:
    """Full names that pages list one by one."""
    found = []
    for page in PAGES:
        module = ""
        for kind, name in re.findall(r"\.\. (\w+):: (\S+)", page.read_text(encoding="utf-8")):
            if kind in ("module", "currentmodule"):
                module = name
            elif kind in ("autoclass", "autofunction", "data", "autoexception"):
                found.append(name if name.startswith("equiformer_pytorch.") else f"{module}.{name}")
    return found


def test_all_public_names_are_listed() -> None:
    public = {f"{module}.{name}" for module in PUBLIC for name in importlib.import_module(module).__all__}
    # Of both: it is where those look who read of models, or of potentials.
    public.discard("equiformer_pytorch.EquiformerPotential")
    assert public <= set(named())


def test_whole_rooms_are_listed() -> None:
    package = Path(importlib.import_module("equiformer_pytorch").__file__ or "").parent
    modules = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for room in ROOMS
        for path in (package / room).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert modules <= set(WHOLE)


def documented(thing: object, name: str) -> list[str]:
    """Names without a docstring: of a class or function, and of the public methods that it has of its own."""
    missing = [] if inspect.getdoc(thing) else [name]
    if inspect.isclass(thing):
        # Not what torch says of any forward.
        ours = [base for base in thing.__mro__ if base.__module__.startswith("equiformer_pytorch")]
        for key, member in vars(thing).items():
            function = inspect.unwrap(getattr(member, "__func__", getattr(member, "fget", member)))
            said = any(vars(base)[key].__doc__ for base in ours if key in vars(base))
            if inspect.isfunction(function) and not key.startswith("_") and not said:
                missing.append(f"{name}.{key}")
    return missing


@pytest.mark.parametrize("name", [name for name in named() if ".clients." not in name and "__version__" not in name])
def test_docstring(name: str) -> None:
    module, _, last = name.rpartition(".")
    assert documented(getattr(importlib.import_module(module), last), name) == []


def public_things(module: ModuleType) -> dict[str, Any]:
    """Classes and functions that a module itself has, by name."""
    return {
        key: thing
        for key, thing in vars(module).items()
        if not key.startswith("_") and getattr(thing, "__module__", None) == module.__name__ and callable(thing)
    }


@pytest.mark.parametrize("name", WHOLE)
def test_docstrings_of_a_module(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    things = public_things(module)
    assert [missing for key, thing in things.items() for missing in documented(thing, key)] == []


def ours(thing: type, key: str) -> bool:
    """Whether a method is this package's own: of ASE's, torch's and others, these say what the arguments are."""
    others = [base for base in thing.__mro__[1:] if not base.__module__.startswith("equiformer_pytorch")]
    return not any(key in vars(base) for base in others)


def said_of_fields(thing: type) -> str:
    """The docstring of a class, and the names of its fields that have one of their own below them."""
    body = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    assert isinstance(body, ast.ClassDef)
    fields = [
        field.target.id
        for field, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    ]
    return " ".join([inspect.getdoc(thing) or "", *fields])


def calls(thing: object, name: str) -> Iterator[tuple[str, inspect.Signature, str]]:
    """Whatever can be called, of a function or a class and its public methods: name, arguments, and what is said."""
    if not inspect.isclass(thing):
        yield name, inspect.signature(thing), inspect.getdoc(thing) or ""  # pyright: ignore[reportArgumentType]
        return
    if not issubclass(thing, Exception):
        yield name, inspect.signature(thing), said_of_fields(thing)
    for key in vars(thing):
        member = getattr(thing, key)
        if callable(member) and not key.startswith("_") and not inspect.isclass(member) and ours(thing, key):
            yield f"{name}.{key}", inspect.signature(member), inspect.getdoc(member) or ""


def unexplained(thing: object, name: str) -> list[str]:
    """Arguments that no docstring speaks of."""
    missing = []
    for what, signature, text in calls(thing, name):
        for argument, parameter in signature.parameters.items():
            collects = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            if argument != "self" and not collects and not re.search(rf"\b{argument}\b", text):
                missing.append(f"{what}: {argument}")
    return missing


@pytest.mark.parametrize("name", [name for name in named() if ".clients." not in name and "__version__" not in name])
def test_arguments_are_explained(name: str) -> None:
    module, _, last = name.rpartition(".")
    assert unexplained(getattr(importlib.import_module(module), last), name) == []


@pytest.mark.parametrize("name", [name for name in WHOLE if ".layers." in name])
def test_arguments_of_layers_are_explained(name: str) -> None:
    things = public_things(importlib.import_module(name)).values()
    layers = [thing for thing in things if inspect.isclass(thing) and issubclass(thing, torch.nn.Module)]
    found = [line for layer in layers for line in unexplained(layer, layer.__name__)]
    assert [line for line in found if "." not in line] == []  # of methods, annotations say enough


def test_an_unexplained_argument_is_found() -> None:
    def scaled(x: float, factor: float) -> float:
        """`x` times something."""
        return x * factor

    assert unexplained(scaled, "scaled") == ["scaled: factor"]


def test_rooms_are_drawn_as_they_are() -> None:
    from docs.draw_rooms import PACKAGE, PICTURE, picture
    from docs.draw_rooms import ROOMS as DRAWN

    assert {file.parent.name for file in PACKAGE.glob("*/__init__.py")} - {"legacy"} == set(DRAWN)
    assert PICTURE.read_text(encoding="utf-8") == picture(), "python -m docs.draw_rooms"
