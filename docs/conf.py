"""The documentation site: docs/*.md and the docstrings, by Sphinx with MyST and furo. `make docs` builds it.

Nothing is fetched from the network, neither when the site is built nor when it is read.
"""

from __future__ import annotations

import re
from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

import reflect_rl

project = "reflect-rl"
author = "the authors of reflect-rl"
version = release = reflect_rl.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"{project} {version}"
html_copy_source = False
html_show_copyright = False
html_math_renderer = "mathml"

default_role = "code"  # docstrings write code between single backticks
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # links to headings work as on code hosts: page.md#a-heading
suppress_warnings = ["myst.header"]  # a heading may skip a level

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!reflect_rl\.).*")]  # names of other libraries


def mark_math(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings write equations between dollars, as Markdown does; reStructuredText has a directive and a role."""
    text = "\n".join(lines)
    text = re.sub(r"\$\$(.+?)\$\$", lambda m: f"\n\n.. math:: {' '.join(m[1].split())}\n\n", text, flags=re.DOTALL)
    lines[:] = re.sub(r"\$(?=\S)([^$`]+?)(?<=\S)\$", r":math:`\1`", text).split("\n")


def write_math(translator: Any, node: Any) -> None:
    """An equation as MathML, which browsers show without a script."""
    try:
        translator.body.append(tex2mathml(node.astext(), as_block=node.tagname == "math_block"))
    except MathError as error:
        logging.getLogger(__name__).warning("%s: %s", error, node.astext(), location=node)
    raise SkipNode


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", mark_math)
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
