"""Sphinx settings: pages from docs/, the reference from docstrings. The build works offline."""

import inspect
import operator
from typing import Any

from sphinx.util.nodes import make_refnode
from torch import nn

import hccvision

project = "hccvision"
author = "the hccvision authors"
version = release = hccvision.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "py:obj"  # single backticks in docstrings name Python objects

html_theme = "furo"
html_title = "hccvision"
html_show_copyright = False
html_show_sphinx = False

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Source"]
python_use_unqualified_type_names = True


def own_types(app: Any, what: str, name: str, obj: Any, *rest: Any) -> None:
    """Remove the types of a module's buffers, which Sphinx would mistake for those of its constructor's arguments."""
    if what == "class" and issubclass(obj, nn.Module):
        obj.__annotations__ = {}


def skip_member(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Skip the fields of named tuples, as the Args of their class describe them."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def defined_name(public: str) -> str | None:
    """Return the full name under which `hv.fit` or `boxes.nms` is defined; that of the module for a registry."""
    try:
        found = operator.attrgetter(public)(hccvision)
    except AttributeError:
        return None
    if inspect.ismodule(found):
        return found.__name__
    if isinstance(found, hccvision.registry.Registry):
        return hccvision.registry.__name__
    name = getattr(found, "__qualname__", None)
    return None if name is None else f"{found.__module__}.{name}"


def resolve_name(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Link a public name to its definition, and any other name from anywhere if only one object's name ends with it."""
    if node.get("refdomain") != "py":
        return None
    target, objects = node["reftarget"], env.get_domain("py").objects
    name = defined_name(target.removeprefix("hccvision.").removeprefix("hv."))
    if name not in objects:
        names = [name for name in objects if name.endswith(f".{target}")]
        name = names[0] if len(names) == 1 else None
    if name is None:
        return None
    entry = objects[name]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, name)


def setup(app: Any) -> None:
    app.connect("autodoc-process-signature", own_types, priority=100)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("missing-reference", resolve_name)
