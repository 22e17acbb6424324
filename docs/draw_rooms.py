"""Draws docs/rooms.svg, the rooms of the package, from its imports: ``python -m docs.draw_rooms``."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "equiformer_pytorch"
PICTURE = Path(__file__).with_name("rooms.svg")
# From the ground up; rooms of one floor do not import each other.
FLOORS = (
    ("base",),
    ("so3",),
    ("graph",),
    ("ops",),
    ("layers",),
    ("inputs",),
    ("published",),
    ("models",),
    ("atoms",),
    ("clients", "training", "testing"),
    ("cli",),
)
SAID = {
    "base": "checks, constants, files",
    "so3": "harmonics, Wigner matrices",
    "graph": "neighbours, edges, frames",
    "ops": "the work on edges",
    "layers": "attention, SO(2), norms",
    "inputs": "the doors",
    "published": "layers of V2, V3, eSCN-MD",
    "models": "constructors",
    "atoms": "potentials, data, ASE",
    "clients": "LAMMPS, OpenMM, …",
    "training": "loop, potentials",
    "testing": "assert_equivariant",
    "cli": "equiformer train",
}
WIDTH, HEIGHT, GAP, STEP, LEFT = 220, 40, 24, 78, 150
ROOMS = [room for floor in FLOORS for room in floor]


def imports() -> set[tuple[str, str]]:
    """Pairs of rooms: (importing, imported)."""
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0]
        if room not in ROOMS:
            continue
        named = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("equiformer_pytorch."):
                named.add((node.module or "").split(".")[1])
        found |= {(room, other) for other in named if other in ROOMS and other != room}
    return found


def places() -> dict[str, tuple[float, float]]:
    """The middle of each room in the picture."""
    found = {}
    for level, floor in enumerate(reversed(FLOORS)):
        for column, room in enumerate(floor):
            x = LEFT + (column + 0.5 - len(floor) / 2) * (WIDTH + GAP) + 1.5 * (WIDTH + GAP)
            found[room] = (x, 30 + level * STEP)
    return found


def picture() -> str:
    """The SVG: an arrow from each room to those that it imports from."""
    at, arrows = places(), imports()
    height = 60 + (len(FLOORS) - 1) * STEP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * LEFT + 3 * (WIDTH + GAP)} {height}"'
        ' font-family="system-ui, sans-serif" font-size="15">',
        "<title>The rooms of the package; arrows go from a room to those that it imports from</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" orient="auto"'
        ' markerUnits="userSpaceOnUse"><path d="M0 0 8 4 0 8z" fill="#7a808a"/></marker></defs>',
    ]
    level = {room: index for index, floor in enumerate(FLOORS) for room in floor}
    for upper, lower in sorted(arrows):
        (x0, y0), (x1, y1) = at[upper], at[lower]
        floors = level[upper] - level[lower]
        if floors == 1:
            path = f"M{x0:g} {y0 + HEIGHT / 2:g} L{x1:g} {y1 - HEIGHT / 2 - 2:g}"
        else:
            middle = at[FLOORS[0][0]][0]
            side = (1 if floors % 2 else -1) if x0 == middle else (1 if x0 > middle else -1)
            start, end = x0 + side * WIDTH / 2, x1 + side * (WIDTH / 2 + 2)
            bend = (max(start, end) if side > 0 else min(start, end)) + side * 26 * floors**0.75
            path = f"M{start:g} {y0:g} C{bend:g} {y0:g} {bend:g} {y1:g} {end:g} {y1:g}"
        lines.append(
            f'<path d="{path}" fill="none" stroke="#7a808a" stroke-opacity="0.55" stroke-width="1.5"'
            f' marker-end="url(#tip)"><title>{upper} imports from {lower}</title></path>'
        )
    for room, (x, y) in at.items():
        lines.append(
            f'<rect x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH}" height="{HEIGHT}" rx="6"'
            f' fill="#eaf1fb" stroke="#3b82d6"/><g text-anchor="middle"><text x="{x:g}" y="{y - 2:g}" font-weight="600"'
            f' fill="#1d2733">{room}</text><text x="{x:g}" y="{y + 14:g}" font-size="11.5" fill="#465160">{SAID[room]}'
            "</text></g>"
        )
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
