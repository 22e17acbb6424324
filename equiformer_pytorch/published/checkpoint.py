"""Published checkpoints: weights, configuration and normalisers, in files laid out as the official trainers' are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from equiformer_pytorch.base.potential import Potential
from equiformer_pytorch.base.saved import plain_name, read_saved, weights_of
from equiformer_pytorch.base.tracing import lasting_tensors
from equiformer_pytorch.published.scales import Scales

# Constants that the official code keeps in its state dict and that are computed here, by the end of their names.
BUFFERS = re.compile(
    r"(^|\.)(offset|l_harmonic|m_harmonic|m_complex|res_size|to_m|m_size|to_grid_mat|from_grid_mat|expand_index"
    r"|balance_degree_weight|wigner_index_to_m_array|wigner_inv_rescale|zero_padded_change_matrix"
    r"|coefficient_idx_l\d+_m\d+|rotate_inv_rescale_l\d+_m\d+)$"
)
# Parts that only denoising in training uses (EquiformerV3, DeNS).
DENOISING = ("force_embedding.", "dens_block.")
# Entries of a published configuration that are not arguments of the model.
NOT_ARGUMENTS = ("name",)

Model = TypeVar("Model", bound="FromCheckpoint")


class FromCheckpoint(Potential):
    """Adds :meth:`from_checkpoint` and what :meth:`save` needs to a model."""

    scales: Scales
    """What the outputs are to be multiplied with and shifted by, from the checkpoint."""
    infer_config: Callable[[Mapping[str, Tensor]], dict[str, Any]]
    """The constructor's arguments as far as weights and constants show them."""
    mark: ClassVar[str]
    """What only the weights of this model have in their names."""

    @classmethod
    @lasting_tensors()
    def from_checkpoint(
        cls: type[Model],
        source: str | PathLike[str] | Mapping[str, Any],
        *,
        config: Mapping[str, Any] | None = None,
        ema: bool = False,
        ignore: Sequence[str] = (),
    ) -> Model:
        """The model of a checkpoint, in the dtype of its weights and in evaluation mode.

        The source has the weights under ``state_dict`` (names may have ``module.`` or ``_orig_mod.`` anywhere in them,
        which data parallelism and compilation leave) and, if it has them, the configuration under ``config``
        (the arguments themselves, or as official trainers nest them: ``model_attributes`` or ``model``), averaged
        weights under ``ema``, and ``normalizers`` and ``elementrefs``, which become `scales`. Constants and the
        parts for denoising (``force_embedding.``, ``dens_block.``) are left out. A mere state dict will do, too.
        :class:`EquiformerV2` also reads files of fairchem 1's model ``hydra`` that have its backbone and heads, such as
        OMat24's ``eqV2_31M_omat.pt``; of these ``denoising_pos_block.`` and ``energy_lin_ref`` are left out, too.

        Args:
            source: a file, read with ``weights_only=True`` (no code of it is run), or its contents.
            config: arguments that are added to those of the source, or replace them. Without any configuration the
                arguments are inferred from the weights; a warning names those that leave no trace there.
            ema: take the averaged weights.
            ignore: beginnings of names to be left out, for instance ("force_block.", "stress_block.") to go on with
                ``direct_prediction=False``.

        Raises:
            ValueError: naming every missing, unexpected or misshapen key; or what the file lacks.
            TypeError: if the source is neither a path nor a mapping.
        """
        contents = cls.laid_out(read_saved(source), ema, config)
        weights = weights_of(contents)
        parameters_in_order = [name for name in weights if not BUFFERS.search(name)]
        arguments = configuration(contents)
        if arguments is None and config is None:
            arguments = cls.infer_config(weights)
        model = cls(**{**(arguments or {}), **(config or {})})
        wanted = dict(model.named_parameters())
        weights = _chosen(weights, ignore)
        if ema:
            weights = _averaged(contents.get("ema"), weights, parameters_in_order, ignore)
        compare_weights(weights, wanted)
        model.to(next(iter(weights.values())).dtype)
        model.load_state_dict(weights, strict=True)
        model.scales = Scales.from_checkpoint(contents)
        return model.eval()

    @classmethod
    def laid_out(cls, contents: Mapping[str, Any], ema: bool, config: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Contents of a file as :meth:`from_checkpoint` explains them, whoever wrote it.

        Args:
            contents: of the file.
            ema: whether averaged weights are wanted.
            config: the caller's arguments.
        """
        return contents

    @classmethod
    def from_file(cls: type[Model], contents: Mapping[str, Any]) -> Model:
        return cls.from_checkpoint(contents, ema=bool(contents.get("ema")))

    @classmethod
    def recognises(cls, weights: Mapping[str, Tensor]) -> bool:
        return any(cls.mark in name for name in weights)

    def _beside(self) -> dict[str, Any]:
        return self.scales.to_checkpoint()


def configuration(contents: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments that the file gives, None if it gives none."""
    found = contents.get("config")
    if found is None:
        return None
    for key in ("model_attributes", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping):
        raise ValueError(f"config must be a mapping of arguments, got {type(found).__name__}")
    return {name: value for name, value in found.items() if name not in NOT_ARGUMENTS}


def _chosen(tensors: Mapping[str, Tensor], ignore: Sequence[str]) -> dict[str, Tensor]:
    """Without constants and what is to be left out."""
    out = (*DENOISING, *([ignore] if isinstance(ignore, str) else ignore))
    return {
        name: value for name, value in tensors.items() if not BUFFERS.search(name) and not name.startswith(tuple(out))
    }


def _averaged(
    ema: Any, weights: Mapping[str, Tensor], names: Sequence[str], ignore: Sequence[str]
) -> dict[str, Tensor]:
    """Averaged weights without constants and what is to be left out."""
    averaged = _chosen(averages(ema, names), ignore)
    in_order = isinstance(ema, Mapping) and "shadow_params" in ema
    return {name: averaged[name] for name in weights} if in_order else averaged


def averages(ema: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """Averaged weights by plain name, from an entry ``ema``, which has them by name or as a list ``shadow_params``.

    Args:
        ema: the entry.
        names: those of the parameters, in their order.

    Raises:
        ValueError: there are none, or not as many.
    """
    if not isinstance(ema, Mapping):
        raise ValueError("the source has no averaged weights: ema is missing")
    shadows = ema.get("shadow_params")
    if shadows is None:
        tensors = ema.get("state_dict", ema)
        return {plain_name(k): v for k, v in tensors.items() if isinstance(v, Tensor)}
    if len(shadows) != len(names):
        raise ValueError(f"ema has {len(shadows)} tensors for the {len(names)} parameters of state_dict")
    return dict(zip(names, shadows, strict=True))


def compare_weights(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """ValueError that names everything that does not fit."""
    missing = [name for name in wanted if name not in weights]
    unexpected = [name for name in weights if name not in wanted]
    misshapen = [
        f"{name} is {tuple(weights[name].shape)}, wanted {tuple(wanted[name].shape)}"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    problems = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    told = [f"{what}: {_listed(found)}" for what, found in problems if found]
    if told:
        raise ValueError("the weights do not fit the configuration; " + "; ".join(told))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
