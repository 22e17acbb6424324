r"""Properties of molecules read out of the features that an :class:`EquiformerPotential` finds for their atoms.

With its energy :math:`E = \sum_i (E^0_{Z_i} + s\,\epsilon_i)`, the centre c of the charges of the nuclei, and per atom
a number q, a vector v and a traceless symmetric matrix A,

.. math:: \text{sum:}\; E \qquad \text{mean:}\; a + s\,\langle q_i\rangle \qquad
    \text{length:}\; s\,\Bigl|\sum_i v_i + (q_i - \langle q\rangle)(r_i - c)\Bigr| \qquad
    \text{extent:}\; E + \sum_i (w_{Z_i} + s\,q_i)\,|r_i - c|^2 \qquad
    \text{tensor:}\; \tfrac{E}{3}\,1 + s \sum_i A_i .

E⁰, w and a are fitted to the training set by least squares, and s is what they leave.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equiformer_pytorch import EquiformerPotential
from equiformer_pytorch.atoms import Target
from equiformer_pytorch.atoms.tensors import basis
from examples.qm9.frames import charge_centred
from examples.qm9.properties import SPECIES, Kind

TARGETS: dict[Kind, dict[str, Target]] = {
    "sum": {},
    "mean": {"number": Target(0)},
    "length": {"number": Target(0), "vector": Target(1)},
    "extent": {"number": Target(0)},
    "tensor": {"matrix": Target(2, "structure")},
}
# Those of which the energy of the potential is a part.
WITH_ENERGY = ("sum", "extent", "tensor")
Batch = Mapping[str, Tensor]


class MoleculeProperty(nn.Module):
    """One property of molecules, of one kind, in its unit.

    Args:
        kind: how it is read out.
        options: of :class:`EquiformerPotential`.
    """

    offset: Tensor
    scale: Tensor
    of_species: Tensor

    def __init__(self, kind: Kind, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.potential = EquiformerPotential(species=SPECIES, targets=TARGETS[kind], **options)
        self.register_buffer("offset", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("of_species", torch.zeros(len(SPECIES), dtype=torch.float64))
        self.register_buffer("basis", torch.from_numpy(basis()), persistent=False)
        if kind not in WITH_ENERGY:
            self.potential.to_energy.requires_grad_(False)

    def forward(self, batch: Batch) -> Float[Tensor, "molecules *columns"]:
        """Of a batch with `atomic_numbers`, `pos`, `batch` and `edge_index`, in float64: (molecules,), or tensors
        (molecules, 3, 3)."""
        out = self.potential.evaluate(batch, forces=False)
        if self.kind == "sum":
            return out["energy"]
        if self.kind == "tensor":
            traceless = torch.einsum("mi,iab->mab", out["matrix"].double(), self.get_buffer("basis"))
            isotropic = torch.eye(3, dtype=torch.float64, device=traceless.device) * out["energy"][:, None, None] / 3
            return isotropic + self.scale * traceless
        molecule, number = batch["batch"], out["number"].double()
        count = len(out["energy"])
        if self.kind == "mean":
            return self.offset + self.scale * _mean(number, molecule, count)
        pos, _ = charge_centred(batch["atomic_numbers"], batch["pos"].double(), molecule, count)
        if self.kind == "extent":
            weights = self.of_species[self.potential.energies.index(batch["atomic_numbers"])] + self.scale * number
            return out["energy"] + _sum(weights * pos.square().sum(1), molecule, count)
        neutral = number - _mean(number, molecule, count).index_select(0, molecule)
        return self.scale * _length(_sum(out["vector"].double() + neutral[:, None] * pos, molecule, count))

    @torch.no_grad()
    def fit(self, batch: Batch, values: Float[Tensor, "molecules *columns"]) -> Float[Tensor, "molecules *columns"]:
        """Sets all that is not learned from molecules and their values; returns what it leaves of these."""
        molecule, numbers, count = batch["batch"], batch["atomic_numbers"], len(values)
        kinds = (numbers[:, None] == torch.tensor(SPECIES)).double()
        composition = _sum(kinds, molecule, count)
        if self.kind == "length":
            self.scale.copy_(values.square().mean().sqrt())
            return values
        if self.kind == "mean":
            self.offset.copy_(values.mean())
            self.scale.copy_(values.std())
            return values - self.offset
        pos, _ = charge_centred(numbers, batch["pos"].double(), molecule, count)
        rows = composition
        if self.kind == "extent":
            rows = torch.cat((rows, _sum(kinds * pos.square().sum(1, keepdim=True), molecule, count)), dim=1)
        wanted = _trace(values) if self.kind == "tensor" else values
        found = torch.linalg.lstsq(rows, wanted[:, None], driver="gelsd").solution[:, 0]
        left = wanted - rows @ found
        energies = self.potential.energies
        energies.references.copy_(found[: len(SPECIES)])
        energies.scale.copy_(left.square().mean().sqrt() / composition.sum(1).mean().sqrt())
        if self.kind == "extent":
            self.of_species.copy_(found[len(SPECIES) :])
            self.scale.copy_(left.square().mean().sqrt() / rows[:, len(SPECIES) :].sum(1).mean())
        if self.kind != "tensor":
            return left
        traceless = values - torch.eye(3, dtype=values.dtype) * _trace(values)[:, None, None] / 3
        self.scale.copy_((traceless.square().sum((1, 2)).mean() / composition.sum(1).mean()).sqrt())
        return traceless + torch.eye(3, dtype=values.dtype) * left[:, None, None] / 3


def nearest(
    found: Float[Tensor, "molecules *columns"], candidates: Float[Tensor, "molecules candidates *columns"]
) -> Float[Tensor, "molecules *columns"]:
    """Of each molecule the candidate that is nearest to what was found."""
    distance = (found[:, None] - candidates).flatten(2).norm(dim=2)
    return candidates[torch.arange(len(found), device=found.device), distance.argmin(1)]


def _sum(x: Float[Tensor, "atoms *columns"], molecule: Tensor, count: int) -> Float[Tensor, "molecules *columns"]:
    return x.new_zeros(count, *x.shape[1:]).index_put((molecule,), x, accumulate=True)


def _mean(x: Float[Tensor, " atoms"], molecule: Tensor, count: int) -> Float[Tensor, " molecules"]:
    return _sum(x, molecule, count) / torch.bincount(molecule, minlength=count)


def _trace(x: Float[Tensor, "molecules 3 3"]) -> Float[Tensor, " molecules"]:
    return x.diagonal(dim1=1, dim2=2).sum(1)


def _length(x: Float[Tensor, "molecules 3"], smoothing: float = 1e-3) -> Float[Tensor, " molecules"]:
    """Smooth where there is no dipole moment at all, as symmetry often wants it."""
    return (x.square().sum(1) + smoothing**2).sqrt() - smoothing
