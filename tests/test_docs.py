"""The pages are correct: their code runs or fits the library, and every public name and module is in the reference."""

from __future__ import annotations

import ast
import csv
import inspect
import operator
import os
import pkgutil
import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from test_layers import LAYERS

import hccvision as hv
from hccvision.annotations.problem_kinds import KINDS, SKIPPED
from hccvision.phantom.atlas import ATLAS
from hccvision.phantom.tissues import TISSUES

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.rst"))
BLOCK = re.compile(
    r"^( *)\.\. code-block:: (\w+)\n(?:\1 +:caption: (\S+)\n)?\n((?:\1   .*\n|\n)+)", re.MULTILINE
)  # indent, language, caption, text


def blocks(page: Path, language: str = "python") -> list[tuple[str, str]]:
    """Return caption and code of each block of a page."""
    found = BLOCK.findall(page.read_text(encoding="utf-8") + "\n")
    return [(caption, textwrap.dedent(code)) for _, name, caption, code in found if name == language]


def run(code: str, path: Path) -> str:
    """Run code in a new process, as it changes the registries."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(path), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_recipe_for_a_part_runs(tmp_path: Path) -> None:
    recipes = [code for caption, code in blocks(DOCS / "extending.rst") if not caption]
    assert len(recipes) == 12
    for number, code in enumerate(recipes):
        (tmp_path / f"recipe{number}.py").write_text(code, encoding="utf-8")
    output = run(
        "import runpy\n"
        f"for number in range({len(recipes)}):\n"
        "    runpy.run_path(f'recipe{number}.py')\n"
        "import hccvision as hv\n"
        "print('small_net' in hv.BACKBONES, 'average_and_peak' in hv.HEADS.names(task='classification'))\n"
        "print('coil_shading' in hv.AUGMENTATIONS, 'small_lesions' in hv.METRICS.names(task='detection'))\n"
        "print('hinge' in hv.LOSSES.names(task='classification'), 'top_k' in hv.MATCHERS, 'top_down' in hv.NECKS)\n"
        "print('rmsprop' in hv.OPTIMISERS, 'linear_decay' in hv.SCHEDULES, 'numpy' in hv.IMAGE_FORMATS)\n"
        "print('box_table' in hv.ANNOTATION_FORMATS, 'numpy' in hv.EXPORTERS)\n",
        tmp_path,
    )
    boxes = 3000  # of the default set
    assert output.splitlines()[:-5] == [
        f"torch.Size([1, {boxes}, 2])",  # a backbone with the SSD head
        "caffe.pth (caffe): 26 tensors matched, 0 missing, 0 left over",  # weights with other names
        "(128, 128, 128, 128)",  # channels of a neck's maps
        "torch.Size([2, 2])",  # probabilities of a head
        "torch.Size([1, 3, 96, 96]) torch.Size([1, 1, 4])",  # an augmented batch
        "0.5000 ",  # a metric: one of two lesions is found
        "– no lesion is up to 5 pixels large",
        "dict_keys(['loss', 'classification']) tensor(2)",  # a loss of two images
        "default boxes matched: 5",  # a matcher: as many as its option k says
        "rmsprop linear_decay",
        "(20, 30, 3)",  # an image read by a format of its own
        "True P001",  # annotations written and read again, with patients
        "model.npz 168",  # an exported model
    ]
    assert output.split()[-12:] == ["True"] * 12


def test_the_table_of_files_to_touch_names_every_kind_of_part() -> None:
    text = (DOCS / "extending.rst").read_text(encoding="utf-8")
    rows = [row.split("\n     - ") for row in text[text.index("Files to touch") :].split("\n   * - ")[1:]]
    assert [(name, now.strip()) for name, _, now in rows] == [
        ("new part", "now"),
        ("task", "1"),
        ("metric with a direction", "1"),
        ("loss", "1"),
        ("matcher", "1"),
        ("optimiser", "1"),
        ("schedule", "1"),
        ("image format", "1"),
        ("annotation format", "1"),
        ("export target", "1"),
    ]


def test_the_page_on_other_models_runs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    output = run("\n".join(code for _, code in blocks(DOCS / "other_models.rst")), tmp_path)
    assert output.count("4 images, positive class: ") == 2  # a torchvision detector and a timm classifier
    for name in ("report.json", "predictions.csv", "detections.png"):
        assert (tmp_path / "report" / name).stat().st_size > 0
    assert re.search(r"^baseline: 0\.\d{4}$", output, re.MULTILINE)  # a callable
    assert re.search(r"^probabilities: \[0\.\d+, 0\.\d+\] lesions: \d+$", output, re.MULTILINE)  # both in CAD
    (model, file) = re.findall(r"^false positives: (\d+) and, from the file, (\d+)$", output, re.MULTILINE)[0]
    assert model == file
    assert "from COCO: [[40.0, 60.0, 70.0, 85.0]]\n" in output
    assert "recorded: 1 false positive\n" in output
    assert "ensemble: 4 images\n" in output
    assert output.endswith("{'sensitivity': Figure(0.5, count=2, successes=1)}\n{'roc_auc': Figure(1.0, count=3)}\n")


def test_the_page_on_evaluation_runs(tmp_path: Path) -> None:
    output = run("\n".join(code for _, code in blocks(DOCS / "evaluation.rst")), tmp_path).splitlines()
    assert "22 figures computed again from the predictions: as reported" in output
    assert "first is better: False" in output
    assert "sealed test set, opened once" in output
    assert "Youden 0.8 sensitivity of 1 0.3" in output
    assert any(line.startswith("layer_cam (") for line in output)
    assert (tmp_path / "report" / "index.html").is_file()


def test_the_page_on_small_lesions_runs(tmp_path: Path) -> None:
    output = run("\n".join(code for _, code in blocks(DOCS / "small_lesions.rst")), tmp_path)
    reached = [float(share) for share in re.findall(r"([\d.]+) % of \d+ truths", output)]
    assert len(reached) == 4  # the paper's set and ours; then before and after fitting
    assert reached[0] < reached[1]
    assert reached[2] < reached[3]
    assert (tmp_path / "small_lesions" / "reached.png").exists()
    numbers = re.findall(r"\* - ``(\w+)``\n +- (\d+)$", (DOCS / "small_lesions.rst").read_text(encoding="utf-8"), re.M)
    assert {name: int(number) for name, number in numbers} == {
        name: len(hv.default_boxes.generate(name)) for name in hv.default_boxes.PRESETS
    }


def test_the_page_on_training_runs(tmp_path: Path) -> None:
    output = run("\n".join(code for _, code in blocks(DOCS / "training.rst")), tmp_path)
    assert "backbone  0.0005  from epoch 2 on" in output
    first = output[: output.index("tracked: ")]
    assert first.count("epoch 2  learning_rate") == 3  # of three trainings: the first has nothing left to resume
    assert "\n2 epochs\n" in output
    assert "batch 5, fp32: " in output
    tracked = re.findall(r"^tracked: (.+)$", output, re.MULTILINE)[0].split(", ")
    assert {"epoch", "learning_rate", "train_loss", "val_loss", "val_voc_map"} <= set(tracked)
    assert (tmp_path / "mlflow.db").stat().st_size > 0
    best, pruned = re.findall(r"^best: \{'learning_rate': ([\d.e-]+)\} pruned: \[([\d, ]+)\]$", output, re.MULTILINE)[0]
    assert float(best) != 1e-5
    assert "1" in pruned.split(", ")  # the trial of 1e-5
    assert re.findall(r"^own loop: loss \d+\.\d\d, mAP (?:0\.\d{4}|–), lesions found: \d+$", output, re.MULTILINE)
    said = re.findall(r"^- ``([\w.]+)``", (DOCS / "training.rst").read_text(encoding="utf-8"), re.MULTILINE)
    assert said
    assert {path.name for path in (tmp_path / "runs" / "first").iterdir()} >= set(said)


def test_the_page_on_augmentation_runs(tmp_path: Path) -> None:
    run("\n".join(code for _, code in blocks(DOCS / "augmentation.rst")), tmp_path)
    assert (tmp_path / "gallery.png").exists()


def test_the_figures_and_tables_of_the_pages_are_made_offline(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    pytest.importorskip("matplotlib")
    script = str(DOCS / "make_figures.py")
    run(f"import runpy, sys; sys.argv[1:] = ['made']; runpy.run_path({script!r}, run_name='__main__')", tmp_path)
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    wanted = set(re.findall(r"figures/(\S+)", pages))
    assert {path.name for path in (tmp_path / "made").iterdir()} == wanted == {
        "phantom.png", "phantom.csv", "augmentation-paper.png", "augmentation-light.png", "augmentation-mri.png",
        "annotation_formats.csv", "image_formats.csv", "problems.csv",
    }  # fmt: skip
    with (tmp_path / "made" / "phantom.csv").open(encoding="utf-8") as file:
        rows = {row[0]: [float(value) for value in row[1:]] for row in list(csv.reader(file))[1:]}
    real, mean, least, most = rows["level at 50 %"]
    assert least <= mean <= most
    assert abs(real - mean) < 25
    assert all(0.5 < mean / real < 2 for name, (real, mean, *_) in rows.items() if name != "level at 5 %")


def test_the_figures_on_the_page_on_the_phantom_are_correct() -> None:
    text = (DOCS / "phantom.rst").read_text(encoding="utf-8")
    said = re.findall(r'\* - ``"(\w+)"``\n +- ([\d.]+)\n +- (\d+) mm', text)
    assert {name: (float(contrast), float(mm)) for name, contrast, mm in said} == hv.phantom.LEVELS
    heights = {name: list(organ.outlines) for name, organ in ATLAS.items()}
    spans = [max(heights[name]) - min(heights[name]) for name in ("liver", "right kidney", "left kidney")]
    assert f"- {spans[0]} mm" in text
    assert f"- {spans[1]}, {spans[2]} mm" in text
    tissues = {"artery": (1.441, 5), "portal vein": (1.441, 1), "liver": (0.586, 0.4), "muscle": (0.856, 0)}
    decay = np.array([np.exp(-5.53e-3 * (1 / t1 + 4.3 * mm)) for t1, mm in tissues.values()])
    signal = (1 - decay) / (1 - decay * np.cos(np.radians(10)))
    found = [float(x) for x in re.findall(r"ms \[\w+\]_\n +- ([\d.]+)\n", text)]
    np.testing.assert_allclose(found, signal, atol=0.006)
    shown = re.findall(r"ms \[\w+\]_\n +- [\d.]+\n +- ([\d.]+)\n", text)
    assert [float(x) for x in shown] == [TISSUES["artery"][0], TISSUES["portal vein"][1], TISSUES["liver"][1]]


def test_a_plug_in_is_found_by_its_entry_point(tmp_path: Path) -> None:
    tomllib = pytest.importorskip("tomllib")
    (project,) = (tomllib.loads(code) for _, code in blocks(DOCS / "extending.rst", "toml"))
    ((name, code),) = [(caption, code) for caption, code in blocks(DOCS / "extending.rst") if caption]
    (tmp_path / name).write_text(code, encoding="utf-8")
    installed = tmp_path / f"{project['project']['name'].replace('-', '_')}-{project['project']['version']}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: liver-parts\nVersion: 0.1.0\n", encoding="utf-8")
    entries = project["project"]["entry-points"]["hccvision.plugins"]
    lines = ["[hccvision.plugins]", *(f"{key} = {value}" for key, value in entries.items())]
    (installed / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    code = "import hccvision as hv; hv.AUGMENTATIONS.build('mirror'); print(hv.AUGMENTATIONS.names())"
    assert "'mirror'" in run(code, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_calls_on_a_page_fit_the_signatures(page: Path) -> None:
    for _, code in blocks(page):
        for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            if re.fullmatch(r"hv(\.\w+)+", name):
                function = operator.attrgetter(name.removeprefix("hv."))(hv)
                keywords = {str(keyword.arg): None for keyword in call.keywords}
                inspect.signature(function).bind(*call.args, **keywords)


@pytest.mark.parametrize("page", [*PAGES, DOCS / "api" / "index.rst"], ids=lambda page: page.stem)
def test_names_on_a_page_exist(page: Path) -> None:
    for name in re.findall(r"`hv\.([\w.]+)", page.read_text(encoding="utf-8")):
        operator.attrgetter(name)(hv)


def test_every_public_name_is_in_the_reference() -> None:
    text = (DOCS / "api" / "index.rst").read_text(encoding="utf-8")
    assert [name for name in hv.__all__ if f"`hv.{name}`" not in text and f"`hv.{name}." not in text] == []


def test_every_module_is_in_the_reference_once() -> None:
    named = re.findall(r"automodule:: (\S+)", "".join(p.read_text(encoding="utf-8") for p in DOCS.glob("api/*.rst")))
    modules = {m.name for m in pkgutil.walk_packages(hv.__path__, "hccvision.")}
    assert sorted(named) == sorted(modules)


def test_every_page_is_in_a_table_of_contents() -> None:
    for folder in (DOCS, DOCS / "api"):
        listed = re.findall(r"^   ([\w/]+)$", (folder / "index.rst").read_text(encoding="utf-8"), re.MULTILINE)
        pages = {page.stem for page in folder.glob("*.rst")} - {"index"}
        assert pages <= set(listed)


def test_the_map_shows_the_rooms_and_layers_as_they_are() -> None:
    text = (DOCS / "design.rst").read_text(encoding="utf-8")
    shown: list[list[str]] = []
    for layer, room in re.findall(r"^   \* -(?: (\d))?\n     - ``(\w+)/?``$", text, re.MULTILINE):
        if layer:
            assert int(layer) == len(shown)
            shown.append([])
        shown[-1].append(room)
    rooms = {module.name for module in pkgutil.iter_modules(hv.__path__)}
    layers = [sorted(rooms & set(names)) for names in LAYERS]
    assert [sorted(names) for names in shown] == [names for names in layers if names]
    folders = {module.name for module in pkgutil.iter_modules(hv.__path__) if module.ispkg}
    assert set(re.findall(r"^     - ``(\w+)/``$", text, re.MULTILINE)) == folders


def problem_kinds(module: ast.Module) -> set[str]:
    """Return the kinds of the problems that a reader reports."""
    found: list[ast.expr] = []
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Problem":
            found.append(node.args[0])
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).strip("(").startswith("kind"):
            found += node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        elif isinstance(node, ast.Tuple) and len(node.elts) == 2:
            found += node.elts[:1]  # kind and message
    texts = (node.value for node in found if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return {text for text in texts if re.fullmatch("[a-z]+(_[a-z]+)+", text)}


def test_every_problem_is_explained() -> None:
    folder = Path(hv.__path__[0]) / "annotations"
    kinds = {kind for file in folder.glob("*.py") for kind in problem_kinds(ast.parse(file.read_text("utf-8")))}
    assert kinds == set(KINDS)
    assert {kind.skipped for kind in KINDS.values()} == set(SKIPPED)


def test_the_tables_of_what_is_read_are_those_of_the_registries(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    pytest.importorskip("matplotlib")
    runpy.run_path(str(DOCS / "make_figures.py"))["write_reading"](tmp_path)
    registries = {"annotation_formats": hv.ANNOTATION_FORMATS.names(), "image_formats": hv.IMAGE_FORMATS.names()}
    for name, first in (registries | {"problems": list(KINDS)}).items():
        with (tmp_path / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        assert [row[0].strip("`") for row in rows] == first
        assert all(len(row) == len(header) and all(row) for row in rows)
