"""Writes hydra.pt from fairchem-core 1, in an environment of its own; see README.md."""

from __future__ import annotations

import functools
import logging
import sys
import warnings
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.data.build_published import projections
from tests.hydra_cases import MODELS, NORMALIZERS, SHIPPED, outputs_of, references, structures
from tests.published_cases import fill, loss_of


class Batch(SimpleNamespace):
    """Structures as fairchem's models see them."""

    def to(self, _: torch.device) -> Batch:
        """The same: all is on the CPU."""
        return self

    def values(self) -> list[Any]:
        """All fields."""
        return list(vars(self).values())


def scatter(src: Tensor, index: Tensor, dim: int = 0, reduce: str = "sum") -> Tensor:
    """What fairchem needs of torch_scatter."""
    assert dim == 0
    size = int(index.max()) + 1
    total = src.new_zeros(size, *src.shape[1:]).index_add(0, index, src)
    counts = torch.bincount(index, minlength=size).clamp(min=1).to(src)
    return total / counts.view(-1, *[1] * (src.ndim - 1)) if reduce == "mean" else total


def stand_in() -> None:
    """For torch_scatter, and for torch.load and float32 as fairchem 1 knew them."""
    module: Any = ModuleType("torch_scatter")
    module.scatter = module.segment_coo = module.segment_csr = scatter
    sys.modules["torch_scatter"] = module
    load = torch.load
    torch.load = lambda *given, **named: load(*given, **{"weights_only": False, **named})
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = lambda self: self.to(torch.float64)


def run(name: str, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Names, edges, hidden states, outputs and gradients of one model."""
    from fairchem.core.models.base import HydraModel  # pyright: ignore[reportMissingImports]
    from fairchem.core.models.equiformer_v2 import equiformer_v2_dens  # noqa: F401  # pyright: ignore
    from fairchem.core.modules.normalization.element_references import (  # pyright: ignore[reportMissingImports]
        LinearReferences,
    )
    from fairchem.core.modules.normalization.normalizer import Normalizer  # pyright: ignore[reportMissingImports]
    from fairchem.core.trainers.ocp_trainer import OCPTrainer  # pyright: ignore[reportMissingImports]

    model = HydraModel(**{key: value for key, value in MODELS[name].items() if key != "name"})
    fill(model)
    model.eval()
    found: dict[str, Any] = {}
    graph, frames = model.backbone.generate_graph, model.backbone._init_edge_rot_mat

    def watched_graph(*given: Any, **named: Any) -> Any:
        made = graph(*given, **named)
        found["edge_index"], found["cell_offsets"] = made.edge_index.short(), made.cell_offsets.char()
        return made

    def watched_frames(*given: Any) -> Tensor:
        torch.manual_seed(0)
        made = frames(*given)
        found["across"] = made[:, 0]  # the others follow from the edge
        return made

    model.backbone.generate_graph, model.backbone._init_edge_rot_mat = watched_graph, watched_frames
    model.backbone.norm.register_forward_hook(lambda _, __, out: found.update(final_norm=projections(out.detach())))
    energies = references(name)
    trainer: Any = SimpleNamespace(
        model=model,
        device=torch.device("cpu"),
        normalizers={key: Normalizer(*pair) for key, pair in NORMALIZERS[name].items()},
        elementrefs={} if energies is None else {"energy": LinearReferences(energies)},
        config={"outputs": outputs_of(name)},
    )
    trainer._denorm_preds = functools.partial(OCPTrainer._denorm_preds, trainer)
    trainer.output_targets = dict(trainer.config["outputs"])
    for output in list(trainer.output_targets.values()):
        parts = output.get("decomposition", {})
        trainer.output_targets |= {part: {**told, "level": output["level"]} for part, told in parts.items()}
    batch = Batch(
        **{key: value.clone() for key, value in inputs.items()},
        natoms=torch.bincount(inputs["batch"]),
        pbc=torch.ones(len(inputs["cell"]), 3, dtype=torch.bool),
    )
    torch.float = torch.float64  # fairchem asks for float32 by name where it counts cells
    raw = OCPTrainer._forward(trainer, batch)
    torch.float = torch.float32
    outputs = {key: trainer._denorm_preds(key, raw[key], batch) for key in trainer.config["outputs"]}
    outputs["energy"] = outputs["energy"].squeeze(1)
    loss_of(outputs).backward()
    known = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    parameters = dict(model.named_parameters())
    buffers = {key.rpartition(".")[2]: key for key in model.state_dict() if key not in parameters}
    return {
        "parameters": {key: (tuple(each.shape), each.requires_grad) for key, each in parameters.items()},
        "constants": list(buffers.values()),  # one of each kind
        **found,
        "outputs": {key: value.detach() for key, value in outputs.items()},
        "gradients": (list(known), torch.stack([projections(grad) for grad in known.values()])),
    }


def main() -> None:
    """Run fairchem and write what it gives."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    stand_in()
    inputs = structures()
    torch.save({name: run(name, inputs) for name in MODELS}, SHIPPED)


if __name__ == "__main__":
    main()
