"""The report and the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("pydssp", reason="needs the extra backbones")
pytest.importorskip("tmtools", reason="needs the extra backbones")
pytest.importorskip("matplotlib", reason="needs the extra backbones")

import numpy as np
import torch
from PIL import Image

from examples.backbones.chains import Chains, load_chains
from examples.backbones.measures import designs, report
from examples.backbones.measures.table import ROWS
from examples.backbones.pictures import write_gif


@pytest.mark.slow
def test_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "PER_LENGTH", 2)
    monkeypatch.setattr(report, "LONGEST_WHOLE", 75)
    monkeypatch.setattr(designs, "installed", lambda: False)
    chains = load_chains().compact()
    few = Chains(chains.train[-12:], chains.valid, chains.test)
    samples = [chain.coords[:48] for chain in chains.valid[:2]] + [chains.valid[2].coords[:40]]
    asked = {"variations": {"noise 1 Å": {"count": 2, "distance": 0.5}, "noise 2 Å": {"count": 2, "distance": 0.875}}}
    table = report.report(samples, few, tmp_path, unguided=samples[:1], asked=asked)
    assert set(table) == {report.SAMPLES, report.UNGUIDED, report.WHOLE, report.CROPS, report.POLYMER, report.JOINED}
    for column in table.values():
        assert list(column) == [key for key in ROWS if key in column]
        assert column["ca_steps"] > 0.9
    assert table[report.POLYMER]["atom_clashes"] > table[report.SAMPLES]["atom_clashes"]
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["all"] == table
    assert written["requests"] == asked
    assert written["by_length"]["samples, 48"]["ca_steps"] > 0.9
    text = (tmp_path / "report.md").read_text()
    assert designs.INSTALL in text
    assert "3 samples of 40, 48 residues (1 more without guidance)" in text
    assert "| RMSD of CA, mean, Å | 0.50 | 0.88 |" in text
    for picture in ("gallery.png", "ramachandran.png", "contacts.png"):
        assert picture in text
        with Image.open(tmp_path / picture) as image:
            assert min(image.size) > 200
    with pytest.raises(ValueError, match="samples must have at least one backbone"):
        report.report([], few, tmp_path)
    with pytest.raises(ValueError, match=r"number 0 is of shape \(48, 4, 3\), with NaN or infinity"):
        report.report([samples[0] / 0], few, tmp_path)
    with pytest.raises(ValueError, match=r"number 1 is of shape \(48, 3\)$"):
        report.report([samples[0], samples[1][:, 0]], few, tmp_path)


def test_gif(tmp_path: Path) -> None:
    last = load_chains().valid[-1].coords
    trajectory = [last + sigma * torch.randn_like(last) for sigma in (4.0, 1.0, 0.0)]
    write_gif(trajectory, tmp_path / "trajectory.gif", ["σ 4 Å", "σ 1 Å", "end"])
    with Image.open(tmp_path / "trajectory.gif") as image:
        assert (image.format, image.n_frames) == ("GIF", 3)
        for frame in range(3):
            image.seek(frame)
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
            assert (pixels > 250).all(1).mean() > 0.5  # white
            assert pixels[np.ptp(pixels, axis=1) < 20].min() < 180  # coil is grey
            assert not (
                (pixels[:, 1] > pixels[:, 0] + 40) & (pixels[:, 1] > pixels[:, 2] + 40)
            ).any()  # nothing is green
    with pytest.raises(ValueError, match="captions must be one per backbone, 3, got 1"):
        write_gif(trajectory, tmp_path / "trajectory.gif", ["σ"])
