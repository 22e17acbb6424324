"""Writes escn_md.pt from fairchem-core, in an environment of its own; see README.md."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch import Tensor

from tests.data.build_published import projections
from tests.escn_md_cases import CASES, SHIPPED, structures
from tests.published_cases import fill


def atomic_data(inputs: dict[str, Any]) -> Any:
    """A batch as fairchem has it."""
    from fairchem.core.datasets.atomic_data import AtomicData  # pyright: ignore[reportMissingImports]

    count, atoms, batch = len(inputs["cell"]), len(inputs["pos"]), inputs["batch"]
    return AtomicData(
        pos=inputs["pos"].clone(),
        atomic_numbers=inputs["atomic_numbers"].clone(),
        cell=inputs["cell"].clone(),
        pbc=torch.ones(count, 3, dtype=torch.bool),
        natoms=torch.bincount(batch, minlength=count),
        edge_index=inputs["edge_index"].clone(),
        cell_offsets=inputs["cell_offsets"].clone(),
        nedges=torch.bincount(batch[inputs["edge_index"][1]], minlength=count),
        charge=inputs["charge"].clone(),
        spin=inputs["spin"].clone(),
        fixed=torch.zeros(atoms, dtype=torch.long),
        tags=torch.zeros(atoms, dtype=torch.long),
        batch=batch.clone(),
        sid=[""] * count,
        dataset=list(inputs["dataset"]),
    )


def flat(found: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors by name: a head of one property has that of the head."""
    out = {}
    for name, value in found.items():
        if name == "embeddings":
            continue
        if isinstance(value, dict):
            value = {
                key: inner for key, inner in value.items() if key != "embeddings" and not key.endswith("_embeddings")
            }
            out |= {name: next(iter(value.values()))} if len(value) == 1 else flat(value)
        elif not name.endswith("_embeddings"):
            out[name] = value
    return out


def run(config: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """Hidden states, outputs and gradients of one model."""
    from fairchem.core.models.base import HydraModel  # pyright: ignore[reportMissingImports]

    model = HydraModel(**{**config, "otf_graph": False})
    fill(model)
    model.train()  # else nothing of second derivatives is kept; all dropout is zero
    backbone, hidden, frames = model.backbone, {}, []
    backbone.counter = 1  # no figures
    found = backbone._get_rotmat_and_wigner

    def watched(vectors: Tensor) -> Any:
        torch.manual_seed(0)
        wigner, inverse = found(vectors)
        frames.append(wigner[:, 1:4, 1:4].detach().clone())
        return wigner, inverse

    backbone._get_rotmat_and_wigner = watched
    for index, block in enumerate(backbone.blocks):
        block.register_forward_hook(
            lambda _, __, out, i=index: hidden.update({f"block_{i}": projections(out.detach())})
        )
    backbone.norm.register_forward_hook(lambda _, __, out: hidden.update({"final_norm": projections(out.detach())}))
    outputs = flat(model(atomic_data(inputs)))
    loss = torch.stack([value.sum() if "energy" in name else value.square().sum() for name, value in outputs.items()])
    loss.sum().backward()
    gradients = {name: projections(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {
        "frames": frames[0],
        "hidden": hidden,
        "outputs": {name: value.detach() for name, value in outputs.items()},
        "gradients": gradients,
        "trained": trained,
    }


def main() -> None:
    """Run fairchem and write what it gives."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_default_dtype(torch.float64)
    # fairchem casts what goes into a linear embedding to float32.
    torch.Tensor.float = lambda self: self.to(torch.get_default_dtype())
    inputs = structures()
    cases = {name: run(config, inputs) for name, config in CASES.items()}
    frames = [case.pop("frames") for case in cases.values()]
    largest = max(float((other - frames[0]).abs().max()) for other in frames)
    if largest > 1e-12:
        raise SystemExit(f"frames differ by {largest}")
    torch.save({"edge_rot_mat": frames[0], "cases": cases}, SHIPPED)


if __name__ == "__main__":
    main()
