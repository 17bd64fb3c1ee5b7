"""How Sphinx makes the site out of docs/, README.md and the other documents of the repository (`make docs`).

The source folder is the repository's root, so that a link between two documents is the same on the site and in the
repository. Nothing is fetched: fonts, styles and scripts of the site are in it.
"""

from __future__ import annotations

import os
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).parents[1]

project = "Cipherward"
author = "The Cipherward authors"
project_copyright = author
extensions = ["myst_nb"]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "ARCHITECTURE.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "coordinator/adversary/README.md",
    "docs/**.md",
    "docs/**.ipynb",
]
exclude_patterns = ["build", "runs", "data", ".*", "**/.*", "**/__pycache__", "docs/**/jupyter_execute"]

# Markdown as GitHub shows it: every heading has an anchor.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
# A table's cell may hold what is no code of any language.
suppress_warnings = ["misc.highlighting_failure"]

# The notebook runs with every build; NOTEBOOK=off shows the kept outputs.
nb_execution_mode = os.environ.get("NOTEBOOK", "force")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

html_theme = "furo"
html_title = "Cipherward"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"top_of_page_buttons": []}


def show_folder_as_text(
    _app: Sphinx, environment: BuildEnvironment, reference: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Show a link to a folder of the repository as plain text: the site has no page for it."""
    folder = (
        ROOT / Path(environment.doc2path(reference["refdoc"], base=False)).parent / reference["reftarget"]
    )
    return content if folder.is_dir() else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what this file adds to Sphinx."""
    app.connect("missing-reference", show_folder_as_text)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
