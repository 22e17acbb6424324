"""All that defines a run of `train_potential.py`. Imports nothing heavy: `--help` reads it."""

from __future__ import annotations

from dataclasses import dataclass

from examples.options import TrainingOptions, count, option, positive, whole

# Options that a file given with --checkpoint decides.
OF_NEW_POTENTIALS = ("cutoff", "dim", "num_degrees", "depth", "heads", "dim_head", "attention")


@dataclass(frozen=True)
class Settings(TrainingOptions):
    """One field per option, with its help."""

    data: str = option(
        "g2", "g2 or aspirin, made here with GFN2-xTB; or a folder with train.xyz, valid.xyz and test….xyz", str
    )
    data_folder: str = option("potential_data", "where data sets that are made here are kept", str, metavar="FOLDER")
    checkpoint: str | None = option(
        None,
        "go on from this potential: potential.pt of another run, or a file of an EquiformerV2 or EquiformerV3, which"
        " decides the model and its cutoff; reference energies are fitted to the data anew",
        str,
        metavar="FILE",
    )
    cutoff: float = option(4.5, "radius within which atoms see each other, in Å", positive)
    dim: tuple[int, ...] = option((32,), "channels, of all degrees or of degree 0, 1, …", count, nargs="+")
    num_degrees: int = option(4, "degrees of the features", count)
    depth: int = option(2, "blocks of attention and feed-forward", count)
    heads: int = option(4, "attention heads per degree", count)
    dim_head: int = option(8, "channels per head", count)
    attention: str = option("l2", "l2 or mlp", str, choices=("l2", "mlp"))
    energy_weight: float = option(4.0, "of the error of energies", positive)
    force_weight: float = option(10.0, "of the error of force components", positive)
    stress_weight: float = option(1.0, "of the error of virials, where every structure comes with a stress", positive)

    steps: int = option(4500, "optimizer steps; the learning rate's schedule spans them", count)
    batch_size: int = option(8, "structures per process and micro-batch", count)
    lr: float = option(1e-3, "highest learning rate", positive)
    warmup: int = option(200, "steps of rising learning rate", whole)
    validate_every: int = option(250, "steps between evaluations on the validation set", count)
