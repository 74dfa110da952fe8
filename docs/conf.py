"""Sphinx: the pages of this folder and the docstrings of both packages, built without network."""

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, wherever it is installed from
project, author = "MGIC", "the MGIC maintainers"
copyright = author
version = release = importlib.metadata.version("mgic")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
suppress_warnings = ["config.cache", "toc.not_included"]  # results are linked from their README
html_theme = "furo"
html_title = f"MGIC {release}"
html_math_renderer = "mathml"

autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_custom_sections = ["Shape", "Cost"]
napoleon_use_ivar = True
myst_heading_anchors = 2
myst_enable_extensions = ["colon_fence"]


def _inline(self: Any, node: nodes.math) -> None:
    self.body.append(tex2mathml(_known(node.astext()), as_block=False))
    raise nodes.SkipNode


def _block(self: Any, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(tex2mathml(_aligned(_known(node.astext())), as_block=True))
    self.body.append("</div>\n")
    raise nodes.SkipNode


def _known(tex: str) -> str:
    """Say in other words what docutils does not know."""
    return tex.replace(r"\iff", r"\Longleftrightarrow")


def _aligned(tex: str) -> str:
    """Equations on several lines are set below each other, as MathJax would do it."""
    several = r"\\" in tex and r"\begin" not in tex
    return rf"\begin{{aligned}}{tex}\end{{aligned}}" if several else tex


def setup(app: Sphinx) -> None:
    """Set math as MathML: browsers draw it without a script from elsewhere."""
    app.add_html_math_renderer(
        "mathml", inline_renderers=(_inline, None), block_renderers=(_block, None)
    )
