"""What tests of eSCN-MD share: configurations of every kind, small structures, reference numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equiformer_pytorch import ESCNMD
from equiformer_pytorch.published.escn_md.tasks import Task, Tasks
from tests.published_cases import PARITY, crystal, fill, molecule, together

SHIPPED = Path(__file__).resolve().parent / "data" / "escn_md.pt"
FILES = {name: PARITY / f"escnmd_{name}.pt" for name in ("conserving", "direct", "uma")}
CHECKPOINT, EXPECTED = PARITY / "escnmd_checkpoint.pt", PARITY / "escnmd_checkpoint_expected.pt"

BACKBONE: dict[str, Any] = {
    "model": "fairchem.core.models.uma.escn_moe.eSCNMDMoeBackbone",
    "max_num_elements": 20,
    "sphere_channels": 6,
    "hidden_channels": 5,
    "edge_channels": 4,
    "num_distance_basis": 7,
    "lmax": 2,
    "mmax": 2,
    "num_layers": 2,
    "cutoff": 4.0,
    "otf_graph": False,
    "direct_forces": False,
    "regress_stress": True,
    "norm_type": "rms_norm_sh",
    "act_type": "gate",
    "ff_type": "spectral",
    "chg_spin_emb_type": "rand_emb",
    "cs_emb_grad": True,
    "use_dataset_embedding": False,
    "num_experts": 0,
}
DIRECT: dict[str, Any] = {"direct_forces": True, "direct_stress": True}
MIXED: dict[str, Any] = {
    "num_experts": 3,
    "moe_dropout": 0.0,
    "use_composition_embedding": True,
    "use_dataset_embedding": True,
    "dataset_list": ["oc20", "omol", "omat"],
}
NAMES = ["omol", "omat", "oc20"]
UMA = "fairchem.core.models.uma."
EFS = {"module": UMA + "escn_md.MLP_EFS_Head", "wrap_property": False}


def wrapper(head: str = "MLP_EFS_Head", names: list[str] | None = None, **options: Any) -> dict[str, Any]:
    """One head for several datasets."""
    return {
        "module": UMA + "escn_moe.DatasetSpecificSingleHeadWrapper",
        "head_cls": f"{UMA}escn_md.{head}",
        "head_kwargs": options,
        "dataset_names": NAMES if names is None else names,
        "wrap_property": False,
    }


def expert_wrapper(head: str, mapping: dict[str, str], **options: Any) -> dict[str, Any]:
    """An expert for each dataset."""
    made = wrapper(head, **options) | {"dataset_mapping": mapping}
    del made["dataset_names"]
    return made | {"module": UMA + "escn_moe.DatasetSpecificMoEWrapper"}


def direct_heads(**energy: str) -> dict[str, Any]:
    """A head for each property."""
    heads = {name: {"module": f"{UMA}escn_md.{kind}"} for name, kind in energy.items()}
    heads["forces"] = {"module": UMA + "escn_md.Linear_Force_Head"}
    return heads | {"stress": {"module": UMA + "escn_md.MLP_Stress_Head"}}


MAPPING = {"omol": "omol", "omat": "omat", "oc20": "oc20", "oc22": "oc20"}
SAME = {name: name for name in NAMES}


def model_config(heads: dict[str, Any], model_id: str | None = None, **backbone: Any) -> dict[str, Any]:
    """As a file has it."""
    passed = any("Wrapper" in head["module"] or "EFS" in head["module"] for head in heads.values())
    config = {"backbone": {**BACKBONE, **backbone}, "heads": heads, "pass_through_head_outputs": passed}
    return config if model_id is None else {**config, "model_id": model_id}


ONE = {"energyandforcehead": wrapper("MLP_EFS_Head", wrap_property=False)}
CASES: dict[str, dict[str, Any]] = {
    "conserving": model_config(ONE),
    "degree 3, order 1": model_config(ONE, lmax=3, mmax=1, num_layers=1),
    "degree 4, order 2, grid": model_config(ONE, lmax=4, ff_type="grid", num_layers=1, norm_type="layer_norm_sh"),
    "degree 3, order 0": model_config(ONE, lmax=3, mmax=0, num_layers=1, norm_type="layer_norm"),
    "degree 6": model_config(ONE, lmax=6, mmax=2, num_layers=1),
    "sampled": model_config(ONE, act_type="s2", lmax=3, mmax=2, num_layers=1),
    "sampled, fine grid": model_config(
        ONE, act_type="s2", ff_type="grid", grid_resolution=14, lmax=3, mmax=3, num_layers=1
    ),
    "sampled, direct": model_config(
        direct_heads(omol_energy="MLP_Energy_Head", omat_energy="Linear_Energy_Head", oc20_energy="MLP_Energy_Head"),
        act_type="s2",
        lmax=4,
        mmax=2,
        **DIRECT,
    ),
    "positions": model_config(ONE, chg_spin_emb_type="pos_emb", norm_type="layer_norm"),
    "linear embedding": model_config(ONE, chg_spin_emb_type="lin_emb", ff_type="grid"),
    "embeddings without gradient": model_config(ONE, chg_spin_emb_type="pos_emb", cs_emb_grad=False),
    "balanced": model_config(ONE, charge_balanced_channels=[0, 1, 2], spin_balanced_channels=[4, 3]),
    "datasets, trained": model_config(
        {"energyandforcehead": wrapper(names=[*NAMES, "oc22"], wrap_property=False)},
        use_dataset_embedding=True,
        dataset_emb_grad=True,
        dataset_mapping=MAPPING,
    ),
    "mean": model_config({"head": EFS | {"reduce": "mean"}}),
    "prefix": model_config({"head": EFS | {"prefix": "omol"}}),
    "one direct head": model_config(direct_heads(energy="MLP_Energy_Head"), **DIRECT),
    "experts": model_config(ONE, "UMA-1.1", **MIXED),
    "experts of few layers, s2": model_config(
        ONE, "UMA-1.1", **{**MIXED, "layers_moe": [1], "act_type": "s2", "mmax": 1, "use_composition_embedding": False}
    ),
    "experts, p norm": model_config(ONE, "UMA-1.1", **{**MIXED, "moe_expert_coefficient_norm": "pnorm"}),
    "experts, one atom too many": model_config(ONE, "UMA-S-1.2", **MIXED),
    "expert heads": model_config(
        {"head": expert_wrapper("MLP_EFS_Head", MAPPING, wrap_property=False)},
        "UMA-S-1.2.1",
        **{**MIXED, "dataset_list": None, "dataset_mapping": MAPPING, "charge_balanced_channels": [0, 1, 2]},
    ),
    "expert heads, direct": model_config(
        {
            "energy": expert_wrapper("Linear_Energy_Head", SAME),
            "forces": expert_wrapper("Linear_Force_Head", SAME),
            "stress": expert_wrapper("MLP_Stress_Head", SAME, reduce="sum"),
        },
        **DIRECT,
    ),
}


def structures() -> dict[str, Any]:
    """A molecule, a crystal, two atoms one above the other along y, and one alone; of three datasets."""
    above = {
        "atomic_numbers": torch.tensor([8, 1]),
        "pos": torch.tensor([[0.5, 0.25, -1.0], [0.5, 1.25, -1.0]], dtype=torch.float64),
        "cell": 20 * torch.eye(3, dtype=torch.float64)[None],
        "batch": torch.zeros(2, dtype=torch.long),
        "edge_index": torch.tensor([[0, 1], [1, 0]]),
        "cell_offsets": torch.zeros(2, 3, dtype=torch.float64),
    }
    alone = {name: value[:1] for name, value in above.items() if name != "edge_index"}
    alone |= {"edge_index": torch.zeros(2, 0, dtype=torch.long), "cell_offsets": above["cell_offsets"][:0]}
    found: dict[str, Any] = together(molecule(), crystal(), above, alone)
    found["charge"] = torch.tensor([1, 0, -2, 0])
    found["spin"] = torch.tensor([2, 0, 1, 3])
    return found | {"dataset": ["omol", "omat", "oc20", "omol"]}


def build(kind: str = "escn_md", **changes: Any) -> ESCNMD:
    """A small conserving model in float64, alive in all parts, with scales and energies of elements; or one with
    experts, whose task is one of three datasets."""
    name = {"escn_md": "mean", "experts": "experts"}.get(kind, kind)
    arguments: dict[str, Any] = arguments_of(CASES[name])
    arguments["dataset_emb_grad"] = True
    if kind == "escn_md":
        arguments["heads"] = {"head": EFS}
    model = ESCNMD(**(arguments | changes)).double().eval()
    fill(model)
    model.tasks = Tasks(tuple(task for dataset in model.known or (None,) for task in tasks_of(dataset)))
    model.task = "omat" if model.known else None
    return model


def tasks_of(dataset: str | None) -> list[Task]:
    """Energy, forces and stress of a dataset, each with numbers of its own."""
    shift = len(dataset or "") + 0.5
    names = () if dataset is None else (dataset,)
    scales = {"energy": (0.25 * shift, 2.0), "forces": (0.0, 2.0), "stress": (0.0, 2.0)}
    references = torch.linspace(-9, shift, 20, dtype=torch.float64)
    found = [Task("_".join((*names, p)), p, names, *pair) for p, pair in scales.items()]
    return [replace(found[0], references=references), *found[1:]]


def arguments_of(config: dict[str, Any]) -> dict[str, Any]:
    """The constructor's, from a `model_config`."""
    backbone = {name: value for name, value in config["backbone"].items() if name != "model"}
    return backbone | {name: value for name, value in config.items() if name not in ("backbone", "_target_")}


def call_of(inputs: dict[str, Any]) -> dict[str, Any]:
    """What the model takes of the inputs of a reference file."""
    names = ("atomic_numbers", "pos", "cell", "batch", "edge_index", "cell_offsets", "charge", "spin", "dataset")
    return {name: value.clone() if isinstance(value := inputs[name], Tensor) else value for name in names}
