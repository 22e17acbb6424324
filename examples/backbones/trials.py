"""What the generator makes of requests taken from held-out chains: motifs, secondary structure, variations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from equiformer_pytorch.training.samples import generator_for
from examples.backbones.chains import Chain, compactness
from examples.backbones.geometry import frames_of
from examples.backbones.learning import structure_tokens
from examples.backbones.measures import local
from examples.backbones.measures.folds import tm_score
from examples.backbones.measures.requested import agreement, ca_rmsd, motif_found
from examples.backbones.measures.secondary import secondary_structure
from examples.backbones.requests import Motif, scaffold
from examples.backbones.sampling import Task

Make = Callable[[Sequence[Task]], list[Tensor]]
"""Backbones of tasks."""
Figures = dict[str, float]
Trials = dict[str, dict[str, Figures]]
"""By kind of request, and request: what came of it."""

ONE, TWO = 16, 10
"""Residues of a motif of one stretch, and of each stretch of one of two."""
GAPS = (5, 40)
"""Residues of the chain between two stretches, least and most; as many are made between them."""
BUILT = 80
"""Residues of backbones with motifs."""
PIECE = 64
"""Residues of pieces whose structure is asked for, and of which variations are made."""
VARIED = 10
"""Pieces, at most, of which variations are made."""
NOISES = (0.5, 1.0, 2.0, 3.0, 5.0)
"""Å, from which variations start."""
GOOD_MOTIF, GOOD_JUNCTION = 0.5, 1.45
"""Å: what the RMSD of a motif and the longest C–N bond at it must stay below."""
ROWS = {
    "count": ("backbones", 0),
    "motif": ("RMSD of the motif, median, Å", 2),
    "motif_worst": ("RMSD of the motif, highest", 2),
    "junction": ("longest C–N bond where it is joined, median, Å", 2),
    "junction_worst": ("longest C–N bond where it is joined, highest", 2),
    "good": (f"motif below {GOOD_MOTIF} Å and these bonds below {GOOD_JUNCTION} Å, share", 2),
    "asked": ("residues as asked, share", 2),
    "others": ("as others were asked", 2),
    "reordered": ("as asked, letters in random order", 2),
    "helix": ("helix where it was asked for", 2),
    "strand": ("strand where it was asked for", 2),
    "coil": ("neither where it was asked for", 2),
    "distance": ("RMSD of CA, mean, Å", 2),
    "distance_least": ("RMSD of CA, lowest", 2),
    "distance_most": ("RMSD of CA, highest", 2),
    "tm": ("TM, mean", 2),
    "ca_clashes": ("clashes of CA per 100 residues, mean", 2),
    "atom_clashes": ("clashes of atoms per 100 residues, mean", 2),
    "atom_clashes_worst": ("clashes of atoms per 100 residues, highest", 2),
}
"""What a table calls each figure, and its digits; in this order."""


def trials(make: Make, chains: Sequence[Chain]) -> Trials:
    """All requests, of held-out chains, two or more of at least `PIECE` residues, made by `make`."""
    pieces = [most_compact(chain, PIECE) for chain in chains]
    return {
        "motifs": motifs(make, chains),
        "structure": structures(make, pieces),
        "variations": variations(make, pieces),
    }


def motif_of(chain: Chain, stretches: int, generator: torch.Generator) -> Motif:
    """Residues of a chain drawn at random, and places for them in the middle of a backbone, as far apart."""
    size = ONE if stretches == 1 else TWO
    spans = range(size + GAPS[0], min(size + GAPS[1], len(chain) - size) + 1)
    offsets = [0] if stretches == 1 else [0, spans[_draw(len(spans), generator)]]
    span = offsets[-1] + size
    first = _draw(len(chain) - span + 1, generator)
    taken = torch.cat([torch.arange(offset, offset + size) for offset in offsets])
    return Motif(chain.coords[first + taken], (BUILT - span) // 2 + taken)


def motifs(make: Make, chains: Sequence[Chain]) -> dict[str, Figures]:
    """One of each chain, of one stretch and of two, beside backbones that nothing is asked of."""
    found = {}
    for stretches, name in ((1, f"one stretch of {ONE}"), (2, f"two stretches of {TWO}")):
        taken = [motif_of(chain, stretches, generator_for("motif", stretches, i)) for i, chain in enumerate(chains)]
        given = [scaffold(motif, BUILT) for motif in taken]
        made = make([Task(BUILT, seed, known, frames) for seed, (known, frames) in enumerate(given)])
        each = [motif_found(x, m.coords, known) for x, m, (known, _) in zip(made, taken, given, strict=True)]
        good = [one.rmsd < GOOD_MOTIF and one.junction < GOOD_JUNCTION for one in each]
        found[name] = {
            **_spread("motif", [one.rmsd for one in each]),
            **_spread("junction", [one.junction for one in each]),
            "good": float(np.mean(good)),
            **_clashes([one.ca_clashes for one in each], [one.atom_clashes for one in each]),
        }
    free = make([Task(BUILT, seed) for seed in range(len(chains))])
    found["no motif"] = _clashes([local.ca_clashes(x) for x in free], [local.atom_clashes(x) for x in free])
    return found


def structures(make: Make, pieces: Sequence[Tensor]) -> dict[str, Figures]:
    """Of each piece its secondary structure, residue by residue."""
    asked = [structure_tokens(x) for x in pieces]
    made = make([Task(len(tokens), seed, structure=tokens) for seed, tokens in enumerate(asked)])
    found = agreement([secondary_structure(x) for x in made], [secondary_structure(x) for x in pieces])
    return {"structure": {"count": len(made), **found._asdict()}}


def variations(make: Make, pieces: Sequence[Tensor]) -> dict[str, Figures]:
    """How far they are from some of the pieces, by the noise that they start from."""
    pieces, found = pieces[:: -(-len(pieces) // VARIED)], {}
    for noise in NOISES:
        made = make([Task(len(x), seed, frames=frames_of(x), start=noise) for seed, x in enumerate(pieces)])
        pairs = list(zip(made, pieces, strict=True))
        distances = [ca_rmsd(x, piece) for x, piece in pairs]
        found[f"noise {noise:g} Å"] = {
            "distance": float(np.mean(distances)),
            "distance_least": min(distances),
            "distance_most": max(distances),
            "tm": float(np.mean([tm_score(x, piece) for x, piece in pairs])),
            **_clashes([local.ca_clashes(x) for x in made], [local.atom_clashes(x) for x in made]),
        }
    return found


def most_compact(chain: Chain, length: int) -> Tensor:
    """The piece (length, 4, 3) of a chain that is the most compact one."""
    starts = torch.arange(len(chain) - length + 1)
    pieces = chain.coords[starts[:, None] + torch.arange(length)]
    return pieces[int(compactness(pieces).argmin())]


def _draw(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))


def _spread(name: str, values: Sequence[float]) -> Figures:
    return {name: float(np.median(values)), f"{name}_worst": max(values)}


def _clashes(alphas: Sequence[float], atoms: Sequence[float]) -> Figures:
    return {
        "count": len(atoms),
        "ca_clashes": float(np.mean(alphas)),
        "atom_clashes": float(np.mean(atoms)),
        "atom_clashes_worst": max(atoms),
    }
