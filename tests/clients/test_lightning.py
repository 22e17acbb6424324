"""PyTorch Lightning itself: training on forces; validation and prediction in its inference mode; its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from equiformer_pytorch.atoms import Potential, collate_structures, load_potential, predict, radius_graph
from tests.atoms import potentials
from tests.atoms.kinds import KINDS, build, structures
from tests.clients.common import needs

lightning = needs("lightning", "lightning")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def items() -> Any:
    """Structures with graphs and forces."""
    found = []
    for number, given in enumerate(structures() * 2):
        pbc = torch.ones(3, dtype=torch.bool)
        edge_index, offsets = radius_graph(given["pos"], potentials.CUTOFF, cell=given["cell"])
        forces = torch.randn(len(given["pos"]), 3, generator=torch.Generator().manual_seed(number)).double()
        graph = {"edge_index": edge_index, "cell_offsets": offsets}
        found.append({**given, "cell": given["cell"][0], "pbc": pbc, "forces": forces, **graph})
    return found


class Training(lightning.LightningModule):
    """As in docs/programs.md; `modes` are those in which steps ran."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential
        self.modes: dict[str, bool] = {}

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return (predict(self.potential, batch)["forces"] - batch["forces"]).square().mean()

    def training_step(self, batch: dict[str, Tensor], _: int = 0) -> Tensor:
        self.modes["training"] = torch.is_inference_mode_enabled()
        return self.loss(batch)

    def validation_step(self, batch: dict[str, Tensor], _: int = 0) -> None:
        self.modes["validation"] = torch.is_inference_mode_enabled()
        self.log("validation", self.loss(batch), batch_size=1)

    def predict_step(self, batch: dict[str, Tensor], _: int = 0) -> Tensor:
        self.modes["prediction"] = torch.is_inference_mode_enabled()
        return predict(self.potential, batch)["forces"]

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.potential.parameters(), lr=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trainer(kind: str, tmp_path: Path) -> None:
    module = Training(build(kind).train())
    before = torch.nn.utils.parameters_to_vector(module.potential.parameters()).detach().clone()
    loader = DataLoader(items(), batch_size=2, collate_fn=collate_structures)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, loader, loader)
    first = trainer.predict(module, loader)
    # Within fit Lightning validates without gradients, else in inference mode.
    assert module.modes == {"training": False, "validation": False, "prediction": True}
    after = torch.nn.utils.parameters_to_vector(module.potential.parameters())
    assert (after - before).abs().max() > 1e-4
    losses = [module.loss(batch).item() for batch in loader]
    assert trainer.validate(module, loader, verbose=False)[0]["validation"] == pytest.approx(sum(losses) / len(losses))
    assert module.modes["validation"]
    assert (first[0] - predict(module.potential.eval(), next(iter(loader)))["forces"]).abs().max() < 1e-9
    # Weights that were seen in inference mode can be trained on.
    module.loss(next(iter(loader))).backward()
    module.potential.save(tmp_path / "potential.pt")
    again = predict(load_potential(tmp_path / "potential.pt"), next(iter(loader)))["forces"]
    assert (first[0] - again).abs().max() < 1e-9
    # Its own checkpoints hold the same weights.
    weights = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)["state_dict"]
    assert all(
        torch.equal(weights[f"potential.{name}"], value) for name, value in module.potential.state_dict().items()
    )
