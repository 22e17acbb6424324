"""Pictures of backbones: a gallery, and a moving one of how a backbone comes about."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image
from torch import Tensor

from examples.backbones.measures.secondary import COIL, HELIX, STRAND, left_handed, secondary_structure

COLOURS = {HELIX: "#c8385a", STRAND: "#2a78b8", COIL: "#9a9a9a", "wrong": "#000000"}
NAMES = {HELIX: "helix", STRAND: "strand", COIL: "coil", "wrong": "left-handed helix"}
WIDTHS = {HELIX: 3.4, STRAND: 3.4, COIL: 1.6, "wrong": 3.4}
SMOOTH = 6  # points drawn per residue
FRAME_MS, LAST_MS = 80, 1500  # milliseconds that a frame, and the last one, are shown
MOST_FRAMES = 100
SHADES = 32  # of each colour


def draw_backbone(axes: Axes, coords: Tensor, view: np.ndarray | None = None) -> None:
    """The curve through the CA of a backbone (residues, 4, 3), what is near over what is far.

    Args:
        axes: where to draw.
        coords: the backbone.
        view: (3, 3), its rows point to the right, up, and to the front; without it a backbone is as wide as it can be.
    """
    structure = secondary_structure(coords).astype(object)
    structure[left_handed(coords, structure)] = "wrong"
    ca = coords[:, 1].double().cpu().numpy()
    ca = ca - ca.mean(0)
    points = _curve(ca) @ (widest_view(ca) if view is None else view).T
    segments = np.stack([points[:-1], points[1:]], 1)
    letters = structure[np.minimum((np.arange(len(segments)) + SMOOTH // 2) // SMOOTH, len(ca) - 1)]
    depth = segments[:, :, 2].mean(1)
    near = (depth - depth.min()) / max(np.ptp(depth), 1e-6)
    colours = np.array([to_rgb(COLOURS[letter]) for letter in letters])
    colours = 1 - (0.45 + 0.55 * near[:, None]) * (1 - colours)
    widths = np.array([WIDTHS[letter] for letter in letters]) * (0.7 + 0.6 * near)
    order = depth.argsort()
    axes.add_collection(
        LineCollection(
            list(segments[order, :, :2]), colors=colours[order].tolist(), linewidths=widths[order], capstyle="round"
        )
    )
    limit = 1.05 * np.abs(points[:, :2]).max()
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
    axes.set_aspect("equal")
    axes.axis("off")


def widest_view(ca: np.ndarray) -> np.ndarray:
    """The principal axes of points (n, 3) as rows, the longest first; right-handed, so that nothing is mirrored."""
    _, _, axes = np.linalg.svd(ca - ca.mean(0), full_matrices=False)
    return axes * np.array([1.0, 1.0, np.linalg.det(axes)])[:, None]


def gallery(rows: Mapping[str, Sequence[Tensor]], path: Path) -> None:
    """Backbones (residues, 4, 3) in rows with a title each, coloured by their secondary structure."""
    columns = max(len(members) for members in rows.values())
    figure = Figure(figsize=(2.1 * columns, 2.3 * len(rows) + 0.4), layout="constrained")
    all_axes = figure.subplots(len(rows), columns, squeeze=False)
    for axes_of_row, (title, members) in zip(all_axes, rows.items(), strict=True):
        for axes in axes_of_row:
            axes.axis("off")
        for axes, coords in zip(axes_of_row, members, strict=False):
            draw_backbone(axes, coords)
        axes_of_row[0].set_title(title, fontsize=22, loc="left")  # a page shows it at a third of its size
    handles = [Line2D([], [], color=COLOURS[key], linewidth=3, label=name) for key, name in NAMES.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=22)
    figure.savefig(path, dpi=130)


def write_gif(trajectory: Sequence[Tensor], path: Path, captions: Sequence[str] | None = None) -> None:
    """Backbones (residues, 4, 3), from noise to the last one, as a moving picture; all are seen from the same side.

    Args:
        trajectory: of one length; at most 100 are shown, spread evenly, and always the last.
        path: of the GIF.
        captions: one per backbone.
    """
    if captions is not None and len(captions) != len(trajectory):
        raise ValueError(f"captions must be one per backbone, {len(trajectory)}, got {len(captions)}")
    chosen = np.unique(np.linspace(0, len(trajectory) - 1, min(MOST_FRAMES, len(trajectory))).round().astype(int))
    view = widest_view(trajectory[-1][:, 1].double().cpu().numpy())
    palette = _palette()
    images = []
    for i in map(int, chosen):
        figure = Figure(figsize=(3.2, 3.2), layout="constrained")
        axes = figure.subplots()
        draw_backbone(axes, trajectory[i], view)
        if captions is not None:
            axes.set_title(captions[i], fontsize=9)
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=90, format="png")
        images.append(Image.open(buffer).convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE))
    durations = [FRAME_MS] * (len(images) - 1) + [LAST_MS]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)


def _palette() -> Image.Image:
    """One for all frames: every colour in shades from white; a GIF's frames may mix up palettes of their own."""
    shades = np.linspace(0, 1, SHADES)[:, None]
    colours = np.concatenate([1 - shades * (1 - np.array(to_rgb(colour))) for colour in COLOURS.values()])
    image = Image.new("P", (1, 1))
    image.putpalette((255 * colours).round().astype(np.uint8).flatten().tolist())
    return image


def _curve(ca: np.ndarray) -> np.ndarray:
    """A smooth curve through points (n, 3): `SMOOTH` pieces between any two (Catmull & Rom)."""
    ends = np.concatenate([2 * ca[:1] - ca[1:2], ca, 2 * ca[-1:] - ca[-2:-1]])
    before, here, there, after = ends[:-3], ends[1:-2], ends[2:-1], ends[3:]
    t = np.linspace(0, 1, SMOOTH, endpoint=False)[None, :, None]
    before, here, there, after = (x[:, None] for x in (before, here, there, after))
    cubic = 0.5 * (
        2 * here
        + (there - before) * t
        + (2 * before - 5 * here + 4 * there - after) * t**2
        + (3 * here - before - 3 * there + after) * t**3
    )
    return np.concatenate([cubic.reshape(-1, 3), ca[-1:]])
