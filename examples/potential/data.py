"""Energies and forces of GFN2-xTB for small molecules, made here: dynamics by ASE, labels by tblite.

    python -m examples.potential.data aspirin data/aspirin    # one molecule of 21 atoms, 500 K; about three minutes;
                                                              # or another one of `molecules.xyz`
    python -m examples.potential.data g2 data/g2              # 116 molecules, thermal and rattled; about five minutes

A data set is a folder of extxyz files, one per split, with energies (eV) and forces (eV/Å) where ASE keeps them, and
`about.json`, which says how it was made. The folder appears when it is complete, and one that is there is not made
again. Everything random depends on the seed; the last digits also on the machine.

In `g2` are the molecules of `ase.collections.g2` that are closed-shell (a potential of positions alone cannot tell two
spin states apart) and made of `ELEMENTS` (the others occur in three molecules at most), and those of `molecules.xyz`,
of aspirin's size. `HELD_OUT` molecules are in `test_molecules.xyz` and nowhere else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed, Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.collections import g2 as g2_collection
from ase.io import iread, write
from ase.md.langevin import Langevin
from ase.optimize import BFGS
from tqdm import tqdm

from examples.potential.settings import MADE_HERE

MOLECULES = Path(__file__).with_name("molecules.xyz")
ABOUT = "about.json"
ELEMENTS = frozenset({"H", "C", "N", "O", "F", "Si", "S", "Cl"})
HELD_OUT = (
    *("CH3CHO", "C4H4NH", "CH3SCH3", "H2CCHF", "C2H6CHOH", "cyclobutane", "CH3CONH2", "CH3CH2Cl", "N2H4", "HCOOCH3"),
    *("CH3SiH3", "OCS", "paracetamol"),
)
TIME_STEP = 0.5  # fs
FRICTION = 0.01  # 1/fs


class DataError(ValueError):
    """The data set cannot be made here, or is not what was asked for."""


@dataclass(frozen=True)
class Sizes:
    """Geometries per split and molecule, in the order of the trajectory."""

    train: int
    valid: int
    test: int


@dataclass(frozen=True)
class Dynamics:
    """Langevin dynamics from a relaxed geometry; times in fs."""

    temperature: float = 500.0  # K
    equilibrate: float = 1000.0
    every: float = 10.0
    gap: float = 1000.0  # between the last geometry of a split and the first of the next


def gfn2() -> Calculator:
    """tblite's GFN2-xTB, quiet and on one thread: more make a molecule slower and its last digits vary."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # tblite has an OpenMP of its own, which reads this once, when it is loaded
    try:
        from tblite.ase import TBLite
    except ImportError as error:
        raise DataError('the labels need tblite: pip install "equiformer-pytorch[examples,xtb]"') from error
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    return TBLite(method="GFN2-xTB", accuracy=0.1, verbosity=0)


def generator_for(*key: object) -> np.random.Generator:
    """Another one for any other key, wherever and in whatever order it is asked for."""
    return np.random.default_rng(int.from_bytes(sha256(repr(key).encode()).digest()[:8], "big"))


def relax(atoms: Atoms) -> None:
    """To forces below 0.01 eV/Å; `atoms` have a calculator."""
    if not BFGS(atoms, logfile=None).run(fmax=0.01, steps=500):
        raise DataError(f"{atoms.info['name']} does not come to rest")


def labelled(atoms: Atoms, kind: str) -> Atoms:
    """A copy that keeps energy and forces, centred."""
    copy = Atoms(atoms.numbers, atoms.positions - atoms.positions.mean(0), info={"name": atoms.info["name"]})
    copy.info["kind"] = kind
    copy.calc = SinglePointCalculator(copy, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
    return copy


def thermal(relaxed: Atoms, sizes: Sequence[int], dynamics: Dynamics, rng: np.random.Generator) -> Iterator[Atoms]:
    """Geometries of one trajectory, `sizes` at a time with a gap between."""
    atoms = relaxed.copy()
    atoms.calc = relaxed.calc
    # Half of the kinetic energy becomes potential energy, so twice as much is close to equilibrium from the start.
    spread = np.sqrt(2 * units.kB * dynamics.temperature * atoms.get_masses())
    atoms.set_momenta(spread[:, None] * rng.normal(size=(len(atoms), 3)))
    langevin = Langevin(
        atoms,
        timestep=TIME_STEP * units.fs,
        temperature_K=dynamics.temperature,
        friction=FRICTION / units.fs,
        fixcm=False,
        rng=rng,
    )
    wait = dynamics.equilibrate
    for size in sizes:
        for _ in range(size):
            langevin.run(round(wait / TIME_STEP))
            yield labelled(atoms, "thermal")
            wait = dynamics.every
        wait = dynamics.gap


def rattled(relaxed: Atoms, size: int, rng: np.random.Generator) -> Iterator[Atoms]:
    """The relaxed geometry with normal displacements of 0.01 – 0.05 Å per component, another spread for each."""
    for _ in range(size):
        atoms = relaxed.copy()
        atoms.calc = relaxed.calc
        atoms.positions += rng.uniform(0.01, 0.05) * rng.normal(size=(len(atoms), 3))
        yield labelled(atoms, "rattled")


def large_molecules() -> dict[str, Atoms]:
    """Those of `molecules.xyz`, by name: MMFF94 conformers by RDKit, relaxed with GFN2-xTB."""
    return {atoms.info["name"]: atoms for atoms in iread(MOLECULES, ":", format="extxyz")}


def small_molecules() -> dict[str, Atoms]:
    """Those of `ase.collections.g2` that are closed-shell and made of `ELEMENTS`, by name."""
    chosen = {}
    for name in g2_collection.names:
        atoms = molecule(name)
        closed = not atoms.get_initial_magnetic_moments().any()
        if len(atoms) > 1 and closed and ELEMENTS.issuperset(atoms.symbols):
            chosen[name] = Atoms(atoms.numbers, atoms.positions, info={"name": name})
    return chosen


def one_molecule(
    folder: Path, name: str, *, sizes: Sizes = Sizes(200, 50, 200), dynamics: Dynamics = Dynamics(), seed: int = 0
) -> dict[str, Path]:
    """A molecule of `molecules.xyz` from Langevin dynamics at 500 K: the files by split, made if they are not there."""
    about = {"set": name, "sizes": asdict(sizes), "dynamics": asdict(dynamics), "seed": seed}
    counts = vars(sizes)

    def make() -> dict[str, list[Atoms]]:
        atoms = large_molecules()[name]
        atoms.calc = gfn2()
        relax(atoms)
        frames = thermal(atoms, list(counts.values()), dynamics, generator_for(name, seed))
        frames = iter(_progress(frames, sum(counts.values()), name))
        return {split: [next(frames) for _ in range(count)] for split, count in counts.items()}

    return _cached(folder, about, make)


aspirin = partial(one_molecule, name="aspirin")


def made_here(name: str, folder: Path, seed: int = 0) -> dict[str, Path]:
    """The data set of `MADE_HERE` with this name: the files by split, made if they are not there."""
    return g2(folder, seed=seed) if name == "g2" else one_molecule(folder, name, seed=seed)


def g2(
    folder: Path,
    *,
    small: Sizes = Sizes(16, 2, 4),
    large: Sizes = Sizes(48, 4, 8),
    dynamics: Dynamics = Dynamics(equilibrate=100.0, every=20.0, gap=100.0),
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, Path]:
    """Many molecules, one half of each thermal, the other rattled: the files by split, made if they are not there.

    Args:
        small: geometries of each molecule of ASE's g2 collection; of a held-out one, all are test geometries.
        large: the same for molecules of aspirin's size.
        names: only these molecules; all by default.
    """
    about: dict[str, Any] = {"set": "g2", "small": asdict(small), "large": asdict(large)}
    about |= {"dynamics": asdict(dynamics), "names": None if names is None else list(names), "seed": seed}
    groups = [(small_molecules(), small), (large_molecules(), large)]
    unknown = set(names or ()).difference(*(group for group, _ in groups))
    if unknown:
        raise DataError(f"names has {', '.join(sorted(unknown))}, which is not in the data set")
    jobs = [
        (atoms, sizes) for group, sizes in groups for name, atoms in group.items() if names is None or name in names
    ]

    def make() -> dict[str, list[Atoms]]:
        splits: dict[str, list[Atoms]] = {split: [] for split in (*vars(small), "test_molecules")}
        for atoms, sizes in _progress(jobs, len(jobs), "g2"):
            for split, frames in _geometries(atoms, sizes, dynamics, seed).items():
                splits["test_molecules" if atoms.info["name"] in HELD_OUT else split].extend(frames)
        return splits

    return _cached(folder, about, make)


def _geometries(atoms: Atoms, sizes: Sizes, dynamics: Dynamics, seed: int) -> dict[str, list[Atoms]]:
    """By split: the first half from the trajectory, the rest rattled."""
    name = atoms.info["name"]
    atoms.calc = gfn2()
    try:
        relax(atoms)
        halves = [(size + 1) // 2 for size in vars(sizes).values()]
        moving = thermal(atoms, halves, dynamics, generator_for("thermal", name, seed))
        shaken = rattled(atoms, sum(vars(sizes).values()) - sum(halves), generator_for("rattled", name, seed))
        return {
            split: [next(moving) for _ in range(half)] + [next(shaken) for _ in range(size - half)]
            for (split, size), half in zip(vars(sizes).items(), halves, strict=True)
        }
    except CalculationFailed as error:
        raise DataError(f"GFN2-xTB fails for {name}: {error}") from error


def _progress(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    return tqdm(items, desc=what, total=total, mininterval=0.2 if sys.stderr.isatty() else 10)


def _cached(folder: Path, about: dict[str, Any], make: Callable[[], dict[str, list[Atoms]]]) -> dict[str, Path]:
    """The splits in `folder`, which `make` makes if it is not there; an error if it was made in another way."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            complete = Path(temporary) / folder.name
            complete.mkdir()
            for split, frames in make().items():
                write(complete / f"{split}.xyz", frames, format="extxyz")
            (complete / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
            complete.replace(folder)  # all or nothing
    try:
        found = json.loads((folder / ABOUT).read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is not a data set of this program: {error}") from error
    if found != about:
        raise DataError(f"{folder} was made in another way ({found}): delete it, or choose another folder")
    return {path.stem: path for path in sorted(folder.glob("*.xyz"))}


def describe(path: Path) -> str:
    """One line: how many geometries, their energies and forces."""
    frames = list(iread(path, ":"))
    if not frames:
        return f"{path}: empty"
    forces = np.concatenate([atoms.get_forces() for atoms in frames])
    names = [atoms.info["name"] for atoms in frames]
    energies = {name: [a.get_potential_energy() / len(a) for a in frames if a.info["name"] == name] for name in names}
    spread = np.sqrt(np.mean([np.var(per_atom) for per_atom in energies.values()]))
    return (
        f"{path}: {len(frames)} geometries of {len(energies)} molecules, {len(forces)} atoms; "
        f"mean |force component| {np.abs(forces).mean():.3f} eV/Å, rms {np.sqrt((forces**2).mean()):.3f}; "
        f"energy of a molecule varies by {1e3 * spread:.1f} meV/atom"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: makes a data set and describes it."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.potential.data", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("set", choices=MADE_HERE, metavar="SET", help=f"which: {', '.join(MADE_HERE)}")
    parser.add_argument("folder", type=Path, help="where it goes; a set that is there is only described")
    parser.add_argument("--seed", type=int, default=0, help="of velocities, noise and displacements (default: 0)")
    args = parser.parse_args(arguments)
    try:
        paths = made_here(args.set, args.folder, seed=args.seed)
    except DataError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted, nothing was left behind", file=sys.stderr)
        return 130
    for path in paths.values():
        print(describe(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
