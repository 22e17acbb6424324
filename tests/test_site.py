"""What builds the site: links are followed, and versions are listed with the last release first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

if not (Path(__file__).resolve().parents[1] / "docs" / "build.py").exists():
    pytest.skip("an installed package has no pages beside its tests", allow_module_level=True)

from docs.build import write_versions
from docs.links import broken_links


def pages(site: Path, **texts: str) -> None:
    (site / "1.3").mkdir()
    for name, text in texts.items():
        (site / "1.3" / f"{name}.html").write_text(text, encoding="utf-8")


def test_links_within_a_site(tmp_path):
    pages(
        tmp_path, one='<h1 id="top"></h1><a href="two.html#there">', two='<p id="there"><a href="#there"><a href=".">'
    )
    assert broken_links(tmp_path, "1.3") == ["1.3/two.html: . is not there"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('<a href="three.html">', "three.html is not there"),
        ('<a href="#nowhere">', "#nowhere has no such anchor"),
        ('<img src="missing.png">', "missing.png is not there"),
        ('<script src="https://cdn.example/x.js"></script>', "loads https://cdn.example/x.js from elsewhere"),
        ('<link rel="stylesheet" href="//fonts.example/a.css">', "loads //fonts.example/a.css from elsewhere"),
    ],
)
def test_what_is_broken_is_found(tmp_path, text, said):
    pages(tmp_path, one=text)
    assert any(said in line for line in broken_links(tmp_path, "1.3"))


def test_links_to_others_are_left_alone(tmp_path):
    pages(tmp_path, one='<a href="https://pytorch.org"><a href="mailto:a@b">')
    assert broken_links(tmp_path, "1.3") == []


@pytest.mark.parametrize(
    ("there", "listed", "first"),
    [
        (["1.3", "next", "1.10", "1.9"], ["next", "1.10", "1.9", "1.3"], "1.10"),
        (["next"], ["next"], "next"),
    ],
)
def test_versions(tmp_path, there, listed, first):
    for name in there:
        (tmp_path / name).mkdir()
        (tmp_path / name / "objects.inv").touch()
    (tmp_path / "no version").mkdir()
    write_versions(tmp_path)
    text = (tmp_path / "versions.js").read_text(encoding="utf-8")
    assert json.loads(text.removeprefix("window.SITE_VERSIONS = ").rstrip(";\n")) == listed
    assert f"url={first}/index.html" in (tmp_path / "index.html").read_text(encoding="utf-8")
