"""The version is the same wherever it stands."""

import re
from pathlib import Path

import pytest

from equiformer_pytorch import __version__

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("name", "line"), [("CITATION.cff", f"version: {__version__}"), ("CHANGELOG.md", f"## {__version__}")]
)
def test_version(name, line):
    path = ROOT / name
    if not path.exists():
        pytest.skip("an installed package has none beside its tests")
    assert re.search(rf"^{re.escape(line)}$", path.read_text(encoding="utf-8"), re.MULTILINE)
