"""What the denoiser learns from: crops of chains, noised, and how far its estimates are off."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from examples.backbones.geometry import Frames, frames_of, residue
from examples.backbones.network import STRUCTURES, BackboneNetwork, Chains
from examples.backbones.process import HIGHEST, KNOWN, LOWEST, add_noise, angle_of, mean_of
from examples.backbones.rotations import random_rotations

OPEN = len(STRUCTURES)


def draw_level(generator: torch.Generator) -> float:
    """A noise level in Å: most between 0.3 and 10, where shape is decided."""
    while True:
        level = math.exp(math.log(1.7) + 1.5 * float(torch.randn((), generator=generator)))
        if LOWEST <= level <= HIGHEST:
            return level


def draw_crop(chain, generator, *, crop: int, motifs: float = 0.3, structures: float = 0.3) -> dict[str, Tensor]:
    size = len(chain.coords)
    length = min(size, crop)
    start = int(torch.randint(size - length + 1, (), generator=generator))
    coords = torch.as_tensor(chain.coords[start : start + length])
    frames = frames_of(coords)
    turn = random_rotations(1, generator)[0]
    frames = Frames(turn @ frames.rotation, (frames.origin - frames.origin.mean(0)) @ turn.T)
    known = torch.zeros(length, dtype=torch.bool)
    if float(torch.rand((), generator=generator)) < motifs:
        for _ in range(int(torch.randint(1, 3, (), generator=generator))):
            part = int(torch.randint(min(8, length // 4), length // 2, (), generator=generator))
            at = int(torch.randint(length - part + 1, (), generator=generator))
            known[at : at + part] = True
            if known.sum() > length // 3:
                break
    structure = torch.full((length,), OPEN)
    if float(torch.rand((), generator=generator)) < structures and hasattr(chain, "structure"):
        structure = chain.structure[start : start + length]
    sigma = torch.full((length,), draw_level(generator)).masked_fill(known, KNOWN)
    place = torch.arange(length)
    ends = torch.stack((start + place, size - 1 - start - place), -1)
    zero = torch.zeros(length, dtype=torch.long)
    noisy = add_noise(frames, sigma, zero, ~known.any()[None], generator)
    noisy = frames.where(known, noisy)
    again = torch.rand((), generator=generator) < 0.5
    return dict(rotation=frames.rotation, origin=frames.origin, noisy_rotation=noisy.rotation, noisy_origin=noisy.origin,
                sigma=sigma, known=known, structure=structure, ends=ends, again=again)


def collate(samples):
    batch = torch.repeat_interleave(torch.arange(len(samples)), torch.tensor([len(s["sigma"]) for s in samples]))
    out = {k: torch.cat([s[k] for s in samples]) for k in samples[0] if k != "again"}
    out["batch"] = batch
    out["again"] = samples[0]["again"]
    return out


def losses(model: BackboneNetwork, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    net = getattr(model, "module", model)
    chains = Chains(batch["batch"], batch["known"], batch["structure"], batch["ends"])
    clean = Frames(batch["rotation"], batch["origin"])
    noisy = Frames(batch["noisy_rotation"], batch["noisy_origin"])
    sigma = batch["sigma"]
    before = None
    if bool(batch["again"]):
        with torch.no_grad():
            before = model(noisy, sigma, chains)
    out = model(noisy, sigma, chains, before)
    error = torch.cat([net.prior(x, s).error for x, s in zip(noisy.origin.split(chains.sizes), sigma.split(chains.sizes))])
    new = (~chains.known).to(sigma)
    share = mean_of(new[:, None], chains.batch)[:, 0].clamp(min=1e-3)
    def per_chain(x):
        return mean_of((x * new)[:, None], chains.batch)[:, 0] / share
    position = per_chain((out.origin - clean.origin).square().mean(-1) / error.square())
    told = (-angle_of(sigma).square()).exp()
    turned = per_chain((out.rotation - clean.rotation).square().sum((-1, -2)) / (6 * (1 - told) + 1e-3))
    atoms, true = (f.apply(residue().expand(len(sigma), 3, 3)) for f in (out, clean))
    scale = error.square() + angle_of(sigma).square() + 0.01
    local = 0
    for offset in (1, 2, 3, 4):
        same = (chains.batch[offset:] == chains.batch[:-offset]).to(sigma) * (new[offset:] + new[:-offset]).clamp(max=1)
        ours = (atoms[offset:, :, None] - atoms[:-offset, None]).square().sum(-1).add(1e-6).sqrt()
        theirs = (true[offset:, :, None] - true[:-offset, None]).square().sum(-1).sqrt()
        local = local + ((ours - theirs).square().mean((1, 2)) / scale[offset:] * same).sum() / same.sum().clamp(min=1) / 4
    return dict(position=position.mean(), rotation=turned.mean(), local=local, per_position=position.detach(), per_rotation=turned.detach())


def denoising_loss(model, batch) -> Tensor:
    found = losses(model, batch)
    return found["position"] + found["rotation"] + 0.5 * found["local"]
