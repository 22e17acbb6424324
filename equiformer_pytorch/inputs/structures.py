"""The door of potentials: tensors, a PyG-style batch or ASE atoms; checked, and as one flat batch, sorted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Real, Shaped
from torch import Tensor

from equiformer_pytorch.base import checks
from equiformer_pytorch.base.tracing import (
    exporting,
    is_mapped,
    lasting,
    number_from_data,
    outside_transforms,
    plain,
)
from equiformer_pytorch.graph.periodic import radius_graph

FIELDS = ("atomic_numbers", "pos", "cell", "batch", "pbc", "edge_index", "cell_offsets", "edge_frames")


@dataclass(frozen=True)
class Structures:
    """Atoms of several structures, flat, structure after structure, with edges sorted by receiver. Lengths in Å."""

    atomic_numbers: Int[Tensor, " atoms"]
    pos: Float[Tensor, "atoms 3"]
    batch: Int[Tensor, " atoms"]
    """The structure of each atom, ascending."""
    count: int
    place: Int[Tensor, " atoms"] | None = None
    """Where each of the caller's atoms is; None where all are in their places."""
    cell: Float[Tensor, "structures 3 3"] | None = None
    """Cell vectors as rows."""
    pbc: Bool[Tensor, "..."] | None = None
    """Which vectors repeat, (structures, 3)."""
    edge_index: Int[Tensor, "2 edges"] | None = None
    """Senders and receivers."""
    cell_offsets: Real[Tensor, "edges 3"] | None = None
    """Sender of each edge: this many cell vectors away from its position."""
    edge_frames: Float[Tensor, "edges 3 3"] | None = None
    edges_per_atom: tuple[int, int] | None = None
    """Least and most given edges that an atom receives, where that was asked for and is known."""

    def ends(self) -> Int[Tensor, "2 edges"]:
        """Senders and receivers, once they are known."""
        if self.edge_index is None:
            raise ValueError("edge_index is not known yet")
        return self.edge_index

    def restored(self, x: Shaped[Tensor, "atoms *rest"]) -> Shaped[Tensor, "atoms *rest"]:
        """A tensor of atoms in the caller's order."""
        return x if self.place is None else x.index_select(0, self.place)

    def arranged(self, x: Shaped[Tensor, "atoms *rest"]) -> Shaped[Tensor, "atoms *rest"]:
        """A tensor of atoms in the caller's order, in this order."""
        return x if self.place is None else x.index_select(0, self.place.argsort())

    def with_edges(
        self, cutoff: float, max_neighbors: int | None, periodic: bool = True, strict_neighbors: bool = True
    ) -> Structures:
        """The structures with all edges within the cutoff, unless the caller gave some.

        Args:
            cutoff: Å.
            max_neighbors: the nearest so many of each receiver; None: all.
            periodic: whether structures repeat along their cell vectors.
            strict_neighbors: whether there are never more than `max_neighbors`.
        """
        if self.edge_index is not None:
            return self
        if exporting():
            raise ValueError("edge_index is missing: an exported program cannot look for neighbours")
        cell = self.cell if periodic else None
        for name, given in (("pos", self.pos), ("cell", cell)):
            if given is not None and is_mapped(given):
                raise ValueError(
                    f"edge_index is missing: torch.vmap hides a dimension of {name}, and neighbours differ along it;"
                    " pass edge_index and cell_offsets that hold for all"
                )
        pos, batch, cell = plain(self.pos), plain(self.batch), None if cell is None else plain(cell)
        pbc = None if self.pbc is None or not periodic else plain(self.pbc)
        with outside_transforms():
            edge_index, offsets = radius_graph(
                pos,
                cutoff,
                batch=batch,
                cell=cell,
                pbc=pbc,
                max_neighbors=max_neighbors,
                strict_neighbors=strict_neighbors,
            )
        return replace(self, edge_index=edge_index, cell_offsets=None if cell is None else offsets)


def gather_structures(
    data: Any,
    given: Mapping[str, Any],
    check_elements: Callable[[Int[Tensor, " atoms"]], None],
    device: torch.device,
    *,
    with_volume: bool = False,
    count_edges: bool = False,
) -> Structures:
    """Structures from a batch object or ASE atoms (`data`) or from tensors (`given`, by the names of :data:`FIELDS`).

    Args:
        data: or None.
        given: may be in any order of atoms and edges; cells may be (3·structures, 3), as PyG puts them together.
        check_elements: raises unless the model knows these atomic numbers; a check of values, see ``base/checks.py``.
        device: where tensors of ASE atoms are put.
        with_volume: every structure must have one.
        count_edges: :attr:`Structures.edges_per_atom` is needed.

    Raises:
        TypeError: arguments of the wrong type, or data and tensors at once.
        ValueError: wrong shapes or values; the message names the argument.
    """
    with checks.together() as gathered:
        fields, count = _fields(data, given, device)
        structures, count, in_order = _checked(fields, count, check_elements, with_volume, gathered)
        counted = None
        if count_edges and structures.edge_index is not None and checks.looks_at_values():
            counted = [gathered.number(bound) for bound in _count_edges(structures)]
    count = count.value if isinstance(count, checks.Answer) else count  # exporting, a symbol
    most = checks.most_neighbors()
    bounds = None if most is None or not count_edges else (0, most)
    bounds = bounds if counted is None else (counted[0].value, counted[1].value)
    pbc = _of_structures(structures.pbc, count)
    structures = replace(structures, count=count, pbc=pbc, edges_per_atom=bounds)
    return structures if in_order is not None and in_order.value else _sorted(structures)


def _count_edges(structures: Structures) -> tuple[Int[Tensor, ""], Int[Tensor, ""]]:
    """Least and most edges that an atom receives; of edges that may yet turn out to be out of range."""
    receivers, atoms = plain(structures.ends())[1], structures.batch.shape[0]
    counts = torch.zeros(max(atoms, 1), dtype=torch.long, device=receivers.device)
    least, most = counts.index_add(0, receivers.clamp(0, max(atoms - 1, 0)), torch.ones_like(receivers)).aminmax()
    return least, most


def _fields(data: Any, given: Mapping[str, Any], device: torch.device) -> tuple[dict[str, Any], int | None]:
    """By the names of :data:`FIELDS`; and how many structures there are, where `data` says so."""
    fields, count = {name: value for name, value in given.items() if value is not None}, None
    if data is not None:
        found, count = _from_data(data, device)
        clash = sorted(set(found) & set(fields) - {"edge_index", "cell_offsets"})
        if clash:
            raise TypeError(f"data has {', '.join(clash)} already: pass one or the other")
        fields = {**found, **fields}
    for name in ("atomic_numbers", "pos"):
        if name not in fields:
            raise TypeError(f"{name} is required: pass atomic_numbers and pos, a batch object or ASE atoms")
    if "pbc" in fields:  # True, or one for each axis, will do
        pos = checks.check_tensor("pos", fields["pos"])
        fields["pbc"] = checks.as_bool("pbc", torch.as_tensor(fields["pbc"], device=pos.device))
    return {name: lasting(checks.check_tensor(name, value)) for name, value in fields.items()}, count


def _from_data(data: Any, device: torch.device) -> tuple[dict[str, Any], int | None]:
    """The fields of a batch object, of ASE atoms or of a sequence of these; and how many structures, if it says so."""
    if hasattr(data, "get_atomic_numbers"):
        data = [data]
    if isinstance(data, Sequence) and data and all(hasattr(atoms, "get_atomic_numbers") for atoms in data):
        batch = [index for index, atoms in enumerate(data) for _ in range(len(atoms))]

        def joined(parts: list[Any], how: Callable[[list[Tensor]], Tensor] = torch.cat) -> Tensor:
            return how([torch.as_tensor(part, device="cpu") for part in parts]).to(device)

        return {
            "atomic_numbers": joined([atoms.get_atomic_numbers() for atoms in data]),
            "pos": joined([atoms.get_positions() for atoms in data]),
            "cell": joined([atoms.get_cell().array for atoms in data], torch.stack),
            "pbc": joined([atoms.get_pbc() for atoms in data], torch.stack),
            "batch": torch.tensor(batch, dtype=torch.long, device=device),
        }, len(data)
    if not hasattr(data, "pos"):
        raise TypeError(
            "data must be a batch object (attributes atomic_numbers, pos, …), ASE atoms or a list of these, got"
            f" {type(data).__name__}"
        )
    fields = {name: getattr(data, name, None) for name in FIELDS}
    fields = {name: value for name, value in fields.items() if value is not None}
    natoms, count = getattr(data, "natoms", None), getattr(data, "num_graphs", None)
    if "batch" not in fields and natoms is not None:
        pos = checks.check_tensor("pos", fields["pos"])
        ends = torch.as_tensor(natoms, device=pos.device).flatten().cumsum(0)
        count, atoms = ends.shape[0], torch.arange(pos.shape[0], device=pos.device)
        fields["batch"] = torch.searchsorted(ends, atoms, right=True).clamp(max=count - 1)
        if checks.looks_at_values():
            wrong = ValueError(f"natoms must be the numbers of atoms of the structures, {pos.shape[0]} in all")
            checks.require(ends[-1:].sum() == pos.shape[0], lambda: wrong)
    return fields, count if "batch" in fields else None


def _checked(
    fields: dict[str, Tensor],
    said: int | None,
    check_elements: Callable[[Tensor], None],
    with_volume: bool,
    gathered: checks.Together,
) -> tuple[Structures, int | checks.Answer, checks.Answer | None]:
    """In the caller's order; how many structures there are, as `said` or as `batch` has it; and whether the order will
    do, where anybody looks."""
    pos, cell, batch = fields["pos"], fields.get("cell"), fields.get("batch")
    checks.check_shape("pos", pos, (None, 3), "(atoms, 3)")
    checks.check_floating("pos", pos)
    pos = pos.float() if pos.dtype in (torch.float16, torch.bfloat16) else pos
    checks.check_finite("pos", pos, "atom")
    numbers = _whole("atomic_numbers", fields["atomic_numbers"], (pos.shape[0],), "(atoms,) of pos")
    check_elements(numbers)
    if cell is not None:
        cell = checks.check_cell(cell)
        said = cell.shape[0]
        _check_values(cell, with_volume)
    elif with_volume:
        raise ValueError("stress needs cell")
    if batch is None:
        count = 1 if said is None else said
        if count != 1:
            raise ValueError(f"batch is missing: which of the {count} structures each atom belongs to")
        batch = torch.zeros_like(numbers)
    else:
        batch = _whole("batch", batch, (pos.shape[0],), "(atoms,)")
        if said is not None:
            count = said
            checks.check_within("batch", batch, said, " for {count} structures" + " of cell" * (cell is not None))
        elif exporting():
            count = number_from_data(batch.max()) + 1
        else:
            _check_not_negative(batch)
            count = gathered.number(plain(batch).max() + 1) if batch.shape[0] else 0
    edges, in_order = _edges(fields, batch, cell), None
    if checks.looks_at_values():
        keys = (batch, *([edges["edge_index"][1]] if edges else ()))
        in_order = gathered.number(torch.stack([(key[1:] >= key[:-1]).all() for key in keys]).all())
    found = Structures(numbers, pos, batch, 0, cell=cell, pbc=fields.get("pbc"))
    return replace(found, **edges), count, in_order


def _sorted(given: Structures) -> Structures:
    """Atoms by structure, edges by receiver; otherwise in the order in which they came."""
    order = given.batch.argsort(stable=True)
    place = order.argsort()
    found = replace(
        given,
        atomic_numbers=given.atomic_numbers[order],
        pos=given.pos.index_select(0, order),
        batch=given.batch[order],
        place=place,
    )
    if given.edge_index is None:
        return found
    ends = place[given.edge_index]
    edges = ends[1].argsort(stable=True)
    offsets, frames = given.cell_offsets, given.edge_frames
    return replace(
        found,
        edge_index=ends[:, edges],
        cell_offsets=None if offsets is None else offsets[edges],
        edge_frames=None if frames is None else frames.index_select(0, edges),
    )


def _edges(fields: dict[str, Tensor], batch: Int[Tensor, " atoms"], cell: Tensor | None) -> dict[str, Tensor]:
    """The given edges with what belongs to them; none at all where there are none."""
    index, offsets, frames = (fields.get(name) for name in ("edge_index", "cell_offsets", "edge_frames"))
    if index is None:
        why = "belongs to edge_index, which was not given"
        checks.check_absent({"cell_offsets": offsets, "edge_frames": frames}, why)
        return {}
    atoms = batch.shape[0]
    index = _whole("edge_index", index, (2, None), "(2, edges)")
    found = {"edge_index": index}
    count = index.shape[1]
    checks.check_range(index, atoms)
    if offsets is not None:
        offsets = checks.check_offsets(offsets, count)
        if cell is not None:
            found["cell_offsets"] = offsets
        elif checks.looks_at_values():
            wrong = ValueError("cell is missing: cell_offsets are not all zero")
            checks.require((offsets == 0).all(), lambda: wrong)
    checks.check_edges(index[0], index[1], offsets, batch, torch.arange(atoms, device=batch.device))
    if frames is not None:
        checks.check_shape("edge_frames", frames, (count, 3, 3), "(edges, 3, 3)")
        checks.check_floating("edge_frames", frames)
        found["edge_frames"] = frames
    return found


def _check_values(cell: Float[Tensor, "structures 3 3"], with_volume: bool) -> None:
    """ValueError unless cells are finite and, if it is wanted, have a volume."""
    checks.check_finite("cell", cell, "structure")
    if with_volume and checks.looks_at_values():

        def error() -> ValueError:
            return ValueError(f"cell must have a volume in every structure for the stress, got {plain(cell).tolist()}")

        checks.require((volumes(cell) > 0).all(), error)


def volumes(cell: Float[Tensor, "*structures 3 3"]) -> Float[Tensor, "*structures"]:
    """|a · (b × c)|, Å³; by hand, since a determinant on a GPU may wait for it."""
    a, b, c = cell.unbind(-2)
    return (a * torch.linalg.cross(b, c)).sum(-1).abs()


def _of_structures(pbc: Tensor | None, count: int) -> Bool[Tensor, "structures 3"] | None:
    """From (structures, 3), (3,) or () for all; (3·structures,), as PyG puts vectors together, is taken apart."""
    if pbc is None:
        return None
    if pbc.ndim == 1 and pbc.shape[0] == 3 * count:
        pbc = pbc.unflatten(0, (count, 3))
    if pbc.ndim < 2 and pbc.shape in ((), (3,)):
        pbc = pbc.expand(count, 3)
    checks.check_shape("pbc", pbc, (count, 3), "(structures, 3)")
    return pbc


def _whole(name: str, values: Tensor, wanted: Sequence[int | None], words: str) -> Int[Tensor, "..."]:
    """As int64; TypeError unless they are whole numbers, of an integer dtype or a floating one."""
    checks.check_shape(name, values, wanted, words)
    if checks.is_integer(values):
        return values.long()
    wrong = TypeError(f"{name} must be whole numbers, got {values.dtype}")
    if not values.is_floating_point():
        raise wrong
    if checks.looks_at_values():
        checks.require((values == values.round()).all(), lambda: wrong)
    return values.long()


def _check_not_negative(batch: Int[Tensor, " atoms"]) -> None:
    def error() -> ValueError:
        return ValueError(f"batch must be at least 0, got values from {int(plain(batch).min())}")

    if checks.looks_at_values():
        checks.require((batch >= 0).all(), error)
