"""What a training step and a call do, counted: operations, bytes that they write, waits for the device.

Counts do not depend on the machine or on what else it does: ``python -m benchmarks.counts [--most]`` prints the table
of docs/performance.md; with ``--most`` it fails where a count is above the one that is promised there.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cases import FEWER_HEADS, SEED, UNEVEN
from benchmarks.published import V2, V3
from equiformer_pytorch import Equiformer, EquiformerPotential, EquiformerV2, EquiformerV3
from equiformer_pytorch.atoms import radius_graph

# What makes the host wait for the device, since its result is a number or has a size that is data.
WAITS = {
    "_local_scalar_dense",
    "bincount",
    "equal",
    "masked_select",
    "nonzero",
    "_unique2",
    "unique_consecutive",
    "unique_dim",
}
# Neither compute nor write: memory, and views that no flag marks as such.
FREE = {
    "_unsafe_view",
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
}


@dataclass
class Counts(TorchDispatchMode):
    """Counts what is dispatched within it."""

    operations: int = 0
    written: int = 0
    waits: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        masks = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        by_mask = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in masks)
        counted = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in WAITS or by_mask or counted:
            self.waits[name] += 1
        if not (name in FREE or func.namespace == "prim" or func.is_view or name == "_local_scalar_dense"):
            self.operations += 1
            self.names[name] += 1
            self.written += sum(t.numel() * t.element_size() for t in _tensors(result))
        return result


class _Lists(TorchFunctionMode):
    """`tolist` and `numpy` of a CPU tensor dispatch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if getattr(func, "__name__", "") in ("tolist", "numpy", "__array__"):
            self.waits[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def _tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [t for part in result for t in _tensors(part)] if isinstance(result, list | tuple) else []


def counted(function: Callable[[], Any]) -> Counts:
    """What `function` does."""
    with _Lists() as lists, Counts() as counts:
        function()
    counts.waits += lists.waits
    return counts


class Case(NamedTuple):
    """A model and a call of it; at most so many operations and megabytes in a training step, and waits in a call."""

    what: str
    model: Callable[[], nn.Module]
    call: Callable[[nn.Module], Any]
    operations: int
    megabytes: int
    waits: int


def _points(count: int) -> Callable[[nn.Module], Any]:
    tokens, coors = torch.randint(0, 24, (1, count)), torch.randn(1, count, 3) * (count / 0.05) ** (1 / 3) / 3
    return lambda model: model(tokens, coors, torch.ones(1, count, dtype=torch.bool))


def _crystal(edges: bool) -> Callable[[nn.Module], Any]:
    """38 atoms of copper in a cell, with their edges given or not."""
    torch.manual_seed(1)
    pos, numbers = torch.rand(38, 3) * 7.7, torch.full((38,), 29)
    cell = 7.7 * torch.eye(3)[None]
    index, offsets = radius_graph(pos, 6.0, cell=cell, max_neighbors=20)
    given = {"edge_index": index, "cell_offsets": offsets} if edges else {}
    return lambda model: model(atomic_numbers=numbers, pos=pos, cell=cell, **given)


def cases() -> list[Case]:
    """Those of docs/performance.md."""
    torch.manual_seed(0)
    own = {
        "seed's first example, MLP": (SEED | {"l2_dist_attention": False}, 128, 640, 520),
        "seed's first example, L2": (SEED, 128, 650, 545),
        "dim 64, heads 4 × 16, 16 neighbours, MLP": (FEWER_HEADS | {"l2_dist_attention": False}, 128, 490, 257),
        "dim 64, heads 4 × 16, 16 neighbours, L2": (FEWER_HEADS, 128, 515, 296),
        "dims (16, 8, 8, 8), 6 neighbours, L2": (UNEVEN, 192, 565, 147),
    }
    found = [
        Case(what, lambda a=arguments: Equiformer(**a), _points(points), operations, megabytes, 3)
        for what, (arguments, points, operations, megabytes) in own.items()
    ]
    potential = {"species": [29], "dim": 16, "heads": 2, "dim_head": 8}
    gradient = V3 | {"direct_prediction": False, "num_layers": 1, "num_channels": 16, "ffn_hidden_channels": 16}
    return [
        *found,
        Case("potential, edges given", lambda: EquiformerPotential(**potential), _crystal(True), 2300, 212, 1),
        Case("potential", lambda: EquiformerPotential(**potential), _crystal(False), 2650, 470, 8),
        Case("V2, edges given", lambda: EquiformerV2(**V2), _crystal(True), 6700, 5850, 1),
        Case("V3, gradient forces, edges given", lambda: EquiformerV3(**gradient), _crystal(True), 4500, 1800, 1),
        Case("V3, gradient forces", lambda: EquiformerV3(**gradient), _crystal(False), 4800, 1800, 8),
    ]


def loss_of(output: Any) -> Tensor:
    """Of everything that a call gives."""
    parts = output.values() if isinstance(output, dict) else output
    return torch.stack([part.double().square().sum() for part in parts if part is not None]).sum()


def main(arguments: list[str] | None = None) -> int:
    """The table, and 1 where something is above what is promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", action="store_true", help="fail where a count is above the one that is promised")
    options = parser.parse_args(arguments)
    print(f"{'a training step of':44} operations  MB written  waits in a call")
    above = []
    for case in cases():
        torch.manual_seed(0)
        model = case.model()
        loss_of(case.call(model)).backward()
        model.zero_grad(set_to_none=True)
        step = counted(lambda model=model, case=case: loss_of(case.call(model)).backward())
        waits = counted(lambda model=model, case=case: case.call(model)).waits.total()
        print(f"{case.what:44} {step.operations:10} {step.written / 1e6:11.0f} {waits:16}", flush=True)
        if step.operations > case.operations or step.written > 1e6 * case.megabytes or waits > case.waits:
            above.append(case.what)
    if above and options.most:
        print(f"above what is promised: {'; '.join(above)}")
    return int(bool(above) and options.most)


if __name__ == "__main__":
    sys.exit(main())
