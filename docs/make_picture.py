"""Draws docs/backbone.png from the PDB files of a run: ``python docs/make_picture.py runs/NAME [CHAIN]``.

Three stages of one held-out backbone, each bond coloured by how far its length is from that of the true structure.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize

COLOURS = LinearSegmentedColormap.from_list("error", ["#1f4e79", "#7b6fb0", "#d9605a", "#f0a030"])
STAGES = {"before": "with 1 Å of noise", "after": "after the network", "true": "true structure"}


def read_pdb(path: Path) -> np.ndarray:
    """Coordinates (atoms, 3), in the order of the file."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("ATOM")]
    return np.array([[float(line[start : start + 8]) for start in (30, 38, 46)] for line in lines])


def main() -> None:
    """Reads the run, writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of denoise.py")
    parser.add_argument("chain", nargs="?", help="default: the first that has PDB files")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("backbone.png"))
    args = parser.parse_args()

    names = sorted(path.name.removesuffix("-before.pdb") for path in args.run.glob("*-before.pdb"))
    if not names:
        parser.error(f"no *-before.pdb in {args.run}")
    chain = args.chain or names[0]
    coords = {stage: read_pdb(args.run / f"{chain}-{stage}.pdb") for stage in STAGES}
    true = coords["true"]
    length = np.linalg.norm(np.diff(true, axis=0), axis=1)
    bonded = length < 2.0

    # The two widest directions of the true structure span the page; the third is depth.
    axes = np.linalg.svd(true - true.mean(0), full_matrices=False)[2]
    axes[2] *= np.sign(np.linalg.det(axes))
    views = {stage: (xyz - true.mean(0)) @ axes.T for stage, xyz in coords.items()}
    low, high = views["true"].min(0) - 2.5, views["true"].max(0) + 2.5

    scale = Normalize(0, 1.5)
    figure = plt.figure(figsize=(12, 3.2), dpi=120)
    for column, (stage, title) in enumerate(STAGES.items()):
        xyz = views[stage]
        error = np.abs(np.linalg.norm(np.diff(xyz, axis=0), axis=1) - length)
        axis = figure.add_axes((0.005 + column * 0.308, 0.0, 0.303, 0.9))
        for bond in sorted(np.flatnonzero(bonded), key=lambda bond: xyz[bond : bond + 2, 2].sum()):
            ends = xyz[bond : bond + 2, :2].T
            axis.plot(*ends, color="white", linewidth=4, solid_capstyle="butt")
            axis.plot(*ends, color=COLOURS(scale(error[bond])), linewidth=2.6, solid_capstyle="round")
        axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        axis.set_axis_off()
        rmsd = np.sqrt(((xyz - views["true"]) ** 2).sum(-1).mean())
        label = title if stage == "true" else f"{title}: {rmsd:.2f} Å from the truth"
        figure.text(0.156 + column * 0.308, 0.95, label, ha="center", va="center", fontsize=12)
    bar = figure.colorbar(ScalarMappable(scale, COLOURS), cax=figure.add_axes((0.935, 0.15, 0.011, 0.65)), extend="max")
    bar.set_ticks([0, 0.5, 1, 1.5])
    bar.set_label("bond length error / Å")
    figure.savefig(args.out, facecolor="white")
    print(f"{args.out}: chain {chain}, {len(true) // 3} residues")


if __name__ == "__main__":
    main()
