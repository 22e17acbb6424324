"""What a training step does, counted, is what docs/performance.md says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from benchmarks import counts
from benchmarks.counts import Case, counted

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def test_views_and_memory_are_free_and_work_is_counted():
    x = torch.randn(4, 5, requires_grad=True)
    found = counted(lambda: (x.T.view(5, 4)[1:] * 2).sum().backward())
    assert found.names["mul"] == 2, "forward and backward"
    assert found.names["sum"] == 1
    assert not {"view", "t", "slice", "expand", "empty"} & set(found.names)
    assert not found.waits
    assert counted(lambda: x.detach() * 2).written == 4 * 5 * 4


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x.tolist(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.long().abs().bincount(),
        lambda x: x.numpy(),
        lambda x: torch.equal(x, x),
    ],
)
def test_waits_are_counted(wait):
    assert counted(lambda: wait(torch.arange(3.0))).waits.total() == 1


@pytest.mark.slow
def test_no_more_than_is_promised():
    assert counts.main(["--most"]) == 0


def test_more_than_is_promised_fails(monkeypatch, capsys):
    def cases() -> list[Case]:
        return [Case("a layer", lambda: torch.nn.Linear(2, 2), lambda model: (model(torch.ones(1, 2)),), 1, 1, 0)]

    monkeypatch.setattr(counts, "cases", cases)
    assert counts.main(["--most"]) == 1
    assert "a layer" in capsys.readouterr().out
    assert counts.main([]) == 0


def test_the_page_has_every_case():
    text = PAGE.read_text(encoding="utf-8")
    for case in counts.cases():
        row = re.search(rf"^\| {re.escape(case.what)} \|.*$", text, re.MULTILINE)
        assert row, case.what
        operations, megabytes, waits = (int(re.sub(r"\D", "", cell.split("→")[-1])) for cell in row[0].split("|")[2:5])
        for said, most in ((operations, case.operations), (megabytes, case.megabytes), (waits, case.waits)):
            assert 0.9 * most <= said <= most or said == most, (case.what, said, most)
