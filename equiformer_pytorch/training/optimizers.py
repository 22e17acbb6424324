"""Optimizers, by name; and one for networks of many small matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adamw import adamw

# Of Jordan et al.: the fifth power of this polynomial's iterate brings singular values between 0.7 and 1.2.
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def optimizer_for(
    module: nn.Module, name: str, lr: float, *, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """``adamw`` or ``muon``, of the parameters that are trained."""
    if name == "muon":
        return Muon(module, lr, betas=betas, weight_decay=weight_decay)
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    return torch.optim.AdamW(trained, lr=lr, betas=betas, weight_decay=weight_decay)


class Muon(torch.optim.Optimizer):
    r"""Matrices move along the orthogonal factor of their momentum, all else as with AdamW.

    .. math:: M \leftarrow \mu M + G, \qquad
        W \leftarrow (1 - \eta\lambda)\,W - 0.2\,\eta\sqrt{\max(r, c)}\;\mathrm{orth}(G + \mu M)

    for a matrix W (r, c) with the gradient G; orth replaces the singular values by ones, nearly: five iterations of a
    polynomial (Jordan et al. 2024, "Muon: an optimizer for hidden layers"). The factor gives the step the root mean
    square that Adam's has (Liu et al. 2025, section 2.2), so that learning rates of Adam can be kept.

    Every tensor of two or more dimensions is a matrix, or as many as the leading dimensions say (heads, stacked maps),
    but embeddings are not. ``torch.optim.Muon`` takes matrices alone, one after the other; here all of a shape are one
    product, for an equivariant network has many small ones, several for each degree.

    Args:
        module: what is trained.
        lr: the learning rate η of all.
        momentum: μ of matrices.
        betas, eps: of AdamW, for all else.
        weight_decay: λ of all.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
        groups: list[dict[str, Any]] = [{"params": [], "matrices": True}, {"params": [], "matrices": False}]
        for weight in module.parameters():
            if weight.requires_grad:
                groups[weight.ndim < 2 or id(weight) in embeddings]["params"].append(weight)
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of all parameters that have a gradient; `closure`, where given, computes them and returns the loss,
        which is then returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            both = [(weight, weight.grad) for weight in group["params"] if weight.grad is not None]
            if both:
                weights, slopes = map(list, zip(*both, strict=True))
                (self._step_matrices if group["matrices"] else self._step_others)(group, weights, slopes)
        return loss

    def _step_matrices(self, group: dict[str, Any], weights: list[Tensor], slopes: list[Tensor]) -> None:
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for weight, slope, momentum in zip(weights, slopes, self._kept("momentum", weights), strict=True):
            momentum.mul_(group["momentum"]).add_(slope)
            rows, columns = weight.shape[-2:]
            ahead = torch.add(slope, momentum, alpha=group["momentum"])
            by_shape.setdefault((min(rows, columns), max(rows, columns)), []).append((weight, ahead))
        for (shorter, longer), members in by_shape.items():
            flat = [wide(ahead).reshape(-1, shorter, longer) for _, ahead in members]
            turned = orthogonal(torch.cat(flat)).split([len(one) for one in flat])
            for (weight, _), one in zip(members, turned, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(wide(one.view_as(wide(weight)), weight), alpha=-0.2 * group["lr"] * longer**0.5)

    def _step_others(self, group: dict[str, Any], weights: list[Tensor], slopes: list[Tensor]) -> None:
        first, second = group["betas"]
        steps = self._kept("step", weights, torch.zeros((), dtype=torch.float32, device="cpu"))
        adamw(
            weights,
            slopes,
            self._kept("mean", weights),
            self._kept("square", weights),
            [],
            steps,
            amsgrad=False,
            beta1=first,
            beta2=second,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _kept(self, name: str, weights: Iterable[Tensor], initial: Tensor | None = None) -> list[Tensor]:
        """What is kept of each under a name, at first this or zeros like the parameter."""
        for weight in weights:
            if name not in self.state[weight]:
                self.state[weight][name] = torch.zeros_like(weight) if initial is None else initial.clone()
        return [self.state[weight][name] for weight in weights]


def wide(matrix: Float[Tensor, "*rest rows columns"], like: Tensor | None = None) -> Tensor:
    """The matrix with no more rows than columns; or the other way round where `like` is that way."""
    tall = matrix if like is None else like
    return matrix.mT if tall.shape[-2] > tall.shape[-1] else matrix


def orthogonal(matrices: Float[Tensor, "count rows columns"]) -> Float[Tensor, "count rows columns"]:
    """Singular values replaced by ones, nearly (0.7 – 1.2), of matrices that have no more rows than columns; at least
    float32."""
    x = matrices.float() if matrices.dtype in (torch.float16, torch.bfloat16) else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.to(matrices.dtype)
