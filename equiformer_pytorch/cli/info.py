"""Says what files hold: potentials, folders and checkpoints of runs, structures.

equiformer info potential.pt
equiformer info runs/potential
equiformer info train.xyz
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equiformer_pytorch.cli.program import Parser

WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors")
# Records that are looked at in a file of structures.
MOST_RECORDS = 10_000


def main(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    parser = Parser(
        "equiformer info",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="of potentials, runs or structures")
    args = parser.parse_args(arguments)
    failed = False
    for file in args.files:
        try:
            print(f"{file}\n{_lines(told(file))}")
        except (ImportError, OSError, ValueError) as error:
            print(f"{parser.prog}: {str(error).splitlines()[0]}", file=sys.stderr)
            failed = True
    return 2 if failed else 0


def told(file: Path) -> dict[str, str]:
    """What a file holds, by headings.

    Raises:
        OSError, ValueError: it cannot be read, or holds something else.
        ImportError: a package is missing that reads it.
    """
    if file.is_dir():
        for name in ("potential.pt", "checkpoint.pt"):
            if (file / name).is_file():
                return told(file / name)
        raise ValueError(f"{file} has neither potential.pt nor checkpoint.pt")
    if file.suffix.lower() not in WEIGHTS:
        return _of_structures(file)
    from equiformer_pytorch.base.saved import read_saved

    contents = read_saved(file)
    if {"step", "about", "model", "ema"} <= contents.keys():
        return _of_checkpoint(contents)
    return _of_potential(file, contents)


def _of_potential(file: Path, contents: Mapping[str, Any]) -> dict[str, str]:
    from equiformer_pytorch.atoms import load_potential

    model = load_potential(file)
    config = {
        name: value for name, value in model.config.items() if name not in ("species", "cutoff", "targets", "inputs")
    }
    neighbours = "" if model.max_neighbors is None else f", at most {model.max_neighbors} neighbours"
    neighbours += "" if model.strict_neighbors else " and those nearly as far as the next"
    energies = model.element_energies()
    named = {symbol: float(energies[z]) for z, symbol in _symbols(model.elements).items() if energies[z] != 0}
    targets = [
        f"{name} ({target.channels} of degree {target.degree} per {target.per})"
        for name, target in model.targets.items()
    ]
    weights = list(model.parameters())
    return {
        "model": type(model).__name__,
        "elements": _some(_symbols(model.elements).values()),
        "cutoff": f"{model.cutoff:g} Å{neighbours}",
        "gives": ", ".join(sorted(model.gives - model.targets.keys(), key=str)),
        "targets": ", ".join(targets),
        "inputs": ", ".join(_input(name, each) for name, each in model.inputs.items()),
        **model.about(),
        "parameters": f"{sum(weight.numel() for weight in weights):,}, {str(weights[0].dtype).removeprefix('torch.')}",
        "arguments": ", ".join(f"{name}={value}" for name, value in config.items()),
        "reference energies": ", ".join(f"{symbol} {energy:.4f} eV" for symbol, energy in named.items()),
        "training": _training(contents.get("training")),
    }


def _input(name: str, given: Any) -> str:
    """What a potential takes."""
    values = "any number" if given.least is None else f"{given.least} … {given.most}"
    return f"{name} ({values} per {given.per}, {given.default:g} by default)"


def _training(training: Any) -> str:
    """How a potential was trained, where its file says so."""
    if not isinstance(training, Mapping):
        return ""
    settings = training.get("settings", {})
    told = ("batch_size", "lr", "seed", "checkpoint")
    chosen = {name: settings[name] for name in told if settings.get(name) is not None}
    parts = [
        f"{training.get('steps')} steps with equiformer-pytorch {training.get('version')}",
        str(training.get("data")),
        *(f"{name.replace('_', ' ')} {value}" for name, value in chosen.items()),
    ]
    return "; ".join(parts)


def _of_checkpoint(contents: Mapping[str, Any]) -> dict[str, str]:
    settings = contents["about"]
    changed = ", ".join(f"{name}={value}" for name, value in settings.items() if value not in (None, (), False))
    return {
        "checkpoint": f"of a run, at step {contents['step']} of {settings.get('steps')}; --resume goes on",
        "trained for": f"{contents['seconds'] / 60:.1f} minutes, {contents['processes']} process(es)",
        "parameters": f"{sum(weight.numel() for weight in contents['model'].values()):,}",
        "settings": changed,
    }


def _of_structures(file: Path) -> dict[str, str]:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    from equiformer_pytorch.atoms.files import open_records
    from equiformer_pytorch.atoms.labels import LabelReader, fields_of, group_of
    from equiformer_pytorch.atoms.records import quietly

    records, reader = open_records(file), LabelReader()
    elements, fields, groups = Counter[str](), Counter[str](), Counter[str]()
    sizes: list[int] = []
    damaged: list[str] = []
    looked_at = min(len(records), MOST_RECORDS)
    for index in range(looked_at):
        try:
            with quietly():
                atoms = records[index]
            reader.read(atoms)
        except ValueError as error:
            damaged.append(f"record {index}: {error}")
            continue
        sizes.append(len(atoms))
        elements.update(set(atoms.symbols))
        fields.update(fields_of(atoms).keys())
        groups.update([group] if (group := group_of(atoms, "config_type")) else [])
    if not sizes:
        raise ValueError(f"{file}: no structure can be read; {damaged[0] if damaged else 'it is empty'}")
    return {
        "structures": f"{len(records)}" + (f", {looked_at} looked at" if looked_at < len(records) else ""),
        "atoms": f"{min(sizes)} – {max(sizes)}, {sum(sizes) / len(sizes):.1f} on average",
        "elements": _counted(elements),
        "labels": _counted(reader.found),
        "config_type": _counted(groups),
        "fields": _counted(fields),
        "names": reader.summary() or "",
        "damaged": f"{len(damaged)}, the first: {damaged[0]}" if damaged else "",
    }


def _symbols(elements: Sequence[int]) -> dict[int, str]:
    from ase.data import chemical_symbols

    return {z: chemical_symbols[z] for z in elements}


def _some(symbols: Any) -> str:
    """All, or how many, where that says more."""
    listed = list(symbols)
    return ", ".join(listed) if len(listed) <= 30 else f"{listed[0]} – {listed[-1]} ({len(listed)})"


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} ({number})" for name, number in counter.most_common(40))


def _lines(found: Mapping[str, str]) -> str:
    width = max(map(len, found)) + 2
    return "\n".join(f"  {name:{width}s}{text}" for name, text in found.items() if text)
