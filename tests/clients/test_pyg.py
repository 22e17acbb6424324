"""PyTorch Geometric itself: its batches are batches of potentials, for energies, forces, inputs and training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from equiformer_pytorch.atoms import Input, predict, radius_graph
from tests.atoms import potentials
from tests.atoms.kinds import KINDS, build, relative, structures
from tests.clients.common import needs

geometric = needs("torch_geometric", "pyg")
from torch_geometric.data import Batch, Data  # noqa: E402  # pyright: ignore[reportMissingImports]
from torch_geometric.loader import DataLoader  # noqa: E402  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.slow


def graphs(with_edges: bool) -> list[Any]:
    found = []
    for given in structures():
        data = Data(**given, y=torch.tensor([1.0]))
        if with_edges:
            data.edge_index, data.cell_offsets = radius_graph(given["pos"], potentials.CUTOFF, cell=given["cell"])
        found.append(data)
    return found


@pytest.mark.parametrize("with_edges", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch(kind: str, with_edges: bool) -> None:
    model = build(kind)
    batch: Any = Batch.from_data_list(graphs(with_edges))
    found = model.evaluate(batch, stress="stress" in model.gives)
    alone = [model.evaluate(given, stress="stress" in model.gives) for given in structures()]
    assert found.keys() == alone[0].keys()
    for name, value in found.items():
        assert relative(value, torch.cat([each[name] for each in alone])) < 1e-10, name


def test_inputs_are_attributes() -> None:
    model = potentials.potential(inputs={"charge": Input(least=-2, most=2), "field": Input("atom")})
    given = graphs(False)
    for number, data in enumerate(given):
        data.charge, data.field = torch.tensor([number - 1.0]), torch.full((len(data.pos),), 0.3)
    batch: Any = Batch.from_data_list(given)
    found = predict(model, batch)["energy"]
    for number, data in enumerate(given):
        inputs = {"charge": data.charge, "field": data.field}
        alone = model(data.atomic_numbers, data.pos, cell=data.cell, inputs=inputs)["energy"]
        assert abs(found[number] - alone) < 1e-10
        assert abs(found[number] - model(data.atomic_numbers, data.pos, cell=data.cell)["energy"]) > 1e-4


def test_training_by_its_loader() -> None:
    model = build("own").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        for batch in DataLoader(graphs(True), batch_size=3):
            loss = predict(model, batch)["forces"].square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
