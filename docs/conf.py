"""Configuration of the documentation: `make docs` builds it into docs/_build/html, without a network."""

from __future__ import annotations

import importlib.metadata
import inspect
import sys
from pathlib import Path
from typing import Any, get_type_hints

from sphinx.util.inspect import stringify_signature

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generate  # noqa: E402

project = "clipstore"
release = importlib.metadata.version("clipstore")
html_title = "clipstore"
html_theme = "furo"
html_show_copyright = False
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]
exclude_patterns = ["_build", "_generated"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
smartquotes = False  # "--json" stays what it is
default_role = "code"  # of docstrings, which are written as Markdown
myst_heading_anchors = 3

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
_PROTOCOLS = "(clipstore[.].*)?(Rows|Progress)"  # described where they are used
nitpick_ignore_regex = [("py:.*", rf"({_FOREIGN}|{_PROTOCOLS})\b.*")]

generate.write(HERE / "_generated")


def _short_reference(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Resolve a Python name without its module, as docstrings have it under "Raises", where one object has the name."""
    if node.get("refdomain") != "py":
        return None
    python, short = env.domains.python_domain, node["reftarget"].rpartition(".")[2]
    full = [name for name in python.objects if name.endswith(f".{short}")]
    if len(full) != 1:
        return None
    return python.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], full[0], node, content)


def _plain_signature(
    _app: Any, what: str, _name: str, item: Any, _options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """The signature of a method of the Python API without the constraints that its types carry for its checks."""
    method = inspect.unwrap(item)
    if what == "class":  # made by other functions
        return "", None
    if what != "method" or not method.__module__.startswith("clipstore.api"):
        return signature, returns
    hints = get_type_hints(method)
    original = inspect.signature(method)
    parameters = [
        one.replace(annotation=hints.get(one.name, one.annotation)) for one in list(original.parameters.values())[1:]
    ]
    plain = original.replace(parameters=parameters, return_annotation=hints.get("return"))
    arguments, _, result = stringify_signature(plain, unqualified_typehints=True).rpartition(" -> ")
    return arguments, result


def setup(app: Any) -> None:
    """Register what this file adds to Sphinx."""
    app.connect("autodoc-process-signature", _plain_signature)
    app.connect("missing-reference", _short_reference)
