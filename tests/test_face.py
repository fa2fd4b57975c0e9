"""The public face: every promised name is there, is what it should be, does its work, and costs nothing at import."""

import ast
import importlib
import inspect
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import torch

import hccvision as hv

FUNCTIONS = {
    "build_model": ("backbone", "head", "classes", "weights", "image_size", "resize", "positive"),
    "load_model": ("path",),
    "read_voc_folder": ("folder", "subset", "patient", "base"),
    "read_image_folder": ("folder", "classes"),
    "split": ("data", "shares", "group", "seed", "on_problem"),
    "folds": ("data", "count", "group", "seed", "on_problem"),
    "fit": ("model", "train", "val", "recipe", "run", "resume", "device", "metrics"),
    "evaluate": ("model", "data", "metrics", "on_problem"),
    "score": ("predictions", "samples", "classes", "task", "on_problem"),
    "wrap": ("model", "classes", "task"),
    "features_of": ("backbone", "image_size"),
    "read_predictions": ("path", "samples", "classes"),
    "read_folder": ("path", "format"),
    "export_model": ("model", "path", "format"),
    "predict": ("model", "inputs"),
    "propose": ("model", "folder"),
    "check": ("data", "classes", "attributes"),
    "repair": ("data", "folder", "rename", "base"),
    "leakage": ("train", "test"),
    "nested_folds": ("data", "outer", "inner", "group", "seed", "on_problem"),
    "save_split": ("parts", "path", "names", "seed", "group"),
    "load_split": ("path", "data"),
    "expand_dataset": ("data", "folder", "to", "augmentation", "seed", "on_problem"),
    "check_report": ("counts", "claims"),
}
CLASSES = ("CAD", "Model", "Recipe", "Report", "History", "Comparison", "Metric", "Figure", "Task", "Loss", "Predictor")
CLASSES += ("DataReport", "CheckedFigures", "Leakage", "Proposal", "FitOptions", "ModelOptions", "Hook")
CLASSES += ("Annotation", "Detections", "FeatureSpec", "Prediction", "Problem", "SSDOutput", "Sample", "Targets")
REGISTRIES = ("BACKBONES", "HEADS", "AUGMENTATIONS", "METRICS")
MODULES = ("boxes", "default_boxes", "losses", "metrics", "recipes", "phantom", "plots", "images", "weights")
HEAVY = ("accelerate", "kornia", "matplotlib", "nibabel", "pydicom", "timm", "torchvision")


@pytest.fixture(scope="module", autouse=True)
def _every_submodule_is_imported():
    """An import binds a module's name on the package: it must not hide a function."""
    found = [module.name for module in pkgutil.walk_packages(hv.__path__, "hccvision.")]
    assert "hccvision.heads.ssd" in found
    for name in found:
        importlib.import_module(name)


# names


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_functions_and_take_what_is_promised(name):
    function = getattr(hv, name)
    assert inspect.isfunction(function)
    assert function.__name__ == name
    assert set(FUNCTIONS[name]) <= set(inspect.signature(function).parameters)


def test_the_defaults_are_those_promised():
    def default(name, argument):
        return inspect.signature(getattr(hv, name)).parameters[argument].default

    assert default("split", "shares") == (0.7, 0.1, 0.2)
    assert default("split", "group") == default("folds", "group") == "patient"
    assert default("split", "seed") == default("folds", "seed") == 0
    assert default("folds", "count") == 5
    assert default("fit", "resume") is False
    assert default("fit", "device") == "auto"
    assert hv.FitOptions().on_problem == "raise"
    assert hv.FitOptions().seed is None
    assert default("build_model", "resize") == "stretch"
    assert {default(name, "on_problem") for name in ("score", "evaluate", "split", "folds")} == {"raise"}


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_classes(name):
    assert inspect.isclass(getattr(hv, name))
    assert getattr(hv, name).__name__ == name


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_modules(name):
    assert isinstance(getattr(hv, name), ModuleType)
    assert getattr(hv, name) is sys.modules[f"hccvision.{name}"]


def test_the_two_modules_of_annotations_are_on_the_face():
    assert hv.voc is sys.modules["hccvision.annotations.voc"]
    assert hv.masks is sys.modules["hccvision.annotations.masks"]


STUB = ast.parse((Path(hv.__file__).parent / "__init__.pyi").read_text(encoding="utf-8"))
LISTED = {
    alias.name: (node.module, alias.asname)
    for node in STUB.body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}


def test_the_face_is_the_one_list_of_the_stub():
    assert set(hv.__all__) == set(LISTED)
    assert all(name == asname for name, (_, asname) in LISTED.items())  # which is how a stub exports a name
    assert {*FUNCTIONS, *CLASSES, *REGISTRIES, *MODULES} <= set(hv.__all__)
    for name in hv.__all__:
        assert getattr(hv, name) is not None
    assert set(hv.__all__) <= set(dir(hv))


def test_no_module_at_the_root_bears_the_name_of_a_function_or_class():
    modules = {module.name for module in pkgutil.iter_modules(hv.__path__)}
    assert not modules & {name for name, (module, _) in LISTED.items() if module is not None}


def public_callables():
    for name in hv.__all__:
        part = getattr(hv, name)
        if inspect.isfunction(part) or inspect.isclass(part):
            yield name, part


def test_what_public_functions_return_is_public():
    """Every class of ours that is named in a return annotation is on the face."""
    missing = {}
    for name, function in public_callables():
        if not inspect.isfunction(function):
            continue
        returned = inspect.signature(function).return_annotation
        for word in re.findall(r"[A-Z]\w+", returned if isinstance(returned, str) else ""):
            defined = getattr(sys.modules[function.__module__], word, None)
            if inspect.isclass(defined) and defined.__module__.startswith("hccvision") and word not in hv.__all__:
                missing[name] = word
    assert missing == {}


def test_public_functions_take_at_most_eight_arguments_besides_their_options():
    def arguments(function):
        kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        return [p for p in inspect.signature(function).parameters.values() if p.kind not in kinds]

    for name in ("fit", "evaluate", "score", "predict", "build_model", "wrap", "propose", "check", "split"):
        assert len(arguments(getattr(hv, name))) <= 8, name
    assert len(arguments(hv.augment.mri)) <= 8
    assert len(arguments(hv.losses.multibox)) <= 8


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = hv.nonsense


def test_version_and_types_are_shipped():
    assert hv.__version__ == version("hccvision")
    assert (Path(hv.__file__).parent / "py.typed").exists()


# every name at work


def test_the_functional_core_is_called_by_its_promised_names():
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assert hv.boxes.iou(box, box).item() == 1
    assert hv.boxes.nms(box, torch.tensor([0.5])).tolist() == [0]
    assert hv.default_boxes.generate("lesion").shape[1] == 4
    logits, offsets = torch.zeros(1, 5, 2), torch.zeros(1, 5, 4)
    parts = hv.losses.multibox(logits, offsets, torch.zeros(1, 5, dtype=torch.int64), offsets)
    assert set(parts) == {"loss", "regression", "classification"}
    truths = [{"boxes": box, "labels": torch.tensor([2])}]
    predictions = [{"boxes": box, "scores": torch.tensor([0.9]), "labels": torch.tensor([2])}]
    found = hv.metrics.detection.coco_map(predictions, truths, num_classes=3)
    assert set(found) == {"map", "map_50", "map_75", "map_per_class"}
    assert found["map_50"] == pytest.approx(1)


def test_a_report_is_checked_against_its_counts():
    check = hv.check_report({"tp": 173, "fn": 11, "fp": 3, "tn": 179}, {"f1": 0.98})
    assert not check.consistent
    assert "0.9611" in str(check)


def test_the_papers_recipes():
    ssd, vgg = hv.recipes.paper_ssd(), hv.recipes.paper_vgg16()
    assert (ssd.optimiser, ssd.batch, ssd.epochs) == ("sgd", 5, 50)
    assert (ssd.learning_rate, ssd.head_learning_rate) == (1e-3, 1e-2)
    assert (vgg.optimiser, vgg.batch, vgg.epochs) == ("adam", 8, 100)
    assert vgg.learning_rate == 1e-3


@pytest.mark.parametrize("registry", REGISTRIES)
def test_a_part_of_ones_own_is_found_by_its_name(registry):
    registry = getattr(hv, registry)

    @registry.register("mine_for_a_test", task="classification")
    def mine(size=1):
        return lambda: size

    try:
        assert "mine_for_a_test" in registry.names(task="classification")
        assert registry.get("mine_for_a_test")(size=3)() == 3
    finally:
        registry.remove("mine_for_a_test", **({"task": "classification"} if registry.scope else {}))


@pytest.fixture(scope="module")
def liver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("face") / "liver"
    return hv.phantom.write_dataset(folder, patients=4, slices=2, cancer_share=0.5, level="mild", seed=0)


SMALL = {"image_size": 64, "backbone_options": {"width": 0.1}}


def test_a_detector_by_the_lines_of_the_design(liver, tmp_path):
    model = hv.build_model("mobilenet_v1", "ssd", classes=["hcc"], **SMALL)
    data = hv.read_voc_folder(liver, patient=r"^(P\d+)_")
    assert hv.check(data).to_dict()["images"] == len(data) == 8
    train, test = hv.split(data, (0.5, 0.5), group="patient", seed=0)
    assert hv.leakage(train, test).clean
    recipe = replace(hv.recipes.quick(), epochs=1, batch=4)
    history = hv.fit(model, train, test, recipe=recipe, run=tmp_path / "run", device="cpu")
    assert isinstance(history, hv.History)
    assert len(history.rows) == 1
    report = hv.evaluate(model, test, metrics=["voc_map", "detection_counts"], device="cpu")
    assert isinstance(report, hv.Report)
    assert (report.save(tmp_path / "report") / "report.json").exists()

    model = hv.load_model(model.save(tmp_path / "tumor.safetensors"))
    assert isinstance(model, hv.Model)
    found = hv.predict(model, [test[0].path], device="cpu")
    assert isinstance(found[0], hv.Prediction)
    assert isinstance(found[0].detections, hv.Detections)
    (tmp_path / "new").mkdir()
    shutil.copy(test[0].path, tmp_path / "new")
    (proposal,) = hv.propose(model, tmp_path / "new", device="cpu")
    assert not hv.voc.read(proposal.annotation).verified


def test_a_classifier_and_the_cad_by_the_lines_of_the_design(liver, tmp_path):
    for name, patient in (("no", "P001"), ("yes", "P002")):
        (tmp_path / name).mkdir()
        for path in (liver / "JPEGImages").glob(f"{patient}_*.png"):
            shutil.copy(path, tmp_path / name)
    data = hv.read_image_folder(tmp_path, {"normal": "no", "cancer": "yes"})
    assert [s.class_name for s in data] == ["normal", "normal", "cancer", "cancer"]
    for train, test in hv.folds(data, 2, group="duplicate", seed=0):
        assert (len(train), len(test)) == (2, 2)
    classifier = hv.build_model("mobilenet_v1", "linear", classes=["normal", "cancer"], **SMALL)
    detector = hv.build_model("mobilenet_v1", "ssd", classes=["hcc"], **SMALL)
    for found in hv.CAD(classifier, detector).predict([s.path for s in data], device="cpu"):
        assert found.error is None
        assert found.probabilities.sum().item() == pytest.approx(1)
        assert found.detections is not None


# the cost of the import

SCRIPT = f"""
import json, sys, time
import torch
before = set(sys.modules)
start = time.perf_counter()
import hccvision
seconds = time.perf_counter() - start
brought = sorted(set(sys.modules) - before)
for name in hccvision.__all__:
    getattr(hccvision, name)
for name in {REGISTRIES}:
    getattr(hccvision, name).names()
heavy = [name for name in {HEAVY} if name in sys.modules]
print(json.dumps(dict(seconds=seconds, brought=brought, heavy=heavy)))
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def imports():
    """What two fresh interpreters say."""
    return [json.loads(run(SCRIPT)) for _ in range(2)]


def test_importing_costs_at_most_a_tenth_of_a_second_more_than_torch(imports):
    assert min(found["seconds"] for found in imports) <= 0.1


def test_importing_brings_nothing_but_the_face_itself(imports):
    brought = {name.split(".")[0] for name in imports[0]["brought"]}
    assert brought - sys.stdlib_module_names == {"hccvision", "lazy_loader"}
    assert "hccvision.boxes" not in imports[0]["brought"]


def test_looking_every_name_up_brings_nothing_heavy(imports):
    assert imports[0]["heavy"] == []


def test_importing_does_not_even_need_torch():
    assert run("import hccvision, sys; print('torch' in sys.modules)").strip() == "False"
