"""Sphinx configuration."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from fedwave import __version__

project = "fedwave"
author = "The fedwave authors"
copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "fedwave_docs"]
exclude_patterns = ["generated/*.md"]  # pieces that pages include
myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3

autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "none"
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries = False

suppress_warnings = ["ref.python"]  # types in signatures that two modules define, such as Row; plain text either way

html_theme = "furo"
html_title = "fedwave"
html_static_path = ["_static"]
html_css_files = ["fedwave.css"]
html_copy_source = html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b63a5", "color-brand-content": "#0b63a5"},
    "dark_css_variables": {"color-brand-primary": "#6cb8f0", "color-brand-content": "#6cb8f0"},
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
