"""Files of eSCN-MD: fairchem's files of inference, and our own."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from equiformer_pytorch.base.saved import COUNTERS, plain_name, read_saved, weights_of
from equiformer_pytorch.base.tracing import lasting_tensors
from equiformer_pytorch.published.checkpoint import compare_weights
from equiformer_pytorch.published.escn_md.arguments import check_generation
from equiformer_pytorch.published.escn_md.merging import Kind
from equiformer_pytorch.published.escn_md.model import Model
from equiformer_pytorch.published.escn_md.tasks import Task, Tasks

# Names of the backbones that we have, or the ends of them.
BACKBONES = ("escnmd_backbone", "escnmd_moe_backbone", "eSCNMDBackbone", "eSCNMDMoeBackbone")
# What a `model_config` has beside backbone and heads.
TAKEN, LEFT_ASIDE = (
    ("heads", "pass_through_head_outputs", "model_id", "supports_single_atoms"),
    ("_target_", "otf_graph"),
)
# Constants of rotations by Euler angles, which nothing needs.
CONSTANTS = re.compile(r"(^|\.)Jd_\d+$")

Read = TypeVar("Read", bound="FromFairchem")


class FromFairchem(Model):
    """Adds :meth:`from_checkpoint` and what :meth:`save` needs to a model."""

    family: ClassVar[str]

    @classmethod
    @lasting_tensors()
    def from_checkpoint(
        cls: type[Read],
        source: str | os.PathLike[str] | Mapping[str, Any],
        task: str | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        ema: bool = True,
    ) -> Read:
        """The model of a file, in the dtype of its weights and in evaluation mode.

        Reads fairchem's files of inference (one pickled ``MLIPInferenceCheckpoint``, its configurations plain or of
        OmegaConf), the same as a dict (``model_config`` or ``config``, ``state_dict``, ``ema``, ``tasks_config``), and
        what :meth:`save` wrote. No code of a file is run, and none of its classes imported: ``weights_only=True``, with
        stand-ins for fairchem's and OmegaConf's.

        Args:
            source: a file, or its contents.
            task: the dataset, e.g. "omol" or "omat", that structures are of unless they say so themselves: its energies
                of elements and its normalisers are used. By default the only one, or none.
            config: arguments that replace those of the file.
            ema: take the averaged weights, where there are some, as fairchem does.

        Raises:
            OSError: there is no such file.
            ValueError: it does not fit; the message names the file and the reason, every key that is missing,
                unexpected or of another shape among them.
            TypeError: the source is neither a path nor a mapping.
        """
        contents = read_saved(source)
        where = "source" if isinstance(source, Mapping) else os.fspath(source)
        try:
            return cls._of_contents(contents, task, dict(config or {}), ema)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{where} does not fit {cls.family}: {error}") from error

    @classmethod
    def _of_contents(
        cls: type[Read], contents: Mapping[str, Any], task: str | None, changes: dict[str, Any], ema: bool
    ) -> Read:
        averaged = contents.get("ema")
        chosen = {"state_dict": averaged} if ema and isinstance(averaged, Mapping) and averaged else contents
        weights = {n: w for n, w in weights_of(chosen).items() if not CONSTANTS.search(n) and n not in COUNTERS}
        arguments = arguments_of(contents) | changes
        check_sizes(arguments, weights)
        with torch.device("meta"):  # nothing is allocated for what may not fit, nor drawn at random in vain
            model = cls(**arguments)
        compare_weights(weights, dict(model.named_parameters()))
        model = model.to(next(iter(weights.values())).dtype).to_empty(device="cpu")
        model.load_state_dict(weights, strict=True)
        model.tasks = Tasks(tuple(Task.from_config(entry) for entry in contents.get("tasks_config") or ()))
        held = contents.get("merged_for")
        model.merged_for = None if held is None else Kind.from_plain(held)
        model.task = model.task if task is None else task
        return model.eval()

    @classmethod
    def recognises(cls, weights: Mapping[str, Tensor]) -> bool:
        return any(".edge_wise.so2_conv_1." in plain_name(name) for name in weights)

    def _beside(self) -> dict[str, Any]:
        merged = None if self.merged_for is None else self.merged_for.to_plain()
        tasks = [task.to_config() for task in self.tasks.all]
        return {"tasks_config": tasks, "merged_for": merged}


def arguments_of(contents: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments in a file: a `model_config` of fairchem, or our own `config`.

    Raises:
        ValueError: there are none, they are of another network, or of a generation whose network is another one.
    """
    found = contents.get("model_config", contents.get("config"))
    if not isinstance(found, Mapping):
        raise ValueError(f"model_config is missing, there are only {sorted(map(str, contents))[:9]}")
    backbone = found.get("backbone")
    if backbone is None:
        return dict(found)
    if not isinstance(backbone, Mapping) or str(backbone.get("model")).rpartition(".")[2] not in BACKBONES:
        named = backbone.get("model") if isinstance(backbone, Mapping) else backbone
        raise ValueError(f"backbone.model must be one of {', '.join(BACKBONES)}; got {named!r}")
    strange = sorted(name for name in found if name not in ("backbone", *TAKEN, *LEFT_ASIDE) and found[name])
    if strange:
        raise ValueError(f"model_config has {', '.join(strange)}, which nothing here reads")
    arguments = {name: value for name, value in backbone.items() if name != "model"}
    arguments |= {name: found[name] for name in TAKEN if name in found}
    check_generation(arguments.get("num_experts", 0), arguments.get("model_id"), arguments.get("model_version"))
    return arguments


def check_sizes(arguments: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """ValueError unless the sizes that decide how much work it is to build the network are those of the weights."""
    radial = weights.get("backbone.edge_degree_embedding.rad_func.net.0.weight")
    spread = weights.get("backbone.edge_degree_embedding.rad_func.net.6.weight")
    if radial is None or spread is None or radial.ndim != 2 or spread.ndim != 2:
        raise ValueError(
            "the weights have no backbone.edge_degree_embedding.rad_func.net.…: they are of another network"
        )
    hidden, seen = radial.shape
    blocks = {name.split(".")[2] for name in weights if name.startswith("backbone.blocks.")}
    shown = {"num_layers": len(blocks), "edge_channels": hidden, "num_distance_basis": seen - 2 * hidden}
    for name, number in shown.items():
        if arguments.get(name, number) != number:
            raise ValueError(f"{name} is {arguments[name]}, and the weights are of {number}")
    degree, channels = arguments.get("lmax", 2), arguments.get("sphere_channels", 128)
    if (degree + 1) * channels != spread.shape[0]:
        raise ValueError(
            f"(lmax + 1) · sphere_channels is ({degree} + 1) · {channels}, the weights have {spread.shape[0]}"
        )
