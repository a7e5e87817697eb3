"""Configuration of the site: `make docs` builds it from the tutorials and the docstrings."""

from importlib.metadata import version as installed_version

project = "sparsecode"
author = "The sparsecode developers"
project_copyright = author
version = release = installed_version("sparsecode")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"sparsecode {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings name types and shapes
numpydoc_show_class_members = False  # autodoc lists them already

sphinx_gallery_conf = {
    "examples_dirs": "..",
    "gallery_dirs": "gallery",
    "ignore_pattern": r"site",
    "download_all_examples": False,
    "abort_on_example_error": True,
    "show_memory": False,
    "min_reported_time": 1,
}
