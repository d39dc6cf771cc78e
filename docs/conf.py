"""Sphinx configuration; `make docs` builds with warnings as errors."""

import sys
import tomllib
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project = "specstar"
author = "specstar contributors"
project_copyright = author
release = version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

# Autodoc leaves out, silently, a public name that does not import.
for module_name in ("specstar", "specstar.errors", "specstar.resource_manager", "specstar.message_queue"):
    module = import_module(module_name)
    for name in getattr(module, "__all__", ()):
        getattr(module, name)

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "examples"]

# Docstrings are plain prose with `names` in single backticks.
default_role = "code"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"specstar {release}"
html_static_path: list[str] = []
