"""Second derivatives of the energy by positions, for vibrations and saddle points."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.base.checks import check_number, check_tensor
from equiformer_pytorch.base.potential import Potential
from equiformer_pytorch.base.tracing import lasting, lasting_tensors


def hessian(
    potential: Potential, structure: Mapping[str, Tensor], *, rows: int = 32
) -> Float[Tensor, "atoms 3 atoms 3"]:
    r""":math:`\partial^2 E / \partial x_{ia} \partial x_{jb}` in eV/Å², on the CPU, in the dtype of the positions.

    Of the energy, also where a model's forces come from a head of their own. In a periodic structure all images of an
    atom move together (the Γ point).

    Args:
        potential: of any kind, best in float64.
        structure: one, by the names of :meth:`Potential.evaluate`; `edge_index` may be left out.
        rows: how many are found by one backward pass. Time falls with it, memory grows; either way the matrix is whole.

    Raises:
        ValueError, TypeError: rows is not a whole number of at least 1; and as the model's own call.
    """
    check_number("rows", rows, 1)
    with lasting_tensors(), torch.enable_grad():
        pos = lasting(check_tensor("pos", structure["pos"])).detach().requires_grad_()
        energy = potential.evaluate({**structure, "pos": pos}, forces=False)["energy"].sum()
        (slope,) = torch.autograd.grad(energy, pos, create_graph=True, materialize_grads=True)
        size = pos.numel()
        found = torch.zeros(size, size, dtype=pos.dtype, device="cpu")
        for start in range(0, size if slope.requires_grad else 0, rows):
            chosen = torch.zeros(min(rows, size - start), size, dtype=pos.dtype, device=pos.device)
            chosen.diagonal(start).fill_(1)
            along = chosen.unflatten(1, pos.shape)
            (part,) = torch.autograd.grad(slope, pos, along, retain_graph=True, is_grads_batched=True)
            found[start : start + rows] = part.flatten(1).cpu()
    return ((found + found.T) / 2).reshape(*pos.shape, *pos.shape)
