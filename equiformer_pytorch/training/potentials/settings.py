"""All that defines a run that trains a potential. Imports nothing heavy: `--help` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from equiformer_pytorch.training.options import (
    TrainingOptions,
    assignment,
    at_least,
    count,
    flag,
    optimizer,
    option,
    positive,
    whole,
)

# Options that a file given with --checkpoint decides.
OF_NEW_POTENTIALS = (
    *("cutoff", "dim", "num_degrees", "depth", "heads", "dim_head", "radial_basis", "attention", "chiral"),
    *("targets", "inputs", "species"),
)


def cutoff(default: float) -> Any:
    """A field of settings: how far atoms see."""
    return option(default, "radius within which atoms see each other, in Å", positive)


def radial_basis(default: str) -> Any:
    """A field of settings: which functions of the distance."""
    words = "of distances: log, finer near than far away, or even, finer at bonds"
    return option(default, words, str, choices=("log", "even"))


@dataclass(frozen=True)
class PotentialSettings(TrainingOptions):
    """One field per option, with its help."""

    UNSAID: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw", "radial_basis": "log"}

    train: tuple[str, ...] | None = option(
        None, "structures to train on, in any format that ASE reads (extxyz, db, aselmdb, traj, …); eV and eV/Å",
        str, nargs="+", metavar="FILE",
    )  # fmt: skip
    valid: tuple[str, ...] = option(
        ("0.1",), "structures to validate on, or the share of those to train on that is kept for it",
        str, nargs="+", metavar="FILE",
    )  # fmt: skip
    test: tuple[str, ...] | None = option(
        None, "structures to evaluate on at the end, or a share; those of validation by default",
        str, nargs="+", metavar="FILE",
    )  # fmt: skip
    data: str | None = option(
        None, "instead of these a folder with files train, valid and test…, such as train.xyz", str, metavar="FOLDER"
    )
    keys: tuple[str, ...] = option(
        (), "names of labels in the files where they are others: energy=REF_energy forces=REF_forces virial=virials, …"
        " or of a target or an input (stress and virial are of a structure; a virial is −V times the stress)",
        assignment, nargs="+", metavar="LABEL=NAME",
    )  # fmt: skip
    lazy: bool = flag(
        "read structures and make their graphs when they are needed, in --workers: for more than fits into memory"
        " (always for .aselmdb, and above 2 GiB)"
    )
    skip_damaged: bool = flag("leave out records that cannot be used, instead of stopping (always with --lazy)")
    checkpoint: str | None = option(
        None,
        "go on from this potential: potential.pt of another run, or a file of an EquiformerV2, EquiformerV3 or"
        " ESCNMD, which decides the model and its cutoff; reference energies are fitted to the data anew",
        str,
        metavar="FILE",
    )
    species: tuple[str, ...] = option(
        (), "elements that may occur, symbols or atomic numbers; those of the structures to train on by default",
        str, nargs="+", metavar="H",
    )  # fmt: skip
    targets: tuple[str, ...] = option(
        (), "what else to learn, by degree, per structure or per atom: dipole=1 charges=0:atom polarizability=0+2",
        assignment, nargs="+", metavar="NAME=DEGREE",
    )  # fmt: skip
    inputs: tuple[str, ...] = option(
        (), "numbers that energies depend on, of structures or of atoms, whole ones of a range or any: charge=-4..4"
        " spin=0..6 field=any:atom; structures that do not say have 0, or the least",
        assignment, nargs="+", metavar="NAME=RANGE",
    )  # fmt: skip
    cutoff: float = cutoff(4.5)
    dim: tuple[int, ...] = option((32,), "channels, of all degrees or of degree 0, 1, …", count, nargs="+")
    num_degrees: int = option(4, "degrees of the features", count)
    depth: int = option(2, "blocks of attention and feed-forward", count)
    heads: int = option(4, "attention heads per degree", count)
    dim_head: int = option(8, "channels per head", count)
    radial_basis: str = radial_basis("log")
    attention: str = option("l2", "l2 or mlp", str, choices=("l2", "mlp"))
    chiral: bool = flag("let mirror images differ: for targets that turn over in a mirror, such as optical rotation")
    energy_weight: float = option(4.0, "of the error of energies, where there are some", positive)
    force_weight: float = option(10.0, "of the error of force components, where there are some", positive)
    stress_weight: float = option(1.0, "of the error of virials, where there are some", positive)
    target_weights: tuple[str, ...] = option(
        (), "of the errors of targets; 1 by default", assignment, nargs="+", metavar="NAME=WEIGHT"
    )

    steps: int = option(4500, "optimizer steps; the learning rate's schedule spans them", count)
    batch_size: int = option(8, "structures per process and micro-batch", count)
    max_edges: int | None = option(
        None, "most edges that are computed at once: larger batches are taken in pieces, with the same result", count
    )
    optimizer: str = optimizer("auto", "auto", more="; auto: muon for a new potential, adamw with --checkpoint")
    lr: float = option(0.0, "highest learning rate; 0: 3e-3 with muon, 1e-3 with adamw", at_least(float, 0))
    warmup: int = option(200, "steps of rising learning rate", whole)
    validate_every: int = option(250, "steps between evaluations on the validation set", count)
