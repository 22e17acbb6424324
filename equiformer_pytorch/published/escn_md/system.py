"""What is known of a whole structure, its charge, spin and dataset, as one vector."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from equiformer_pytorch.base import checks
from equiformer_pytorch.base.potential import Input
from equiformer_pytorch.base.tracing import lasting

SYSTEMS = ("charge", "spin", "dataset")
CHARGES, SPINS = (-100, 100), (0, 100)
# The dataset of molecules, whose spin multiplicity is one where nothing is said; elsewhere 0: not given.
MOLECULES = "omol"
# What a linear map sees instead of a spin that is not given.
NO_SPIN = -100


def inputs_of(dataset: str | None) -> dict[str, Input]:
    """Charge and spin of the structures of a dataset, by default as published."""
    return {
        "charge": Input(least=CHARGES[0], most=CHARGES[1]),
        "spin": Input(least=SPINS[0], most=SPINS[1], default=int(dataset == MOLECULES)),
    }


def infos_of(data: Any) -> list[Mapping[str, Any]]:
    """The `info` of ASE atoms or of each of a list of these; of anything else none."""
    each = data if isinstance(data, Sequence) else [data]
    return [atoms.info for atoms in each] if all(hasattr(atoms, "info") for atoms in each) else []


class Systems(NamedTuple):
    """What is known of each structure of a batch."""

    charge: Float[Tensor, " structures"]
    spin: Float[Tensor, " structures"]
    """Multiplicity; 0: not given."""
    dataset: Int[Tensor, " structures"]
    """Index into the datasets that the model knows; 0 where it knows of none."""

    @classmethod
    def of(
        cls,
        charge: Tensor | None,
        spin: Tensor | None,
        dataset: Sequence[str] | str | Tensor | None,
        known: Sequence[str],
        task: str | None,
        count: int,
        like: Tensor,
        infos: Sequence[Mapping[str, Any]] = (),
    ) -> Systems:
        """Of `count` structures, in the dtype and on the device of `like`; charges and spins that are not given are
        those of `infos`, by default as the dataset of each structure has them.

        Raises:
            ValueError: numbers that are not whole or out of range, datasets that are not known, or none where several
                are and no `task` says which.
        """
        index = dataset_index(dataset, known, task, count, like.device)
        spins = (index == known.index(MOLECULES)) if MOLECULES in known else torch.zeros_like(index, dtype=torch.bool)
        charges = torch.zeros_like(index)
        if infos:
            charge = _said("charge", infos, charges) if charge is None else charge
            spin = _said("spin", infos, spins) if spin is None else spin
        return cls(
            _numbers("charge", charge, CHARGES, charges, like),
            _numbers("spin", spin, SPINS, spins, like),
            index,
        )


def dataset_index(
    dataset: Sequence[str] | str | Tensor | None,
    known: Sequence[str],
    task: str | None,
    count: int,
    device: torch.device,
) -> Int[Tensor, " structures"]:
    """Of each structure the place of its dataset among the known ones."""
    if not known:
        return torch.zeros(count, dtype=torch.long, device=device)
    if dataset is None:
        if task is None and len(known) > 1:
            raise ValueError(f"dataset is missing: of {', '.join(known)}, or let the model have one as its task")
        dataset = known[0] if task is None else task
    if isinstance(dataset, Tensor):
        index = checks.check_integers("dataset", dataset, (count,), "(structures,)").to(device)
        checks.check_within("dataset", index, len(known))
        return index
    names = [dataset] if isinstance(dataset, str) else list(dataset)
    strange = sorted({str(name) for name in names} - set(known))
    if strange:
        raise ValueError(f"dataset must be of {', '.join(known)}; got {', '.join(strange)}")
    if isinstance(dataset, str):  # for any count, in exported programs too
        return torch.full((count,), known.index(dataset), dtype=torch.long, device=device)
    if len(names) != count:
        raise ValueError(f"dataset must name that of each structure, {count} in all, got {len(names)}")
    return torch.tensor([known.index(name) for name in names], dtype=torch.long, device=device)


def _said(name: str, infos: Sequence[Mapping[str, Any]], default: Tensor) -> Tensor:
    """What each of the structures says, the default for those that do not."""
    values = []
    for info, other in zip(infos, default.tolist(), strict=True):
        value = info.get(name)
        try:
            values.append(float(other if value is None else torch.as_tensor(value, device="cpu").reshape(())))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{name} must be a number in atoms.info, got {value!r}") from error
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def _numbers(
    name: str, given: Tensor | None, bounds: tuple[int, int], default: Tensor, like: Tensor
) -> Float[Tensor, " structures"]:
    """Whole numbers of each structure."""
    if given is None:
        return default.to(like.dtype)
    value = lasting(checks.check_tensor(name, given)).to(like.device)
    checks.check_shape(name, value, default.shape, "(structures,)")
    low, high = bounds
    if checks.looks_at_values():
        right = (
            (value >= low) & (value <= high) & (value == (value.round() if value.is_floating_point() else value))
        ).all()
        words = f"{name} must be whole numbers in {low} … {high}, got "
        checks.require(right, lambda: ValueError(words + str(value.tolist())))
    return value.to(like.dtype)


class NumberEmbedding(nn.Module):
    r"""A whole number q, charge or spin, as a vector:

    - ``rand_emb``: a row of a table;
    - ``pos_emb``: :math:`(\sin 2πqW, \cos 2πqW)`; zero for a spin that is not given;
    - ``lin_emb``: a linear map of q; of −100 for a spin that is not given. (fairchem writes that into the caller's
      tensor, and computes it in float32.)

    Args:
        spin: whether 0 stands for "not given".
        trained: whether its parameters have gradients.
    """

    def __init__(self, kind: str, channels: int, bounds: tuple[int, int], *, spin: bool, trained: bool) -> None:
        super().__init__()
        self.kind, self.spin, self.least = kind, spin, bounds[0]
        if kind == "pos_emb":
            self.W = nn.Parameter(torch.randn(channels // 2))
        elif kind == "lin_emb":
            self.lin_emb = nn.Linear(1, channels)
        else:
            self.rand_emb = nn.Embedding(bounds[1] - bounds[0] + 1, channels)
        self.requires_grad_(trained)

    def forward(self, number: Float[Tensor, " structures"]) -> Float[Tensor, "structures channels"]:
        if self.kind == "rand_emb":
            return self.rand_emb(number.long() - self.least)
        if self.kind == "lin_emb":
            number = torch.where(number == 0, NO_SPIN, number) if self.spin else number
            return self.lin_emb(number[:, None].to(self.lin_emb.weight.dtype))
        phase = number[:, None].to(self.W.dtype) * self.W * (2 * math.pi)
        found = torch.cat((phase.sin(), phase.cos()), dim=1)
        return found * (number != 0)[:, None] if self.spin else found


class DatasetEmbedding(nn.Module):
    """A vector for each dataset; of those that are treated as another one, that of the other.

    Args:
        mapping: what each is treated as.
        known: the datasets that indices mean.
    """

    def __init__(self, mapping: Mapping[str, str], known: Sequence[str], channels: int, *, trained: bool) -> None:
        super().__init__()
        self.dataset_emb_dict = nn.ModuleDict({name: nn.Embedding(1, channels) for name in mapping})
        self.known, self.treated_as = tuple(known), [mapping[name] for name in known]
        self.requires_grad_(trained)

    def forward(self, dataset: Int[Tensor, " structures"]) -> Float[Tensor, "structures channels"]:
        rows = [cast(nn.Embedding, self.dataset_emb_dict[name]).weight for name in self.treated_as]
        return torch.cat(rows).index_select(0, dataset)


def balanced(
    x: Float[Tensor, "atoms components channels"],
    channels: slice,
    target: Shaped[Tensor, " structures"],
    batch: Int[Tensor, " atoms"],
) -> Float[Tensor, "atoms components channels"]:
    """x with some channels of its invariants shifted, in each structure alike, so that they add up to `target`."""
    if channels.start == channels.stop:
        return x
    invariants = x[:, 0]
    before, chosen, after = invariants.split(
        [channels.start, channels.stop - channels.start, x.shape[2] - channels.stop], dim=1
    )
    sums = chosen.new_zeros(target.shape[0], chosen.shape[1]).index_add(0, batch, chosen)
    excess = (sums - target.to(x.dtype)[:, None]) / atoms_of(batch, target.shape[0], x.dtype)[:, None]
    shifted = torch.cat((before, chosen - excess.index_select(0, batch), after), dim=1)
    return torch.cat((shifted[:, None], x[:, 1:]), dim=1)


def atoms_of(batch: Int[Tensor, " atoms"], structures: int, dtype: torch.dtype) -> Float[Tensor, " structures"]:
    """How many atoms each structure has, at least one."""
    ones = torch.ones_like(batch, dtype=dtype)
    return ones.new_zeros(structures).index_add(0, batch, ones).clamp(min=1)
