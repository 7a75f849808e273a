"""How the documentation is built: ``.ci/docs``, or ``sphinx-build -W -b html docs build/docs``."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from docutils import nodes
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))
sys.path.insert(0, str(HERE.parent))  # the package of this checkout, installed or not

from sphinx.pycode import ModuleAnalyzer  # noqa: E402

import roket_trio  # noqa: E402
import roket_trio.staticfiles  # noqa: E402
import roket_trio.testing  # noqa: E402
import roket_trio.testing.fixtures  # noqa: E402

project = "roket_trio"
author = "the roket_trio authors"
copyright = f"2026, {author}"
version = release = roket_trio.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_rtd_theme",
    "cases",
    "commands",
    "ladder",
    "plots",
]
root_doc = "index"
exclude_patterns = ["_build", "_ext"]
language = "en"
pygments_style = "default"
smartquotes = False  # "--" is an option more often than a dash
highlight_language = "none"

html_theme = "sphinx_rtd_theme"
html_theme_options = {"navigation_depth": 3, "style_external_links": False}
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_extra_path = ["../examples/close_report.html"]  # the harness page shows it
html_show_sourcelink = False
html_copy_source = False

# A build needs no network. Where there is one, types of other libraries lead to their pages.
intersphinx_mapping = (
    {
        "python": ("https://docs.python.org/3", None),
        "trio": ("https://trio.readthedocs.io/en/stable", None),
        "anyio": ("https://anyio.readthedocs.io/en/stable", None),
    }
    if os.environ.get("READTHEDOCS") or os.environ.get("ROKET_DOCS_INTERSPHINX")
    else {}
)

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # what is inherited is AnyIO's and Trio's to tell
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
add_module_names = False

# A name of ours that leads nowhere is a warning. Those of others are found by intersphinx, or not.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(anyio|collections|httpcore|httpx|io|ipaddress|os|socket|ssl|trio)\.[\w.]+|open|MultiListener"),
    # What callers pass or get by an alias, a protocol or a type variable, and never make by name.
    (r"py:class", r"IPAddress|PeerAddress|HandlerNursery|ShutdownEvent|Stream"),
    (r"py:class", r"roket_trio\.(testing\.|trio_compat\.)?_[\w.]+"),
]


def of_the_package_above(
    app: Sphinx, env: BuildEnvironment, node: Any, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Docstrings of ``roket_trio.testing.scripts`` and ``fixtures`` mention names of ``roket_trio.testing``."""
    if node.get("refdomain") != "py" or node.get("reftarget") not in roket_trio.testing.__all__:
        return None
    found: nodes.reference | None = env.get_domain("py").resolve_xref(
        env, node["refdoc"], app.builder, "obj", f"roket_trio.testing.{node['reftarget']}", node, contnode
    )
    return found


def as_it_is_called(
    app: Sphinx, what: str, name: str, obj: Any, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Defaults as callers would write them, instead of the names of our constants."""
    constants = getattr(getattr(obj, "__func__", obj), "__globals__", {})

    def value_of(constant: re.Match[str]) -> str:
        value = constants.get(constant[0])
        if isinstance(value, roket_trio.ClosePolicy | roket_trio.KeepAlive):
            return f"{type(value).__name__}()"
        return repr(value) if isinstance(value, int | float) else constant[0]

    return signature and re.sub(r"(?<== )_?[A-Z][A-Z_]+\b", value_of, signature), returned


def analyze_as_published(analyzer: ModuleAnalyzer, analyze: Callable[[Any], None] = ModuleAnalyzer.analyze) -> None:
    """Find what a public class has in the module that defines it, though its ``__module__`` is the public package.

    Overloads are for type checkers: the five of ``connect_tcp`` would hide what it does.
    """
    is_analyzed = analyzer._analyzed
    analyze(analyzer)
    analyzer.overloads = {}
    package = {"roket_trio": roket_trio, "roket_trio.testing": roket_trio.testing}.get(analyzer.modname)
    if package is not None and not is_analyzed:
        for name in package.__all__:
            getattr(package, name)  # which loads the module that defines it
        for module in sorted(name for name in sys.modules if name.startswith(f"{analyzer.modname}._")):
            defining = ModuleAnalyzer.for_module(module)
            defining.analyze()
            for found in ("attr_docs", "annotations", "tagorder"):
                getattr(analyzer, found).update(getattr(defining, found))


def without_private_bases(app: Sphinx, name: str, cls: type, options: dict[str, Any], bases: list[type]) -> None:
    """What a public class is mixed with is no reader's concern."""
    bases[:] = [base for base in bases if not base.__name__.startswith("_")]


def setup(app: Sphinx) -> None:
    ModuleAnalyzer.analyze = analyze_as_published
    app.connect("autodoc-process-bases", without_private_bases)
    app.connect("autodoc-process-signature", as_it_is_called)
    app.connect("missing-reference", of_the_package_above)
