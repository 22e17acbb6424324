"""Second derivatives of the energy by positions, for vibrations and saddle points."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from equiformer_pytorch.base.checks import check_tensor
from equiformer_pytorch.base.potential import Potential
from equiformer_pytorch.base.tracing import lasting, lasting_tensors


def hessian(potential: Potential, structure: Mapping[str, Tensor]) -> Float[Tensor, "atoms 3 atoms 3"]:
    r""":math:`\partial^2 E / \partial x_{ia} \partial x_{jb}` in eV/Å², on the CPU, in the dtype of the positions.

    Of the energy, also where a model's forces come from a head of their own. Row by row, each by one backward pass: so
    memory is that of one such pass and of the matrix. In a periodic structure all images of an atom move together (the
    Γ point).

    Args:
        potential: of any kind, best in float64.
        structure: one, by the names of :meth:`Potential.evaluate`; `edge_index` may be left out.

    Raises:
        ValueError, TypeError: as the model's own call.
    """
    with lasting_tensors(), torch.enable_grad():
        pos = lasting(check_tensor("pos", structure["pos"])).detach().requires_grad_()
        energy = potential.evaluate({**structure, "pos": pos}, forces=False)["energy"].sum()
        (slope,) = torch.autograd.grad(energy, pos, create_graph=True, materialize_grads=True)
        found = torch.zeros(pos.numel(), pos.numel(), dtype=pos.dtype, device="cpu")
        along = torch.zeros_like(pos)
        for row in range(pos.numel() if slope.requires_grad else 0):  # an atom alone has none
            along.zero_().view(-1)[row] = 1
            (derivative,) = torch.autograd.grad(slope, pos, along, retain_graph=True)
            found[row] = derivative.flatten().cpu()
    return ((found + found.T) / 2).reshape(*pos.shape, *pos.shape)
