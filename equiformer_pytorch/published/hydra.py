"""Files of fairchem 1's model ``hydra`` with a backbone and heads of EquiformerV2 (OMat24's eqV2), laid out as
the official trainer lays out EquiformerV2's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from equiformer_pytorch.base.saved import weights_of
from equiformer_pytorch.published.checkpoint import BUFFERS, averages, configuration
from equiformer_pytorch.published.edge_stress import EdgeStressArguments
from equiformer_pytorch.published.scales import OLD_NAMES, STRESS_PARTS

# Names that modules are registered by, or the last parts of those of their classes.
BACKBONES = ("equiformer_v2_backbone", "EquiformerV2Backbone", "equiformer_v2_dens_backbone", "EqV2DeNSBackbone")
HEADS = {
    "energy": (
        *("equiformer_v2_energy_head", "equiformerV2_scalar_head", "eqV2_DeNS_scalar_head"),
        *("EquiformerV2EnergyHead", "EqV2ScalarHead", "DeNSScalarHead"),
    ),
    "forces": (
        *("equiformer_v2_force_head", "equiformerV2_vector_head", "eqV2_DeNS_vector_head"),
        *("EquiformerV2ForceHead", "EqV2VectorHead", "DeNSVectorHead"),
    ),
    "stress": ("rank2_symmetric_head", "dens_rank2_symmetric_head", "Rank2SymmetricTensorHead", "DeNSRank2Head"),
}
# What heads may be told beside, and what of it changes nothing here.
STRESS_OPTIONS = tuple(field.name for field in fields(EdgeStressArguments))
OPTIONS = {"energy": ("reduce",), "forces": (), "stress": STRESS_OPTIONS}
OF_HEADS_WITHOUT_EFFECT = ("module", "output_name", "use_denoising", "default_norm_type")
# Entries of the backbone and of the model that change nothing here.
OF_BACKBONE_WITHOUT_EFFECT = (
    *("model", "regress_forces", "use_pbc_single", "use_energy_lin_ref", "load_energy_lin_ref"),
    *("activation_checkpoint", "use_force_encoding", "use_noise_schedule_sigma_encoding"),
)
OF_MODEL_WITHOUT_EFFECT = ("otf_graph", "pass_through_head_outputs", "finetune_config", "freeze_backbone")
# Weights that fairchem itself does not use in inference: of denoising, and reference energies that no head adds.
LINEAR_REFERENCES = "backbone.energy_lin_ref"
UNUSED = ("backbone.force_embedding.", "backbone.noise_schedule_sigma_embedding.", LINEAR_REFERENCES)
UNUSED_OF_HEADS = ("denoising_pos_block",)
# All that these add where there is nothing to denoise: to the invariants of every atom.
BIASES = ("backbone.force_embedding.bias", "backbone.noise_schedule_sigma_embedding.bias")
# What the parts of heads are called here.
PARTS = {
    **{"energy_block": "energy_block", "scalar_block": "energy_block"},
    **{"force_block": "force_block", "vector_block": "force_block"},
    **{name: f"stress_block.{name}" for name in ("sphharm_norm", "xedge_layer_norm", "block")},
}
NORMALIZERS = ("energy", "forces", "stress", *STRESS_PARTS, *OLD_NAMES)
OF_DENOISING = "denoising_pos_target"


def is_hydra(contents: Mapping[str, Any]) -> bool:
    """Whether the weights of a file are of a backbone and heads."""
    return any(name.startswith(("backbone.", "output_heads.")) for name in weights_of(contents))


def from_hydra(contents: Mapping[str, Any], ema: bool, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The contents of a file of ``hydra`` as those of a file of EquiformerV2.

    Left out are weights that fairchem does not use in inference: ``backbone.force_embedding.``,
    ``backbone.noise_schedule_sigma_embedding.`` and heads' ``denoising_pos_block.``, which are for denoising, and
    ``backbone.energy_lin_ref``. The biases of the first two act all the same, and are added to the embedding of the
    elements.

    Args:
        contents: of the file.
        ema: whether the averaged weights are wanted, too.
        config: EquiformerV2's arguments from the caller, who may give all where the file has no ``backbone``.

    Raises:
        ValueError: naming the entry of the configuration, or the normaliser, that is missing or not of EquiformerV2.
    """
    weights, given = weights_of(contents), configuration(contents) or {}
    found: dict[str, Any] = {"state_dict": renamed(weights)}
    if given and (config is None or all(given.get(part) for part in ("backbone", "heads"))):
        found["config"] = arguments_of(given)
    whole = not any(".irrep2_MLP." in name for name in weights)
    for entry, known in (("normalizers", (*NORMALIZERS, OF_DENOISING)), ("elementrefs", ("energy",))):
        held = contents.get(entry) or {}
        strange = sorted(held.keys() - known)
        if strange:
            raise ValueError(f"{entry} has {', '.join(strange)}; known are {', '.join(known)}")
        unused = (OF_DENOISING, *(STRESS_PARTS if whole else ()))
        found[entry] = {name: state for name, state in held.items() if name not in unused}
    if ema:
        names = [name for name in weights if not BUFFERS.search(name) and name != LINEAR_REFERENCES]
        # Of a frozen backbone there are no averages.
        frozen = {k: v for k, v in weights.items() if given.get("freeze_backbone") and k.startswith("backbone.")}
        trained = averages(contents.get("ema"), [name for name in names if name not in frozen])
        found["ema"] = renamed({**frozen, **trained})
    return found


def arguments_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """EquiformerV2's arguments from the configuration of a ``hydra``.

    Raises:
        ValueError: naming the entry that is missing, or that is not of EquiformerV2.
    """
    strange = sorted(k for k in model if k not in ("backbone", "heads", *OF_MODEL_WITHOUT_EFFECT) and model[k])
    if strange:
        raise ValueError(f"config.model has {', '.join(strange)}, which nothing here reads")
    for entry in ("backbone", "heads"):
        if not isinstance(model.get(entry), Mapping):
            began = (model.get("finetune_config") or {}).get("starting_checkpoint")
            hint = f"; that of {began}, which the file was fine-tuned from, belongs there" if began else ""
            raise ValueError(f"config.model.{entry} is missing{hint}")
    backbone, heads = model["backbone"], model["heads"]
    if str(backbone.get("model")).rpartition(".")[2] not in BACKBONES:
        raise ValueError(f"backbone.model must be one of {', '.join(BACKBONES)}; got {backbone.get('model')!r}")
    found: dict[str, Mapping[str, Any]] = {}
    for name, head in heads.items():
        of, options = _head(name, head)
        if of in found:
            raise ValueError(f"heads has more than one for {of}: {', '.join(heads)}; there can be one")
        found[of] = options
    if "energy" not in found:
        raise ValueError(f"heads has none for the energy, of {', '.join(HEADS['energy'])}; got {sorted(heads)}")
    arguments = {
        name: value for name, value in backbone.items() if name not in OF_BACKBONE_WITHOUT_EFFECT and value is not None
    }
    return {**arguments, "regress_forces": "forces" in found, "stress_head": found.get("stress")}


def _head(name: str, head: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a head gives, and its options."""
    module = str(head.get("module")).rpartition(".")[2]
    of = next((of for of, names in HEADS.items() if module in names), None)
    if of is None:
        known = "; ".join(f"for {of} {', '.join(names)}" for of, names in HEADS.items())
        raise ValueError(f"heads[{name!r}]['module'] must be {known}; got {head.get('module')!r}")
    strange = sorted(head.keys() - {*OPTIONS[of], *OF_HEADS_WITHOUT_EFFECT})
    if strange:
        raise ValueError(f"heads[{name!r}] has {', '.join(strange)}, which {module} does not take")
    for option, wanted in (("output_name", of), ("reduce", "sum")):
        if head.get(option, wanted) != wanted:
            raise ValueError(f"heads[{name!r}][{option!r}] must be {wanted!r}, got {head[option]!r}")
    return of, {option: head[option] for option in STRESS_OPTIONS if option in head}


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names that EquiformerV2 has for them; see :func:`from_hydra` for what is left out."""
    found = {}
    for name, weight in weights.items():
        first, _, rest = name.partition(".")
        part = rest.split(".")[1] if first == "output_heads" and rest.count(".") > 1 else ""
        if name.startswith(UNUSED) or part in UNUSED_OF_HEADS:
            continue
        if first == "backbone":
            name = rest
        elif part in PARTS:
            name = f"{PARTS[part]}.{rest.split('.', 2)[2]}"
        found[name] = weight
    for bias in BIASES:
        if bias in weights and "sphere_embedding.weight" in found:
            found["sphere_embedding.weight"] = found["sphere_embedding.weight"] + weights[bias]
    return found
