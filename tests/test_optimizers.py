"""Muon beside its definition and beside torch's; AdamW's share beside torch's; what a checkpoint keeps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equiformer_pytorch import Equiformer
from equiformer_pytorch.training.optimizers import Muon, optimizer_for, orthogonal


class Maps(nn.Module):
    """Matrices wide, tall and stacked, twice of one shape; a vector, an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        self.wide, self.tall = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6, 4))
        self.heads, self.deep = nn.Parameter(torch.randn(3, 6, 4)), nn.Parameter(torch.randn(2, 3, 4, 6))
        self.gain = nn.Parameter(torch.randn(5))
        self.frozen = nn.Parameter(torch.randn(4, 6), requires_grad=False)

    @property
    def trained(self) -> list[Tensor]:
        return [weight for weight in self.parameters() if weight.requires_grad]


def with_slopes(module: Maps, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in module.trained:
        weight.grad = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)


def test_singular_values_become_ones_nearly() -> None:
    matrices = torch.randn(5, 12, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrices[1] *= 1e6
    left, values, right = torch.linalg.svd(orthogonal(matrices), full_matrices=False)
    assert values.min() > 0.65
    assert values.max() < 1.25
    true = torch.linalg.svd(matrices, full_matrices=False)
    close = left @ torch.diag_embed(values) @ right - true.U @ true.Vh  # the same singular vectors
    assert close.norm(dim=(-2, -1)).max() < 0.35 * 12**0.5
    assert torch.equal(orthogonal(torch.zeros(1, 2, 3)), torch.zeros(1, 2, 3))


def test_a_step_is_what_the_equation_says() -> None:
    torch.manual_seed(0)
    module = Maps().double()
    optimizer = Muon(module, 0.1, momentum=0.9, weight_decay=0.5)
    momentum: dict[str, Tensor] = {}
    for step in range(3):
        with_slopes(module, step)
        before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
        optimizer.step()
        for name in ("wide", "tall", "heads", "deep"):
            weight = getattr(module, name)
            momentum[name] = 0.9 * momentum.get(name, torch.zeros_like(weight)) + weight.grad
            ahead = (weight.grad + 0.9 * momentum[name]).reshape(-1, *weight.shape[-2:])
            turned = [
                orthogonal(one[None])[0] if name in ("wide", "deep") else orthogonal(one.mT[None])[0].mT
                for one in ahead
            ]
            wanted = (1 - 0.1 * 0.5) * before[name] - 0.2 * 0.1 * 6**0.5 * torch.stack(turned).view_as(weight)
            torch.testing.assert_close(weight.detach(), wanted, atol=1e-12, rtol=1e-12)
        assert torch.equal(module.frozen, before["frozen"])


def test_all_else_moves_as_with_adamw() -> None:
    torch.manual_seed(0)
    module = Maps().double()
    twin = copy.deepcopy(module)
    optimizer = Muon(module, 0.1, betas=(0.8, 0.95), weight_decay=0.3)
    adamw = torch.optim.AdamW([twin.embedding.weight, twin.gain], 0.1, betas=(0.8, 0.95), weight_decay=0.3)
    for step in range(4):
        with_slopes(module, step)
        with_slopes(twin, step)
        optimizer.step()
        adamw.step()
    torch.testing.assert_close(module.embedding.weight, twin.embedding.weight, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(module.gain, twin.gain, atol=1e-12, rtol=1e-12)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch 2.9 and later have one of their own")
def test_matrices_beside_the_muon_of_torch() -> None:
    torch.manual_seed(0)
    module = Maps()
    twin = copy.deepcopy(module)
    optimizer = Muon(module, 0.1)
    theirs = torch.optim.Muon([twin.wide, twin.tall], 0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    before = module.wide.detach().clone()
    for step in range(3):
        with_slopes(module, step)
        with_slopes(twin, step)
        optimizer.step()
        theirs.step()
    moved = (module.wide - before).norm()  # theirs computes in bfloat16, and averages its momentum
    assert (module.wide - twin.wide).norm() < 0.05 * moved
    assert (module.tall - twin.tall).norm() < 0.05 * moved


def test_a_run_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    module = Maps()
    optimizer = Muon(module, 0.1)
    for step in range(2):
        with_slopes(module, step)
        optimizer.step()
    twin = copy.deepcopy(module)
    other = Muon(twin, 0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, its in ((module, optimizer), (twin, other)):
        with_slopes(one, 2)
        its.step()
    for one, same in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, same)


def test_parameters_without_a_gradient_stay() -> None:
    module = Maps()
    with_slopes(module, 0)
    module.wide.grad = module.gain.grad = None
    before = module.wide.detach().clone(), module.gain.detach().clone()
    Muon(module, 0.1, weight_decay=0.1).step()
    assert torch.equal(module.wide, before[0])
    assert torch.equal(module.gain, before[1])


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_an_equiformer_learns(name: str) -> None:
    torch.manual_seed(0)
    model = Equiformer(
        num_tokens=4, dim=8, num_degrees=2, depth=1, heads=2, dim_head=4, num_neighbors=4, reduce_dim_out=True
    )
    tokens, coors = torch.randint(4, (1, 8)), torch.randn(1, 8, 3)
    optimizer = optimizer_for(model, name, 1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (model(tokens, coors).type1 - coors).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_what_trains_a_potential_unless_it_is_told() -> None:
    """Muon where weights are new, Adam where they come from a file; each with its own rate."""
    pytest.importorskip("ase", reason="needs the extra train")
    from equiformer_pytorch.training.potentials.settings import PotentialSettings
    from equiformer_pytorch.training.potentials.start import decided

    cases: list[tuple[dict[str, Any], tuple[str, float]]] = [
        ({}, ("muon", 3e-3)),
        ({"checkpoint": "some.pt"}, ("adamw", 1e-3)),
        ({"optimizer": "adamw"}, ("adamw", 1e-3)),
        ({"optimizer": "muon", "checkpoint": "some.pt"}, ("muon", 3e-3)),
        ({"lr": 0.02}, ("muon", 0.02)),
        ({"optimizer": "adamw", "lr": 1e-3}, ("adamw", 1e-3)),
    ]
    for given, wanted in cases:
        settings = decided(PotentialSettings(**given))
        assert (settings.optimizer, settings.lr) == wanted
        assert decided(settings) == settings
