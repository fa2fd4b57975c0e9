"""The layers of the design: reads every import of the package, without running any."""

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hccvision

PACKAGE = "hccvision"
ROOT = Path(hccvision.__file__).parent

# A file may import from its own layer and from those above it in this list. A new file is put in here.
LAYERS = (
    (
        "contracts",
        "registry",
        "documents",
        "drafts",
        "files",
        "replacement",
        "finite",
        "generators",
        "grouping",
        "recipes",
    ),
    ("boxes", "default_boxes", "matchers", "losses", "metrics", "images"),
    ("backbones", "necks", "heads", "augment", "weights", "annotations", "plots", "tasks", "phantom"),
    ("data", "curation"),
    ("inference", "model"),
    ("scoring", "reporting", "report_page", "cases", "comparing", "explain"),
    ("training", "export"),
    ("pipeline", "controls", "cli"),
    ("__init__", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
CATCH_ALLS = {"utils", "util", "misc", "common", "helpers", "base", "core"}


def modules(root):
    """Dotted name, relative to the package, of every file: ``heads.ssd``, ``heads.__init__``, ``__init__``."""
    return {".".join(path.relative_to(root).with_suffix("").parts): path for path in sorted(root.rglob("*.py"))}


def top(module):
    return module.split(".")[0]


def statements(tree):
    """All imports wherever they stand, but those for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from (s for other in node.orelse for s in statements(ast.Module([other], [])))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        else:
            yield from statements(node)


def imports(module, source, known):
    """What a module imports of the package: the file it comes from, and the name if that is taken off a face."""
    parents = [PACKAGE, *module.split(".")[:-1]]
    for node in statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            wanted = [(alias.name, None) for alias in node.names]
        else:
            origin = [*parents[: len(parents) - node.level + 1]] if node.level else []
            origin += [node.module] if node.module else []
            wanted = [(".".join(origin), alias.name) for alias in node.names]
        for origin, name in wanted:
            if origin.split(".")[0] != PACKAGE:
                continue
            path = origin.split(".")[1:]
            if name is not None and (".".join([*path, name]) in known or ".".join([*path, name, "__init__"]) in known):
                path, name = [*path, name], None  # the name is a file or a folder
            is_face = ".".join([*path, "__init__"]) in known
            yield ".".join([*path, "__init__"] if is_face else path), name if is_face else None


def faults(root):
    """One sentence for each breach of the design."""
    known = modules(root)
    found = []
    graph = {}
    for module, path in known.items():
        if top(module) not in LEVEL:
            found.append(f"{module} is in no layer: give it its place in LAYERS")
        if CATCH_ALLS & set(module.split(".")):
            found.append(f"{module} is a catch-all: name the noun that it is about")
        graph[module] = set()
        for target, name in imports(module, path.read_text(encoding="utf-8"), known):
            if target.endswith("__init__"):
                found.append(
                    f"{module} takes {name or 'all'} from the face {target}: import from the file that defines it"
                )
            elif LEVEL.get(top(target), -1) > LEVEL.get(top(module), len(LAYERS)):
                found.append(f"{module} imports upward, {target}")
            graph[module].add(target)
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        found.append(f"imports in a circle: {' <- '.join(error.args[1])}")
    return found


def test_every_import_of_the_package_keeps_to_the_layers():
    assert not faults(ROOT)


def test_every_name_is_in_one_layer():
    counts = Counter(name for names in LAYERS for name in names)
    assert [name for name, count in counts.items() if count > 1] == []


def test_the_reading_of_imports_finds_known_ones():
    known = modules(ROOT)
    source = known["heads.ssd"].read_text(encoding="utf-8")
    found = {target for target, _ in imports("heads.ssd", source, known)}
    assert {"boxes.formats", "contracts.outputs", "default_boxes.coding", "losses.mining", "registry"} <= found
    assert {module for module, _ in imports("heads.__init__", known["heads.__init__"].read_text(), known)} == {
        "heads.linear",
        "heads.ssd",
    }


GOOD = {
    "__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from hccvision.model import build\n",
    "boxes.py": "import math\nfrom os import path\n",
    "images.py": "from hccvision import boxes\n",
    "heads/__init__.py": "from hccvision.heads import linear\n",
    "heads/linear.py": "import hccvision.boxes\n\ndef f():\n    from hccvision.boxes import iou\n",
    "model.py": "from hccvision.heads.linear import f\n",
}


def write(folder, files):
    root = folder / PACKAGE
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_a_package_that_keeps_to_the_layers_has_no_faults(tmp_path):
    assert faults(write(tmp_path, GOOD)) == []


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("boxes.py", "from hccvision.model import build\n", "boxes imports upward, model"),
        ("boxes.py", "from hccvision import model\n", "boxes imports upward, model"),
        ("boxes.py", "import hccvision.model as m\n", "boxes imports upward, model"),
        ("boxes.py", "from .model import build\n", "boxes imports upward, model"),
        ("heads/linear.py", "from ..model import build\n", "heads.linear imports upward, model"),
        ("heads/linear.py", "from .. import model\n", "heads.linear imports upward, model"),
        (
            "boxes.py",
            "def f():\n    if True:\n        from hccvision.model import build\n",
            "boxes imports upward, model",
        ),
        ("boxes.py", "try:\n    from hccvision.heads import linear\nexcept E:\n    pass\n", "upward, heads.linear"),
        ("boxes.py", "import hccvision\n", "boxes takes all from the face __init__"),
        ("model.py", "from hccvision import build_model\n", "takes build_model from the face __init__"),
        ("model.py", "from hccvision.heads import LinearHead\n", "takes LinearHead from the face heads.__init__"),
        ("boxes.py", "from hccvision.images import read\n", "imports in a circle"),
        ("model.py", "from hccvision import heads\n", "takes all from the face heads.__init__"),
        ("heads/linear.py", "from hccvision import heads\n", "imports in a circle"),
        ("anything.py", "", "anything is in no layer"),
        ("utils.py", "", "utils is a catch-all"),
        ("heads/utils.py", "", "heads.utils is a catch-all"),
        ("misc/__init__.py", "", "misc.__init__ is a catch-all"),
        ("boxes.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import hccvision.model\n", None),
        ("boxes.py", "if not TYPE_CHECKING:\n    import hccvision.model\n", "boxes imports upward, model"),
        ("boxes.py", "import typing\nif typing.TYPE_CHECKING:\n    import hccvision.model\n", None),
    ],
)
def test_a_fault_is_found(tmp_path, file, text, fault):
    found = faults(write(tmp_path, {**GOOD, file: text}))
    assert (found == []) if fault is None else any(fault in f for f in found), found
