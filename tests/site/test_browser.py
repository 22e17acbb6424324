"""Every page of the built site in Chromium: no error, nothing wider than the screen, no broken picture.

``python -m docs.build`` comes first. Pages are opened from the disk, as a reader without a network has them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from equiformer_pytorch import __version__

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")

SITE = Path(__file__).resolve().parents[2] / "build" / "site" / ".".join(__version__.split(".")[:2])
PAGES = sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = {"desktop": 1280, "phone": 390}
ARGUMENTS = [
    *("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--enable-unsafe-swiftshader"),
]
# Broken pictures, figures that are but named, and pages wider than the screen, with what may be to blame.
PROBLEMS = """() => {
  const found = [...document.images].filter(i => !i.hidden && !(i.complete && i.naturalWidth > 0))
    .map(i => `broken picture ${i.src.slice(0, 80)}`);
  const named = [...document.querySelectorAll(".cell_output pre")].map(output => output.textContent.trim());
  found.push(...named.filter(text => /^<(Figure|Axes)/.test(text)));
  const {clientWidth, scrollWidth} = document.documentElement;
  if (scrollWidth > clientWidth) {
    const sticksOut = element => element.getBoundingClientRect().right > clientWidth + 1;
    const wide = [...document.querySelectorAll("article *")].find(sticksOut);
    found.push(`page of ${scrollWidth} px on ${clientWidth}: ${wide?.outerHTML.slice(0, 120)}`);
  }
  return found;
}"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PAGES, reason="the site is not built: python -m docs.build"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """With an empty profile."""
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tab; `problems` are what it complained of."""
    tab = browser.new_page()
    tab.set_default_timeout(180_000)  # software draws the structures, slowly on a busy machine
    tab.problems = []
    tab.on("console", lambda said: said.type in ("error", "warning") and tab.problems.append(said.text))
    tab.on("pageerror", lambda error: tab.problems.append(str(error)))
    tab.on("requestfailed", lambda request: tab.problems.append(f"{request.url} {request.failure}"))
    here = ("file:", "data:", "blob:")
    tab.on("request", lambda request: request.url.startswith(here) or tab.problems.append(f"asks for {request.url}"))
    yield tab
    tab.close()


@pytest.mark.parametrize("name", PAGES)
def test_page(page: Any, name: str) -> None:
    page.goto((SITE / name).as_uri())
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in WIDTHS.values():
            page.set_viewport_size({"width": width, "height": 900})
            page.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
            page.wait_for_function("[...document.images].every(i => i.complete)")
            page.problems += [f"{scheme}, {width} px: {problem}" for problem in page.evaluate(PROBLEMS)]
    # Drivers without a graphics card warn of how they draw.
    assert [problem for problem in page.problems if "GL Driver Message" not in problem] == []


def test_structures_turn(page: Any) -> None:
    page.goto((SITE / "tutorials/first_model.html").as_uri())
    page.wait_for_selector("figure.structure canvas")
    assert page.locator("figure.structure img").first.is_hidden()


def test_pictures_stand_without_scripts(browser: Any) -> None:
    tab = browser.new_page(java_script_enabled=False)
    tab.goto((SITE / "tutorials/first_model.html").as_uri())
    assert tab.locator("figure.structure img").first.is_visible()
    tab.close()


def test_search_without_a_network(page: Any) -> None:
    page.goto((SITE / "search.html").as_uri() + "?q=radius_graph")
    page.wait_for_selector("#search-results li a")
    assert "atoms" in page.locator("#search-results").inner_text()


def test_versions_can_be_chosen(page: Any) -> None:
    page.goto((SITE / "index.html").as_uri())
    assert page.locator(".versions option").first.inner_text() in (SITE.name, "next")
