"""Every Python block of README.md and of the pages under docs/ runs as it stands, on its own; links lead somewhere.

Those of docs/programs.md are run by tests/clients/test_pages.py, tutorials and theory by ``python -m docs.build``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {"docs/programs.md"}
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").splitlines()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if path.exists()
}


def blocks() -> list[tuple[str, int, str]]:
    """Page, line number and text of each block that is fenced as python."""
    found = []
    for page, lines in PAGES.items():
        start = None
        for number, line in enumerate(lines, start=1):
            if start is None and re.fullmatch(r"\s*```\s*(python|py)\b.*", line):
                start = number
            elif start is not None and line.strip() == "```":
                if page not in ELSEWHERE:
                    found.append((page, start + 1, "\n".join(lines[start : number - 1])))
                start = None
        assert start is None, f"the block that begins in line {start} of {page} has no end"
    return found


@pytest.mark.skipif(not PAGES, reason="an installed package has no pages beside its tests")
def test_no_block_is_missed() -> None:
    fenced = sum("```python" in line for page, lines in PAGES.items() if page not in ELSEWHERE for line in lines)
    assert len(blocks()) == fenced >= 25


@pytest.mark.parametrize("page", PAGES)
def test_no_code_is_fenced_without_a_language(page: str) -> None:
    text = "\n".join(PAGES[page])
    fenced = re.findall(r"^```(.*?)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert not [code for language, code in fenced if not language and re.search(r"^(import|from) ", code, re.MULTILINE)]


@pytest.fixture
def published_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files under the names of published ones, a crystal, and programs of ASE that end after a few steps."""
    pytest.importorskip("ase", reason="needs the extra atoms")
    from ase.build import bulk
    from ase.md.md import MolecularDynamics
    from ase.optimize.optimize import Optimizer

    from equiformer_pytorch import ESCNMD, EquiformerV3

    torch.manual_seed(0)
    small: dict[str, Any] = {
        "num_layers": 1,
        "num_channels": 8,
        "attn_hidden_channels": 8,
        "num_heads": 2,
        "attn_value_channels": 4,
    }
    small |= {"edge_channels": 8, "lmax": 2, "attn_grid_resolution_list": [8, 8], "ffn_grid_resolution_list": [8, 8]}
    small |= {"num_radial_basis": 16, "max_radius": 4.0, "direct_prediction": False, "regress_stress": True}
    EquiformerV3(**small).save(tmp_path / "equiformer_v3_gradient.pt")
    widths = {"sphere_channels": 8, "hidden_channels": 8, "edge_channels": 8, "num_layers": 1, "lmax": 2, "mmax": 2}
    derivatives: dict[str, Any] = {"direct_forces": False, "regress_forces": True, "regress_stress": True}
    ESCNMD(**widths, **derivatives, cutoff=4.0, dataset_list=["omol", "omat"]).save(tmp_path / "uma.pt")
    bulk("NaCl", "rocksalt", a=5.6).write(tmp_path / "crystal.cif")
    monkeypatch.chdir(tmp_path)
    optimize, follow = Optimizer.run, MolecularDynamics.run
    monkeypatch.setattr(Optimizer, "run", lambda self, fmax, steps=3: optimize(self, fmax=fmax, steps=min(steps, 3)))
    monkeypatch.setattr(MolecularDynamics, "run", lambda self, steps: follow(self, min(steps, 3)))


# What torch says of its own parts.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.usefixtures("published_files")
@pytest.mark.parametrize(
    ("page", "line", "code"), [pytest.param(*block, id=f"{block[0]}-line-{block[1]}") for block in blocks()]
)
def test_block_runs(page: str, line: int, code: str) -> None:
    # Padded, so that a traceback shows the line of the page.
    exec(compile("\n" * (line - 1) + code, page, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"```.*?```", "", "\n".join(PAGES[page]), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert not missing
