"""Configuration of the documentation: `make docs` builds it into docs/_build/html, without a network."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generate  # noqa: E402

project = "clipstore"
release = importlib.metadata.version("clipstore")
html_title = "clipstore"
html_theme = "furo"
html_show_copyright = False
html_show_sourcelink = False
templates_path: list[str] = []
exclude_patterns = ["_build", "_generated"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
smartquotes = False  # "--json" stays what it is
default_role = "code"  # of docstrings, which are written as Markdown
myst_heading_anchors = 3
suppress_warnings: list[str] = []

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_display_short_literal_types = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# Classes of other packages; their inventories would need a network.
_FOREIGN = "pa|pyarrow|np|numpy|NDArray|Path|pathlib|collections|Callable|Iterable|Sequence|Mapping|Any"
nitpick_ignore_regex = [("py:.*", rf"({_FOREIGN})\b.*")]

generate.write(HERE / "_generated")


def _short_reference(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Resolve a Python name without its module, as docstrings have it under "Raises", where one object has the name."""
    if node.get("refdomain") != "py":
        return None
    python = env.domains.python_domain
    full = [name for name in python.objects if name.endswith(f".{node['reftarget']}")]
    if len(full) != 1:
        return None
    return python.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], full[0], node, content)


def setup(app: Any) -> None:
    """Register what this file adds to Sphinx."""
    app.connect("missing-reference", _short_reference)
