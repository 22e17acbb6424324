"""Sphinx's settings. ``python -m docs.build`` runs it; why it is Sphinx: docs/site.md."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import openmmml  # noqa: F401  # it imports our module for it, which it must not find half imported
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.builders.text import TextBuilder
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.writers.text import TextTranslator

from equiformer_pytorch import __version__

HERE = Path(__file__).resolve().parent

project = "equiformer-pytorch"
author = "The equiformer-pytorch developers"
copyright = author
# What readers choose between: the minor release, or what comes next. docs/build.py sets it.
version = release = os.environ.get("SITE_VERSION", ".".join(__version__.split(".")[:2]))

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
include_patterns = ["*.md", "**/*.md", "tutorials/*.py", "theory/*.py", "reference/*.py"]
exclude_patterns = ["_static", "**/.*"]
# Pages that GitHub shows, too: $…$ and $$…$$, headings as anchors.
myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 4
nitpicky = True
# Types in signatures: of torch, jaxtyping and others, and shapes, which are strings.
nitpick_ignore_regex = [("py:class", r".*"), ("py:data", r"(typing|collections)\..*"), ("py:obj", r".*")]

# Tutorials and theory are scripts in the percent format; each is run while the site is built.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "warn"

# Of attributes and properties it would take what stands before the first colon for a type.
GoogleDocstring._parse_attribute_docstring = GoogleDocstring._consume_to_end
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
add_module_names = False
default_role = "code"

html_theme = "furo"
html_title = f"equiformer-pytorch {release}"
# The second holds what docs/package.json names.
html_static_path = ["_static", str(HERE.parent / "build" / "scripts")]
html_css_files = ["site.css"]
# versions.js lies one folder up, beside the folders of all versions.
html_js_files = [
    ("../../versions.js", {"defer": "defer"}),
    ("site.js", {"defer": "defer"}),
]
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
html_show_sphinx = False
html_copy_source = False
mathjax_path = "tex-svg.js"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def by_last_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, found: nodes.TextElement) -> Any:
    """Docstrings name :class:`Fiber` wherever it is defined: where one object alone has the name, it is meant."""
    if node.get("refdomain") != "py" or "reftarget" not in node:
        return None
    domain = env.domains.python_domain
    last = node["reftarget"].lstrip(".")
    named = {entry.node_id: (name, entry) for name, entry in domain.objects.items() if name.endswith(f".{last}")}
    if len(named) != 1:
        return None
    name, entry = next(iter(named.values()))
    from sphinx.util.nodes import make_refnode

    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, found, name)


def without_source(app: Sphinx, env: BuildEnvironment) -> None:
    """Modules in C, such as builtins: viewcode lists them, and writes no page that the list could lead to."""
    modules = vars(env)["_viewcode_modules"]
    for name in [name for name, source in modules.items() if not source]:
        del modules[name]


def write_single_text(app: Sphinx, error: Exception | None) -> None:
    """llms.txt: the whole reference as one text, its first page and the others in the order of their table."""
    if error is not None or app.builder.format != "html":
        return
    builder = TextBuilder(app, app.env)
    builder.init()
    pages = ["reference/index", *app.env.toctree_includes["reference/index"]]
    texts = []
    for builder.current_docname in pages:
        builder.secnumbers = {}
        doctree = app.env.get_and_resolve_doctree(builder.current_docname, builder, tags=builder.tags)
        visitor = cast(TextTranslator, builder.create_translator(doctree, builder))
        doctree.walkabout(visitor)
        texts.append(visitor.body)
    text = "\n\n".join([f"{project} {release}", *texts])
    (Path(app.outdir) / "llms.txt").write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Sphinx calls it."""
    app.connect("missing-reference", by_last_name)
    app.connect("env-check-consistency", without_source)
    app.connect("build-finished", write_single_text)
