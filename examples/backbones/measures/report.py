"""The report on generated backbones: tables, plots, and a page that says what the numbers mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from examples.backbones import trials
from examples.backbones.chains import Chains
from examples.backbones.measures import designs, references
from examples.backbones.measures.local import Ramachandran
from examples.backbones.measures.plots import plot_contacts, plot_ramachandran
from examples.backbones.measures.table import markdown, measure, summary
from examples.backbones.pictures import gallery
from examples.backbones.trials import Trials

PER_LENGTH = 16  # of each kind of reference
SHOWN = 8  # in a row of pictures
SAMPLES, UNGUIDED, WHOLE, CROPS, POLYMER, JOINED = (
    "samples",
    "samples without guidance",
    "natural, held out, whole",
    "natural crops",
    "polymer",
    "helices and strands joined",
)
LONGEST_WHOLE = 200  # residues of natural chains that are measured whole
TEXT = """# Generated backbones

{count} samples of {lengths} residues ({unguided} more without guidance), beside held-out natural chains ({whole} of up
to {longest} residues, whole; and compact pieces of them as long as the samples), and two polymers of ideal residues:
one whose φ and ψ are those of natural residues, each drawn by itself; and one of helices and strands as frequent and as
long as in nature, joined by coil.

{table}
Helices and strands are by hydrogen bonds alone (pydssp), which also sees them in a random walk (0.4 of its
residues): they mean something only where bonds, angles and clashes are right. Clashes are pairs of CA closer than
3.7 Å, and of N, CA, C, O closer than 2.5 – 3.0 Å by kind. TM is of the length of the backbone that is compared.

{sequences}
None of these says that a sequence folds into the backbone: nothing here can verify that.

## By length

{by_length}{requests}
## Pictures

![backbones](gallery.png)

![φ and ψ](ramachandran.png)

![distances](contacts.png)
"""
WITH = """I is the entropy of the composition of the sequences that ProteinMPNN designs, less their mean −ln p: what a
backbone says of each letter. It means something only together with the clashes. (Their −ln p alone is best for broken
backbones, for which ProteinMPNN puts the same few letters everywhere.)
"""
REQUESTS = f"""
## On request

Of held-out chains. *Motifs* are built into backbones of {trials.BUILT} residues; their RMSD is that of N, CA and C,
and of clashes those count in which a new residue takes part. *Secondary structure* is that of the most compact
{trials.PIECE} residues, asked for residue by residue. *Variations* are of such pieces.

"""
WITHOUT = f"Without ProteinMPNN there is no I: `{designs.INSTALL}`.\n"


def report(
    samples: Sequence[Tensor],
    chains: Chains,
    out: Path,
    seed: int = 0,
    unguided: Sequence[Tensor] = (),
    asked: Trials | None = None,
) -> dict[str, dict[str, float]]:
    """Measures samples beside natural chains and two baselines; writes report.md, report.json and plots to a folder.

    Args:
        samples: (residues, 4, 3) each, in Å, of any lengths.
        chains: those trained on, and those held out.
        out: the folder; it is made if it is not there.
        seed: of the baselines and of the choice of natural pieces.
        unguided: samples without guidance, measured beside.
        asked: what came of requests, by `trials`.

    Returns:
        By column ("samples", …) and measure (`table.ROWS`) what report.json has as "all".

    Raises:
        ValueError: if there are no samples, or one is not finite or of another shape.
    """
    if not samples:
        raise ValueError("samples must have at least one backbone, got none")
    for i, x in enumerate(samples):
        if x.ndim != 3 or x.shape[1:] != (4, 3) or not bool(x.isfinite().all()):
            raise ValueError(f"samples must be finite and of shape (residues, 4, 3); number {i} is {_what(x)}")
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    samples = [x.detach().cpu().float() for x in samples]
    lengths = sorted({len(x) for x in samples})
    train = [chain.coords for chain in chains.train]
    region = Ramachandran.of(train)
    makers = {
        CROPS: (references.natural_crops, chains.test),
        POLYMER: (references.independent_torsions, chains.train),
        JOINED: (references.joined_elements, chains.train),
    }
    sets: dict[str, list[Tensor]] = {
        SAMPLES: samples,
        UNGUIDED: list(unguided),
        WHOLE: [chain.coords for chain in chains.test if len(chain) <= LONGEST_WHOLE],
    }
    for name, (make, of) in makers.items():
        sets[name] = [x for length in lengths for x in make(of, length, PER_LENGTH, generator)]

    sets = {name: members for name, members in sets.items() if members}
    sequences = designs.installed()
    rows = {name: measure(members, train, region, sequences) for name, members in sets.items()}
    table = {name: summary(found) for name, found in rows.items()}
    by_length = {
        f"{name}, {length}": summary(found)
        for name in (SAMPLES, CROPS)
        for length in lengths
        if (found := [row for row in rows.get(name, ()) if row["residues"] == length])
    }

    found = {"all": table, "by_length": by_length, "requests": asked or {}}
    (out / "report.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    text = TEXT.format(
        count=len(samples),
        lengths=", ".join(map(str, lengths)),
        whole=len(sets.get(WHOLE, ())),
        longest=LONGEST_WHOLE,
        table=markdown(table),
        sequences=WITH if sequences else WITHOUT,
        by_length=markdown(by_length),
        unguided=len(unguided),
        requests=REQUESTS + "\n".join(markdown(columns, trials.ROWS) for columns in asked.values()) if asked else "",
    )
    (out / "report.md").write_text(text, encoding="utf-8")
    shown = {name: _spread(members, SHOWN) for name, members in sets.items()}
    gallery(shown, out / "gallery.png")
    plot_ramachandran(sets, region, out / "ramachandran.png")
    plot_contacts({name: shown[name] for name in (SAMPLES, CROPS) if name in shown}, out / "contacts.png")
    return table


def _what(x: Tensor) -> str:
    return f"of shape {tuple(x.shape)}" + ("" if bool(x.isfinite().all()) else ", with NaN or infinity")


def _spread(members: Sequence[Tensor], count: int) -> list[Tensor]:
    """Up to `count` of them, spread evenly."""
    count = min(count, len(members))
    return [members[i * len(members) // count] for i in range(count)]
