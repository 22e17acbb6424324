"""Plots of the report: φ and ψ, and which residues are near each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from examples.backbones.geometry import torsions
from examples.backbones.measures.local import BINS, Ramachandran

FARTHEST = 20.0  # Å, of the colours of distances


def plot_ramachandran(sets: Mapping[str, Sequence[Tensor]], region: Ramachandran, path: Path) -> None:
    """φ and ψ of all residues of some sets of backbones, side by side, with the outline of the region."""
    centres = (np.arange(BINS) + 0.5) * 360 / BINS - 180
    figure = Figure(figsize=(3 * len(sets), 3.3), layout="constrained")
    all_axes = figure.subplots(1, len(sets), squeeze=False, sharex=True, sharey=True)
    for axes, (title, backbones) in zip(all_axes[0], sets.items(), strict=True):
        phi, psi = torch.rad2deg(torch.cat([torsions(x)[1:-1, :2] for x in backbones])).cpu().numpy().T
        axes.contourf(
            centres, centres, region.density.numpy().T, levels=[region.bound, 1.0], colors=["#e4ecf5"], zorder=0
        )
        axes.scatter(phi, psi, s=2.0, alpha=0.35, color="#1f4e79", linewidths=0)
        inside = np.mean([region.inside(x) for x in backbones])
        axes.set_title(f"{title}\n{inside:.2f} inside", fontsize=10)
        axes.set(
            xlim=(-180, 180), ylim=(-180, 180), xlabel="φ / °", xticks=range(-180, 181, 90), yticks=range(-180, 181, 90)
        )
        axes.set_aspect("equal")
    all_axes[0][0].set_ylabel("ψ / °")
    figure.savefig(path, dpi=130)


def plot_contacts(rows: Mapping[str, Sequence[Tensor]], path: Path) -> None:
    """Distances of the CA of some backbones, up to 20 Å, in rows."""
    columns = max(len(members) for members in rows.values())
    colours = ScalarMappable(Normalize(0, FARTHEST), "magma_r")
    figure = Figure(figsize=(1.9 * columns, 2.1 * len(rows)), layout="constrained")
    all_axes = figure.subplots(len(rows), columns, squeeze=False)
    for axes_of_row, (title, members) in zip(all_axes, rows.items(), strict=True):
        for axes in axes_of_row:
            axes.axis("off")
        for axes, coords in zip(axes_of_row, members, strict=False):
            ca = coords[:, 1].cpu()
            axes.imshow(torch.cdist(ca, ca).numpy(), cmap=colours.cmap, norm=colours.norm)
            axes.axis("on")
            axes.tick_params(labelsize=6)
        axes_of_row[0].set_title(title, fontsize=9, loc="left")
    figure.colorbar(colours, ax=all_axes, label="CA–CA / Å", shrink=0.6)
    figure.savefig(path, dpi=110)
