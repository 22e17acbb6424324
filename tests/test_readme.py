"""Every Python block of README.md runs as it stands, on its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
LINES = README.read_text(encoding="utf-8").splitlines() if README.exists() else []


def blocks() -> list[tuple[int, str]]:
    """Line number and text of each block that is fenced as python."""
    found, start = [], None
    for number, line in enumerate(LINES, start=1):
        if start is None and re.fullmatch(r"\s*```\s*(python|py)\b.*", line):
            start = number
        elif start is not None and line.strip() == "```":
            found.append((start + 1, "\n".join(LINES[start : number - 1])))
            start = None
    assert start is None, f"the block that begins in line {start} has no end"
    return found


@pytest.mark.skipif(not LINES, reason="an installed package has no README.md beside its tests")
def test_no_block_is_missed() -> None:
    assert len(blocks()) == sum("```python" in line for line in LINES) >= 12


@pytest.mark.parametrize(("line", "code"), [pytest.param(*block, id=f"line-{block[0]}") for block in blocks()])
def test_block_runs(line: int, code: str) -> None:
    # Padded, so that a traceback shows the line of README.md.
    exec(compile("\n" * (line - 1) + code, str(README), "exec"), {"__name__": "__main__"})


def test_relative_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", "\n".join(LINES))
    missing = [link for link in links if not (README.parent / link).exists()]
    assert not missing
