"""Frames, atoms and torsions: round trips, equivariance, and numbers of gemmi."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from examples.backbones import geometry
from examples.backbones.chains import load_chains

PART = 1e-5


@pytest.fixture(scope="module")
def coords() -> Tensor:
    return load_chains().test[-1].coords.double()


def test_frames_are_as_described(coords: Tensor) -> None:
    frames = geometry.frames_of(coords)
    local = frames.local(coords)
    assert torch.linalg.det(frames.rotation).sub(1).abs().max() < PART
    assert local[:, 1].abs().max() < PART  # CA at the origin
    assert local[:, 2, 1:].abs().max() < PART  # C on the x axis
    assert bool((local[:, 2, 0] > 0).all())
    assert local[:, 0, 2].abs().max() < PART  # N in the plane of x and y
    assert bool((local[:, 0, 1] > 0).all())
    torch.testing.assert_close(frames.apply(local), coords)


def test_natural_residues_are_nearly_ideal(coords: Tensor) -> None:
    off = (geometry.atoms_of(geometry.frames_of(coords)) - coords).norm(dim=-1)
    assert off[:-1].mean(0).max() < 0.1  # O, too
    assert off[:-1].max() < 0.4


def test_atoms_turn_with_frames(coords: Tensor) -> None:
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    turn = turn * torch.linalg.det(turn)
    frames = geometry.frames_of(coords)
    turned = geometry.Frames(turn @ frames.rotation, frames.origin @ turn.T)
    torch.testing.assert_close(geometry.atoms_of(turned), geometry.atoms_of(frames) @ turn.T)


def test_padding_changes_nothing(coords: Tensor) -> None:
    frames = geometry.frames_of(coords)
    short = geometry.atoms_of(geometry.Frames(frames.rotation[:20], frames.origin[:20]))
    mask = (torch.arange(len(coords)) < 20)[None]
    padded = geometry.atoms_of(geometry.Frames(frames.rotation[None], frames.origin[None]), mask)
    torch.testing.assert_close(padded[0, :20], short)


def test_grown_residues_have_the_torsions_and_are_ideal() -> None:
    wanted = (torch.rand(3, 12, 3, dtype=torch.float64) - 0.5) * 2 * math.pi
    grown = geometry.atoms_of(geometry.grow(wanted))
    found = geometry.torsions(grown)
    torch.testing.assert_close(found[:, 1:, 0], wanted[:, 1:, 0])
    torch.testing.assert_close(found[:, :-1, 1:], wanted[:, :-1, 1:])
    assert found[:, 0, 0].isnan().all()
    assert found[:, -1, 1:].isnan().all()
    for name, length in {
        "N–CA": geometry.N_CA,
        "CA–C": geometry.CA_C,
        "C–O": geometry.C_O,
        "C–N": geometry.C_N,
    }.items():
        assert (geometry.bonds(grown)[name] - length).abs().max() < PART
    for name, degrees in {"N–CA–C": geometry.N_CA_C, "CA–C–O": geometry.CA_C_O, "C–N–CA": geometry.C_N_CA}.items():
        assert (torch.rad2deg(geometry.angles(grown)[name]) - degrees).abs().max() < PART


def test_torsions_are_those_of_gemmi(coords: Tensor) -> None:
    gemmi = pytest.importorskip("gemmi", reason="needs the extra backbones")
    from examples.backbones.structures import pdb_text

    chain = gemmi.read_pdb_string(pdb_text([coords]))[0]["A"]
    ours = geometry.torsions(coords)
    residues = list(chain)
    for i, (before, here, after) in enumerate(zip(residues, residues[1:], residues[2:], strict=False), 1):
        phi, psi = gemmi.calculate_phi_psi(before, here, after)
        omega = gemmi.calculate_omega(here, after)
        theirs = torch.tensor([phi, psi, omega], dtype=torch.float64)
        assert torch.remainder(ours[i] - theirs + math.pi, 2 * math.pi).sub(math.pi).abs().max() < 5e-3  # of 1e-3 Å


def test_gradients_of_frames_are_finite(coords: Tensor) -> None:
    moved = coords[:10].clone().requires_grad_()
    geometry.atoms_of(geometry.frames_of(moved)).square().sum().backward()
    assert moved.grad is not None
    assert bool(moved.grad.isfinite().all())
