"""The sides of ``benchmarks/qm9.py``, each built from its settings; what a side needs is imported when it is.

A model takes a batch and returns a column of targets (molecules, 1), or the nine components of matrices. All targets
are residuals of a least-squares fit by composition over their standard deviation, alike for all sides; which are sums
over atoms, and which means, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

Batch = dict[str, Any]
# Atoms of a molecule of QM9, on average.
ATOMS = 18


def gathered(of_atoms: Tensor, batch: Batch, kind: str) -> Tensor:
    """Sum over the atoms of each molecule, over the root of how many they are on average; or the mean."""
    total = of_atoms.new_zeros(len(batch["sizes"]), *of_atoms.shape[1:]).index_add(0, batch["batch"], of_atoms)
    return total / batch["sizes"][:, None] if kind == "mean" else total / ATOMS**0.5


class Ours(nn.Module):
    """`EquiformerPotential`, whose energy stays out of it."""

    def __init__(self, data: dict[str, Any], options: dict[str, Any]) -> None:
        super().__init__()
        from equiformer_pytorch import EquiformerPotential
        from equiformer_pytorch.atoms import Target
        from equiformer_pytorch.atoms.tensors import basis

        self.kind = data["kind"]
        targets = {"value": Target(0)} | ({"matrix": Target(2)} if self.kind == "tensor" else {})
        self.potential = EquiformerPotential(species=data["species"], cutoff=data["cutoff"], targets=targets, **options)
        self.potential.to_energy.requires_grad_(False)
        self.register_buffer("basis", torch.from_numpy(basis()).float().flatten(1))

    def forward(self, batch: Batch) -> Tensor:
        out = self.potential(
            batch["numbers"], batch["pos"], batch["batch"], edge_index=batch["edge_index"], forces=False
        )
        found = out["value"][:, None]
        if self.kind == "tensor":
            found = isotropic(found) + out["matrix"] @ self.get_buffer("basis")
        return gathered(found, batch, self.kind)


class Published(nn.Module):
    """equiformer-pytorch 0.5.4: dense, and invariants alone, since it gives no degree above 1."""

    def __init__(self, data: dict[str, Any], options: dict[str, Any]) -> None:
        super().__init__()
        from equiformer_pytorch import Equiformer

        if data["kind"] == "tensor":
            raise SystemExit("the published package gives degrees 0 and 1 alone")
        self.kind, self.species = data["kind"], torch.tensor(data["species"])
        self.network = Equiformer(
            num_tokens=len(self.species), valid_radius=data["cutoff"], reduce_dim_out=True, **options
        )

    def forward(self, batch: Batch) -> Tensor:
        sizes = batch["sizes"]
        mask = torch.arange(int(sizes.max())) < sizes[:, None]
        tokens = torch.zeros(mask.shape, dtype=torch.long)
        tokens[mask] = torch.searchsorted(self.species, batch["numbers"])
        coors = torch.zeros(*mask.shape, 3)
        coors[mask] = batch["pos"]
        return gathered(self.network(tokens, coors, mask).type0[mask][:, None], batch, self.kind)


class PaiNN(nn.Module):
    """schnetpack 2.1.1 (Schütt et al. 2021), as its configurations have it: 20 Gaussians, a cosine cutoff, read-outs of
    two layers; for the tensor that of its `Polarizability`."""

    def __init__(self, data: dict[str, Any], options: dict[str, Any]) -> None:
        super().__init__()
        bare("schnetpack")
        import schnetpack.nn as snn  # pyright: ignore[reportMissingImports]
        from schnetpack.representation.painn import PaiNN as Network  # pyright: ignore[reportMissingImports]

        self.kind, width = data["kind"], options["n_atom_basis"]
        self.network = Network(
            radial_basis=snn.GaussianRBF(n_rbf=20, cutoff=data["cutoff"]),
            cutoff_fn=snn.CosineCutoff(data["cutoff"]),
            **options,
        )
        build = snn.build_gated_equivariant_mlp if self.kind == "tensor" else snn.build_mlp
        self.to_value = build(n_in=width, n_out=1, n_layers=2)

    def forward(self, batch: Batch) -> Tensor:
        (senders, receivers), pos = batch["edge_index"], batch["pos"]
        vectors = pos[senders] - pos[receivers]
        names = {"_atomic_numbers": batch["numbers"], "_Rij": vectors, "_idx_i": receivers, "_idx_j": senders}
        found = self.network(names)
        scalars, vectors = found["scalar_representation"], found["vector_representation"]
        if self.kind != "tensor":
            return gathered(self.to_value(scalars), batch, self.kind)
        scalars, vectors = self.to_value((scalars, vectors))
        outer = vectors * pos[:, None]
        return gathered(isotropic(scalars) + (outer + outer.mT).flatten(1), batch, self.kind)


class MACE(nn.Module):
    """mace-torch 0.3.16 (Batatia et al. 2022), the model of its `run_train` with these options; energies of atoms."""

    def __init__(self, data: dict[str, Any], options: dict[str, Any]) -> None:
        super().__init__()
        import numpy as np
        from mace import modules  # pyright: ignore[reportMissingImports] # isort: skip: it makes e3nn importable
        from e3nn import o3

        if data["kind"] == "tensor":
            raise SystemExit("MACE's potentials give no tensors")
        self.kind, self.species = data["kind"], torch.tensor(data["species"])
        blocks = modules.interaction_classes
        edges = len(data["edges"][0]) / len(data["numbers"])
        self.network = modules.ScaleShiftMACE(
            **(options | {"hidden_irreps": o3.Irreps(options["hidden_irreps"]), "MLP_irreps": o3.Irreps("16x0e")}),
            r_max=data["cutoff"],
            num_bessel=8,
            num_polynomial_cutoff=5,
            interaction_cls=blocks["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=blocks["RealAgnosticInteractionBlock"],
            num_elements=len(self.species),
            atomic_energies=np.zeros(len(self.species)),
            avg_num_neighbors=edges,
            atomic_numbers=data["species"],
            gate=nn.functional.silu,
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )

    def forward(self, batch: Batch) -> Tensor:
        edges, sizes = batch["edge_index"], batch["sizes"]
        given = {
            "positions": batch["pos"],
            "node_attrs": (batch["numbers"][:, None] == self.species).float(),
            "edge_index": edges,
            "shifts": torch.zeros(edges.shape[1], 3),
            "unit_shifts": torch.zeros(edges.shape[1], 3),
            "cell": torch.zeros(3 * len(sizes), 3),
            "batch": batch["batch"],
            "ptr": torch.nn.functional.pad(sizes.cumsum(0), (1, 0)),
        }
        out = self.network(given, training=self.training, compute_force=False)
        return gathered(out["node_energy"].float()[:, None], batch, self.kind)


class Official(nn.Module):
    """The official Equiformer (Liao & Smidt 2022), a model of its QM9 scripts, from a checkout on the module path.

    What it would sum over atoms is gathered here; the mean, deviation and atoms' references that it can be given it
    keeps without using them, so it gets none.
    """

    def __init__(self, data: dict[str, Any], options: dict[str, Any]) -> None:
        super().__init__()
        from benchmarks.official import official_v1

        if data["kind"] == "tensor":
            raise SystemExit("the official Equiformer's read-out gives invariants alone")
        self.kind = data["kind"]
        self.network = official_v1(folder_of("nets").parent, irreps_in="5x0e", radius=data["cutoff"], **options)

    def forward(self, batch: Batch) -> Tensor:
        found = self.network(None, batch["pos"], batch["edge_index"], batch["numbers"])
        return gathered(found, batch, self.kind)


def isotropic(values: Tensor) -> Tensor:
    """Multiples (rows, 9) of the unit matrix, of numbers (rows, 1)."""
    return values * torch.eye(3).flatten()


def folder_of(package: str) -> Path:
    """Of a package that is not imported yet."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is missing in {sys.executable}")
    return Path(spec.submodule_search_locations[0])


def bare(package: str) -> None:
    """Makes a package importable module by module: its own first lines import what only its programs need."""
    module = ModuleType(package)
    module.__path__ = [str(folder_of(package))]
    sys.modules[package] = module


SIDES: dict[str, Callable[[dict[str, Any], dict[str, Any]], nn.Module]] = {
    "ours": Ours,
    "published": Published,
    "painn": PaiNN,
    "mace": MACE,
    "official": Official,
}
