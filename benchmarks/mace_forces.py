"""MACE learns a molecule: ``MACE_PYTHON mace_forces.py JOB``, in an environment of its own with mace-torch 0.3.16.

It runs MACE's own ``run_train`` with the options below, those of the job over them, and the job's batch size; the rest
are its defaults (Adam with learning rate 0.01, forces weighted 100 to 1, two interactions of correlation 3, l ≤ 3).
Beside it only a clock and an evaluation: after every epoch the averaged weights are measured on the test file, outside
the time that is counted, and a line of JSON is printed. A job with a budget in seconds of processor time ends with the
epoch that spends it, and measures there alone. Needs nothing of this package.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import tempfile
import time
import warnings
from typing import Any

import torch

OPTIONS = {
    "model": "ScaleShiftMACE",
    "hidden_irreps": "32x0e + 32x1o",
    "r_max": 4.5,
    "E0s": "average",
    "scaling": "rms_forces_scaling",
    "ema_decay": 0.99,
    "energy_key": "energy",
    "forces_key": "forces",
    "default_dtype": "float32",
    "device": "cpu",
    "error_table": "PerAtomRMSE",
}


def learn(job: dict[str, Any]) -> None:
    """``run_train`` on the job's files, for its number of epochs."""
    # MACE is no dependency: pyright need not find it.
    import mace  # pyright: ignore[reportMissingImports]
    from mace.cli import run_train  # pyright: ignore[reportMissingImports]
    from mace.data import AtomicData, KeySpecification, load_from_xyz  # pyright: ignore[reportMissingImports]
    from mace.tools import (  # pyright: ignore[reportMissingImports]
        AtomicNumberTable,
        build_default_arg_parser,
        torch_geometric,
    )

    train: Any = importlib.import_module("mace.tools.train")  # mace.tools.train itself is a function
    torch.set_num_threads(job["threads"])
    one_epoch, wall, cpu = train.train_one_epoch, 0.0, 0.0
    loaders: list[Any] = []
    given = OPTIONS | job.get("options", {})

    def test_loader(model: Any) -> Any:
        """Of the job's test file, made once the model says which species there are."""
        if not loaders:
            keys = KeySpecification.from_defaults()
            keys.info_keys["energy"], keys.arrays_keys["forces"] = given["energy_key"], given["forces_key"]
            _, configurations = load_from_xyz(job["test"], key_specification=keys)
            table = AtomicNumberTable([int(z) for z in model.atomic_numbers])
            cutoff = float(given["r_max"])
            graphs = [AtomicData.from_config(c, z_table=table, cutoff=cutoff) for c in configurations]
            loaders.append(torch_geometric.dataloader.DataLoader(graphs, batch_size=10, shuffle=False))
        return loaders[0]

    def timed_epoch(**arguments: Any) -> None:
        nonlocal wall, cpu
        start = time.perf_counter(), time.process_time()
        one_epoch(**arguments)
        wall, cpu = wall + time.perf_counter() - start[0], cpu + time.process_time() - start[1]
        if "budget" in job and cpu < job["budget"]:
            return
        model = arguments["model"]
        with arguments["ema"].average_parameters():
            _, found = train.evaluate(
                model=model,
                loss_fn=arguments["loss_fn"],
                data_loader=test_loader(model),
                output_args=arguments["output_args"],
                device=arguments["device"],
            )
        point = {
            "epoch": arguments["epoch"] + 1,
            "seconds": wall,
            "cpu_seconds": cpu,
            "force_rmse": 1e3 * float(found["rmse_f"]),
            "energy_rmse": 1e3 * float(found["rmse_e_per_atom"]),
            "force_mae": 1e3 * float(found["mae_f"]),
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "version": mace.__version__,
        }
        print(json.dumps(point), flush=True)
        if "budget" in job:
            raise SystemExit

    train.train_one_epoch = timed_epoch  # the one place where run_train's loop can be watched
    with tempfile.TemporaryDirectory() as folder:
        options = given | {
            "name": "molecule",
            "work_dir": folder,
            "train_file": job["train"],
            "valid_file": job["valid"],
            "seed": job["seed"],
            "max_num_epochs": job.get("epochs", 10_000),
            "batch_size": job["batch_size"],
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        run_train.run(build_default_arg_parser().parse_args([*words, "--ema", "--amsgrad"]))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    learn(json.loads(sys.argv[1]))
