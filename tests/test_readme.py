"""Every Python block of README.md and docs/testing.md runs as it stands, on its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = {
    path.name: path.read_text(encoding="utf-8").splitlines()
    for path in (README, ROOT / "docs" / "testing.md")
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
                found.append((page, start + 1, "\n".join(lines[start : number - 1])))
                start = None
        assert start is None, f"the block that begins in line {start} of {page} has no end"
    return found


@pytest.mark.skipif(not PAGES, reason="an installed package has no pages beside its tests")
def test_no_block_is_missed() -> None:
    assert len(blocks()) == sum("```python" in line for lines in PAGES.values() for line in lines) >= 12


@pytest.mark.parametrize(
    ("page", "line", "code"), [pytest.param(*block, id=f"{block[0]}-line-{block[1]}") for block in blocks()]
)
def test_block_runs(page: str, line: int, code: str) -> None:
    # Padded, so that a traceback shows the line of the page.
    exec(compile("\n" * (line - 1) + code, page, "exec"), {"__name__": "__main__"})


def test_relative_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", "\n".join(PAGES.get(README.name, [])))
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing
