"""Constructors that take the fields of a dataclass: called, shown and refused like any other."""

from __future__ import annotations

import inspect
import typing
from dataclasses import KW_ONLY, dataclass
from typing import Any

import pytest

from equiformer_pytorch import EquiformerPotential, EquiformerV2, EquiformerV3
from equiformer_pytorch.atoms import Target
from equiformer_pytorch.base.arguments import as_config, takes


@dataclass(frozen=True)
class Arguments:
    width: int
    heads: tuple[int, ...] = (1, 2)
    _: KW_ONLY
    name: str = "plain"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")


class Model:
    @takes(Arguments)
    def __init__(self, given: Arguments) -> None:
        """Made of arguments."""
        self.config = as_config(given)


class Larger(Model):
    def __init__(self, factor: int, **named: typing.Any) -> None:
        super().__init__(4 * factor, **named)


def test_calls() -> None:
    assert Model(3).config == {"width": 3, "heads": [1, 2], "name": "plain"}
    assert Model(3, (5,), name="x").config == Model(width=3, heads=(5,), name="x").config
    assert Larger(2, name="y").config["width"] == 8


def test_is_shown_as_it_is_called() -> None:
    assert str(inspect.signature(Model)) == (
        "(width: 'int', heads: 'tuple[int, ...]' = (1, 2), *, name: 'str' = 'plain') -> None"
    )
    assert next(iter(inspect.signature(Model.__init__).parameters)) == "self"
    assert typing.get_type_hints(Model.__init__) == {"width": int, "heads": tuple[int, ...], "name": str}
    assert Model.__init__.__doc__ == "Made of arguments."


# Called as it is not made.
MODEL: Any = Model


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MODEL(), "Model: .*'width'"),
        (lambda: MODEL(1, depth=2), "Model: .*'depth'"),
        (lambda: MODEL(1, (2,), "x"), "Model: too many"),
        (lambda: Larger(1, depth=2), "Larger: .*'depth'"),
    ],
)
def test_wrong_calls(call, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        call()


def test_wrong_values() -> None:
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        Model(0)


def test_values_of_files() -> None:
    targets = {"dipole": Target(1, "structure"), "charges": {"degree": 0}}
    config = EquiformerPotential(species=(1, 8), cutoff=4, dim=(4, 4, 4, 4), depth=1, targets=targets).config
    assert config["species"] == [1, 8]
    assert isinstance(config["cutoff"], float)
    assert config["dim"] == [4, 4, 4, 4]
    assert config["targets"]["dipole"] == {"degree": 1, "per": "structure", "channels": 1}
    assert config["targets"]["charges"] == {"degree": 0, "per": "atom", "channels": 1}


@pytest.mark.parametrize(("kind", "positional", "named"), [(EquiformerV2, 38, 6), (EquiformerV3, 46, 1)])
def test_order_of_the_published_arguments(kind: type, positional: int, named: int) -> None:
    """As the official code has them; what is not of it comes by name."""
    parameters = list(inspect.signature(kind).parameters.values())
    kinds = [parameter.kind for parameter in parameters]
    assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * positional + [inspect.Parameter.KEYWORD_ONLY] * named
    assert [p.name for p in parameters[:3]] == {
        EquiformerV2: ["num_atoms", "bond_feat_dim", "num_targets"],
        EquiformerV3: ["use_pbc", "use_pbc_single", "otf_graph"],
    }[kind]
