"""Potentials as programs of ``torch.export``, for files that run without this package."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.fx.experimental.proxy_tensor import make_fx

from equiformer_pytorch.base.potential import Potential
from equiformer_pytorch.base.tracing import lasting_tensors, tracing_with_derivatives

FIELDS = ("atomic_numbers", "pos", "batch", "cell", "edge_index", "cell_offsets")
# Of the example that is traced. All differ, also from 2 and 3, the sizes of other axes: equal ones are taken for one.
STRUCTURES, ATOMS, EDGES = 5, 11, 23


class Program(nn.Module):
    """What was traced, by the names of its arguments."""

    def __init__(self, traced: nn.Module) -> None:
        super().__init__()
        self.traced = traced

    def forward(
        self,
        atomic_numbers: Tensor,
        pos: Tensor,
        batch: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        cell_offsets: Tensor,
        inputs: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        return self.traced(atomic_numbers, pos, batch, cell, edge_index, cell_offsets, inputs or {})


@lasting_tensors()
def export_potential(potential: Potential, *, forces: bool = True, stress: bool | None = None) -> ExportedProgram:
    """A potential with its derivatives as a program of ``torch.export``, for any numbers of structures, atoms, edges.

    ``torch.export.save(program, "potential.pt2")`` keeps it in a file that ``torch.export.load`` reads where this
    package is not installed. ``torch._inductor.aoti_compile_and_package(program, package_path="compiled.pt2")``
    compiles it for this kind of machine (a C++ compiler is needed), for ``torch._inductor.aoti_load_package`` and for
    C++.

    The program is called by name and gives a dict as :meth:`Potential.evaluate` does: eV, Å, eV/Å, eV/Å³.

    ============== ================ =========== ======================================================================
    atomic_numbers (atoms,)         int64       of the potential's elements
    pos            (atoms, 3)       float64     Å
    batch          (atoms,)         int64       the structure of each atom, in any order
    cell           (structures,3,3) float64     cell vectors as rows, Å; zeros where there are none
    edge_index     (2, edges)       int64       sender and receiver of all that the potential sees, in any order
    cell_offsets   (edges, 3)       int64       how many cells away the sender is
    inputs         by name          float64     where the potential takes some, (structures,) or (atoms,); all of them
    ============== ================ =========== ======================================================================

    It looks at no values: elements that the potential does not know, edges that do not exist or the stress of a
    structure without volume give wrong numbers or none. Nor does it count: the caller leaves out what is beyond the
    potential's `max_neighbors` (as its `strict_neighbors` says), as :func:`~equiformer_pytorch.atoms.radius_graph`
    does, and edges to images where it does not see them (`use_pbc`). Edges beyond the cutoff weigh nothing, but in
    models without an envelope (EquiformerV2, `use_envelope=False`).

    Args:
        potential: of any kind, which stays as it is. The program computes on its device, in the dtype of its weights.
        forces, stress: whether it gives them; the stress by default where the potential does.

    Raises:
        ValueError: a stress is wanted of a potential that gives none.
    """
    stress = "stress" in potential.gives if stress is None else stress
    if stress and "stress" not in potential.gives:
        raise ValueError(f"stress is wanted, and the potential gives only {sorted(potential.gives)}")
    own = copy.deepcopy(potential).eval().requires_grad_(False)
    example, inputs = _example(own)

    def evaluated(*given: Any) -> dict[str, Tensor]:
        *fields, named = given
        structures: Mapping[str, Tensor] = {**dict(zip(FIELDS, fields, strict=True)), **named}
        out = own.evaluate(structures, forces=forces, stress=stress)
        return {name: x.detach() for name, x in out.items()}

    with torch.no_grad(), tracing_with_derivatives():
        # The weights are no arguments: they become a part of the graph.
        traced = make_fx(evaluated, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*example.values(), inputs)
    for name, constant in list(traced.named_buffers()):  # perhaps transposed, which files do not hold well
        setattr(traced, name, constant.clone(memory_format=torch.contiguous_format))
    atoms, edges, structures = {0: Dim("atoms")}, {0: Dim("edges")}, {0: Dim("structures")}
    shapes: dict[str, Any] = {"atomic_numbers": atoms, "pos": atoms, "batch": atoms, "cell": structures}
    shapes |= {"edge_index": {1: edges[0]}, "cell_offsets": edges}
    given: dict[str, Any] = dict(example)
    if inputs:
        given["inputs"] = inputs
        shapes["inputs"] = {name: structures if own.inputs[name].per == "structure" else atoms for name in inputs}
    with torch.no_grad():
        return export(Program(traced), (), given, dynamic_shapes=shapes, strict=False)


def _example(potential: Potential) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Structures that can be traced, without meaning; and the inputs that the potential takes."""
    device = next(potential.parameters()).device
    place = torch.arange(ATOMS, device=device)
    senders = torch.arange(EDGES, device=device) % ATOMS
    fields = {
        "atomic_numbers": torch.full((ATOMS,), potential.elements[0], device=device),
        "pos": torch.stack((place, place**2 % 7, place**3 % 5), dim=1).double(),
        "batch": place % STRUCTURES,
        "cell": 10 * torch.eye(3, dtype=torch.float64, device=device).repeat(STRUCTURES, 1, 1),
        "edge_index": torch.stack((senders, (senders + STRUCTURES) % ATOMS)),
        "cell_offsets": torch.ones(EDGES, 3, dtype=torch.int64, device=device),
    }
    sizes = {"structure": STRUCTURES, "atom": ATOMS}
    inputs = {
        name: torch.full((sizes[each.per],), float(each.default), dtype=torch.float64, device=device)
        for name, each in potential.inputs.items()
    }
    return fields, inputs
