"""What a caller may pass: tensors, a PyG-style batch, ASE atoms; checked, and as one flat batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from equiformer_pytorch.base.checks import check_finite, check_floating, check_shape, check_tensor, is_integer

FIELDS = ("atomic_numbers", "pos", "cell", "batch", "pbc", "edge_index", "cell_offsets", "edge_frames")


@dataclass(frozen=True)
class Structures:
    """Atoms of several structures, flat. Lengths in Å."""

    atomic_numbers: Int[Tensor, " atoms"]
    pos: Float[Tensor, "atoms 3"]
    batch: Int[Tensor, " atoms"]
    """The structure of each atom, ascending."""
    count: int
    cell: Float[Tensor, "structures 3 3"] | None = None
    """Cell vectors as rows."""
    pbc: Bool[Tensor, "structures 3"] | None = None
    edge_index: Int[Tensor, "2 edges"] | None = None
    """Senders and receivers."""
    cell_offsets: Float[Tensor, "edges 3"] | None = None
    """Sender of each edge: this many cell vectors away from its position."""
    edge_frames: Float[Tensor, "edges 3 3"] | None = None

    def ends(self) -> Int[Tensor, "2 edges"]:
        """Senders and receivers, once they are known."""
        if self.edge_index is None:
            raise ValueError("edge_index is not known yet")
        return self.edge_index

    def geometry(self) -> EdgeGeometry:
        """The vector pos[sender] + offset · cell − pos[receiver] of each edge.

        The official code rounds offset · cell to float32, whatever the dtype of the positions, and in the backward
        pass what comes back to it. If given frames fit edges rounded like that better, they are.
        """
        senders, receivers = self.ends()
        vectors = self.pos.index_select(0, senders) - self.pos.index_select(0, receivers)
        if self.cell is None or self.cell_offsets is None:
            return EdgeGeometry(vectors)
        cells = self.cell.index_select(0, self.batch.index_select(0, receivers))
        exact = (self.cell_offsets.to(cells.dtype)[:, None] @ cells).squeeze(1)
        if self.edge_frames is None or cells.dtype == torch.float32:
            return EdgeGeometry(vectors + exact)
        single = self.cell_offsets.float()
        rounded = (single[:, None] @ cells.float()).squeeze(1).to(cells.dtype)
        if self._misfit(vectors + exact) <= self._misfit(vectors + rounded):
            return EdgeGeometry(vectors + exact)
        return EdgeGeometry(vectors + rounded, Rounded(vectors, single, cells))

    def _misfit(self, vectors: Float[Tensor, "edges 3"]) -> float:
        """How far the given frames are from carrying these edges to y."""
        if self.edge_frames is None or not vectors.numel():
            return 0.0
        direction = torch.nn.functional.normalize(vectors.detach(), dim=1)
        return float((self.edge_frames[:, 1].detach() - direction).abs().mean())


@dataclass(frozen=True)
class Rounded:
    """Edges whose translations along the cell were rounded to float32."""

    within: Float[Tensor, "edges 3"]
    """pos[sender] − pos[receiver]."""
    offsets: Float32[Tensor, "edges 3"]
    cells: Float[Tensor, "edges 3 3"]


@dataclass(frozen=True)
class EdgeGeometry:
    """Vectors of edges, and how they came about if something was rounded."""

    vectors: Float[Tensor, "edges 3"]
    rounded: Rounded | None = None

    def strain_derivative(self, slope: Float[Tensor, "edges 3"]) -> Float[Tensor, "edges 3 3"]:
        """∂E/∂ε of each edge, ε a symmetric strain, from `slope` = ∂E/∂vector."""
        if self.rounded is None:
            outer = self.vectors[:, :, None] * slope[:, None]
        else:
            of_cells = (self.rounded.offsets[:, :, None] * slope.float()[:, None]).to(slope.dtype)
            outer = self.rounded.within[:, :, None] * slope[:, None] + self.rounded.cells.mT @ of_cells
        return (outer + outer.mT) / 2


def gather_structures(data: Any, given: dict[str, Any], elements: int, device: torch.device) -> Structures:
    """Structures from a batch object or ASE atoms (`data`) or from tensors (`given`, by the names of :data:`FIELDS`).

    Raises:
        TypeError: arguments of the wrong type, or data and tensors at once.
        ValueError: wrong shapes or values; the message names the argument.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if data is not None:
        fields = _from_data(data, device)
        clash = sorted(set(fields) & set(given) - {"edge_index", "cell_offsets"})
        if clash:
            raise TypeError(f"data has {', '.join(clash)} already: pass one or the other")
        given = {**fields, **given}
    for name in ("atomic_numbers", "pos"):
        if name not in given:
            raise TypeError(f"{name} is required: pass atomic_numbers and pos, a batch object or ASE atoms")
    return _checked(elements, **given)


def _from_data(data: Any, device: torch.device) -> dict[str, Any]:
    """The fields of a batch object, of ASE atoms or of a sequence of these."""
    if hasattr(data, "get_atomic_numbers"):
        data = [data]
    if isinstance(data, Sequence) and data and all(hasattr(atoms, "get_atomic_numbers") for atoms in data):
        dtype = torch.get_default_dtype()
        sizes = torch.tensor([len(atoms) for atoms in data])
        return {
            "atomic_numbers": torch.cat([torch.as_tensor(atoms.get_atomic_numbers()) for atoms in data]).to(device),
            "pos": torch.cat([torch.as_tensor(atoms.get_positions()) for atoms in data]).to(device, dtype),
            "cell": torch.stack([torch.as_tensor(atoms.get_cell().array) for atoms in data]).to(device, dtype),
            "pbc": torch.stack([torch.as_tensor(atoms.get_pbc()) for atoms in data]).to(device),
            "batch": torch.repeat_interleave(torch.arange(len(data)), sizes).to(device),
        }
    if not hasattr(data, "pos"):
        raise TypeError(
            "data must be a batch object (attributes atomic_numbers, pos, …), ASE atoms or a list of these, got"
            f" {type(data).__name__}"
        )
    fields = {name: getattr(data, name, None) for name in FIELDS}
    fields = {name: value for name, value in fields.items() if value is not None}
    natoms = getattr(data, "natoms", None)
    if "batch" not in fields and natoms is not None:
        sizes = torch.as_tensor(natoms).flatten().to(fields["pos"].device)
        fields["batch"] = torch.repeat_interleave(torch.arange(sizes.numel(), device=sizes.device), sizes)
    return fields


def _checked(
    elements: int,
    atomic_numbers: Tensor,
    pos: Tensor,
    cell: Tensor | None = None,
    batch: Tensor | None = None,
    pbc: Tensor | None = None,
    edge_index: Tensor | None = None,
    cell_offsets: Tensor | None = None,
    edge_frames: Tensor | None = None,
) -> Structures:
    check_shape("pos", check_tensor("pos", pos), (None, 3), "(atoms, 3)")
    check_floating("pos", pos)
    check_finite("pos", pos, "atom")
    atoms = pos.shape[0]
    pos = pos.float() if pos.dtype in (torch.float16, torch.bfloat16) else pos
    check_shape("atomic_numbers", check_tensor("atomic_numbers", atomic_numbers), (atoms,), "(atoms,)")
    atomic_numbers = _whole("atomic_numbers", atomic_numbers, elements)
    if batch is None:
        batch = torch.zeros(atoms, dtype=torch.long, device=pos.device)
    check_shape("batch", check_tensor("batch", batch), (atoms,), "(atoms,)")
    batch = _whole("batch", batch, None)
    if bool((batch[1:] < batch[:-1]).any()):
        raise ValueError("batch must be ascending: the atoms of a structure side by side")
    count = int(batch[-1]) + 1 if atoms else 0
    if cell is not None:
        cell = check_tensor("cell", cell)
        cell = cell[None] if cell.ndim == 2 else cell
        check_floating("cell", cell)
        check_shape("cell", cell, (None, 3, 3), "(structures, 3, 3)")
        if cell.shape[0] < count:
            raise ValueError(
                f"cell must have one entry for each of the {count} structures of batch, got {cell.shape[0]}"
            )
        count, cell = cell.shape[0], cell.to(pos.dtype)
        check_finite("cell", cell, "structure")
    if pbc is not None:
        pbc = check_tensor("pbc", pbc)
        pbc = pbc[None].expand(count, 3) if pbc.ndim == 1 else pbc
        check_shape("pbc", pbc, (count, 3), "(structures, 3)")
        pbc = pbc.bool()
    if edge_index is None:
        for name, value in (("cell_offsets", cell_offsets), ("edge_frames", edge_frames)):
            if value is not None:
                raise ValueError(f"{name} belongs to edge_index, which was not given")
        return Structures(atomic_numbers, pos, batch, count, cell, pbc)
    check_shape("edge_index", check_tensor("edge_index", edge_index), (2, None), "(2, edges)")
    edge_index = _whole("edge_index", edge_index, atoms)
    edges = edge_index.shape[1]
    if bool((batch[edge_index[0]] != batch[edge_index[1]]).any()):
        raise ValueError("edge_index must join atoms of the same structure")
    if cell_offsets is not None:
        check_shape("cell_offsets", check_tensor("cell_offsets", cell_offsets), (edges, 3), "(edges, 3)")
        if cell is None and bool((cell_offsets != 0).any()):
            raise ValueError("cell_offsets need cell")
    if edge_frames is not None:
        check_shape("edge_frames", check_tensor("edge_frames", edge_frames), (edges, 3, 3), "(edges, 3, 3)")
        check_floating("edge_frames", edge_frames)
    return Structures(atomic_numbers, pos, batch, count, cell, pbc, edge_index, cell_offsets, edge_frames)


def _whole(name: str, values: Tensor, limit: int | None) -> Int[Tensor, "..."]:
    """As int64; ValueError unless they are whole numbers in 0 … limit − 1."""
    if not is_integer(values):
        if values.is_floating_point() and bool((values == values.round()).all()):
            return _whole(name, values.long(), limit)
        raise TypeError(f"{name} must be whole numbers, got {values.dtype}")
    if values.numel():
        low, high = int(values.min()), int(values.max())
        if low < 0 or (limit is not None and high >= limit):
            top = "" if limit is None else f" and below {limit}"
            raise ValueError(f"{name} must be at least 0{top}, got values from {low} to {high}")
    return values.long()
