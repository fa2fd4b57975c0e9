import importlib
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
import types
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import hccvision as hv
from hccvision.contracts import Targets
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.metric import find_metrics
from hccvision.registry import AUGMENTATIONS, BACKBONES, HEADS, METRICS, Registry


class Thing:
    def __init__(self, *args, **options):
        self.args = args
        self.options = options


@pytest.fixture
def things():
    registry = Registry("thing")
    registry.register("stone", colour="grey")(Thing)
    registry.register("brick", colour="red", shape="cuboid")(Thing)
    return registry


# names


def test_an_unknown_name_lists_the_known_ones_and_the_nearest(things):
    with pytest.raises(KeyError, match=r"unknown thing 'stoen'; did you mean 'stone'\? Known: brick, stone"):
        things.get("stoen")
    with pytest.raises(KeyError, match=r"unknown thing 'xyz'; Known: brick, stone"):
        things.build("xyz")
    with pytest.raises(KeyError, match=r"unknown thing None; .*Known: brick, stone"):
        things.tags(None)
    with pytest.raises(KeyError, match="unknown ghost 'boo'; Known: none"):
        Registry("ghost").get("boo")


def test_a_taken_name_is_refused_and_stays_what_it_was(things):
    with pytest.raises(ValueError, match=rf"thing name 'stone' is taken by {__name__}\.Thing; register yours under"):
        things.register("stone", colour="blue")(lambda: None)
    assert things.get("stone") is Thing
    assert things.tags("stone") == {"colour": "grey"}


def test_names_are_in_order_and_chosen_by_their_tags(things):
    assert things.names() == ["brick", "stone"]
    assert things.names(colour="red") == ["brick"]
    assert things.names(colour="red", shape="cuboid") == ["brick"]
    assert things.names(colour="grey", shape="cuboid") == []
    assert things.names(weight="heavy") == []
    assert "brick" in things
    assert "twig" not in things


def test_the_decorator_gives_the_builder_back(things):
    def build():
        return None

    assert things.register("twig")(build) is build
    assert things.get("twig") is build
    assert things.build("twig") is None


def test_tags_given_out_are_a_copy(things):
    things.tags("stone")["colour"] = "pink"
    assert things.tags("stone") == {"colour": "grey"}


def test_registries_share_no_names():
    one, other = Registry("one"), Registry("other")
    one.register("a")(Thing)
    other.register("a")(Thing)
    assert one.names() == other.names() == ["a"]


def test_a_home_that_fails_to_import_fails_every_time():
    registry = Registry("thing", ("hccvision_has_no_such_module",))
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="hccvision_has_no_such_module"):
            registry.names()


# building


def test_a_part_remembers_what_it_was_built_from(things):
    part = things.build("stone", 1, size=2)
    assert part.args == (1,)
    assert part.options == {"size": 2}
    assert part.built_from == ("stone", {"size": 2})


def test_what_a_part_remembers_is_its_own(things):
    options = {"sizes": [1, 2], "deep": {"a": [0]}}
    one, other = things.build("stone", **options), things.build("stone", **options)
    options["sizes"].append(3)
    options["deep"]["a"].append(1)
    one.options["more"] = True
    one.built_from[1]["sizes"].append(4)
    assert other.built_from == ("stone", {"sizes": [1, 2], "deep": {"a": [0]}})
    assert things.build("stone").built_from == ("stone", {})


def test_a_part_that_can_remember_nothing_is_given_as_it_is(things):
    things.register("number")(lambda: 3.0)
    things.register("tuple")(lambda: (1, 2))
    assert things.build("number") == 3.0
    assert things.build("tuple") == (1, 2)


# plug-ins

PLUGINS = {
    "good": "from hccvision.registry import METRICS\n@METRICS.register('from_a_plugin', task='detection')\n"
    "def metric(predictions, truths, *, classes):\n    return {'from_a_plugin': 1.0}\n",
    "broken": "raise RuntimeError('out of order')\n",
    "exiting": "import sys\nsys.exit('no licence')\n",
    "odd": "class Odd(BaseException):\n    def __str__(self):\n        raise self\nraise Odd\n",
    "stopped": "raise GeneratorExit\n",
    "last": "from hccvision.registry import LOSSES\nLOSSES.register('of_the_last', task='detection')(dict)\n",
    "hanging": "raise RuntimeError('\\x1b[2J' * 9)\n",
    "second": "from hccvision.registry import METRICS\nMETRICS.register('from_a_plugin', task='detection')(dict)\n",
    "thief": "from hccvision.registry import HEADS\nHEADS.register('own_head')(dict)\nHEADS.register('ssd')(dict)\n",
}

SCRIPT = """
import json, warnings
from hccvision.registry import AUGMENTATIONS, BACKBONES, HEADS, LOSSES, METRICS
found = {}
try:
    BACKBONES.register("vgg16")(dict)   # the first thing that happens: nothing is imported yet
except ValueError as error:
    found["refused"] = str(error)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found["backbones"] = BACKBONES.names()   # loads the plug-ins, with heads still unknown
    found["warnings"] = [str(w.message) for w in caught]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found["heads"] = HEADS.names()
    found["ssd"] = HEADS.get("ssd").__module__
    found["metric"] = METRICS.get("from_a_plugin")([], [], classes=())
    found["detection"] = METRICS.names(task="detection")
    found["losses"] = LOSSES.names(task="detection")
    found["again"] = [str(w.message) for w in caught]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def with_plugins(tmp_path_factory):
    """What a fresh Python finds where a distribution with these plug-ins, and one that is missing, is installed."""
    folder = tmp_path_factory.mktemp("site")
    for name, source in PLUGINS.items():
        (folder / f"hccvision_test_{name}.py").write_text(source)
    info = folder / "hccvision_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hccvision-test\nVersion: 1.0\n")
    names = [name for name in PLUGINS if name != "second"]
    entries = "".join(f"{name} = hccvision_test_{name}\n" for name in (*names, "missing"))
    entries += "good = hccvision_test_second\nempty =\nodd value = : 5 [\n"
    (info / "entry_points.txt").write_text(
        f"[hccvision.plugins]\n{entries}good = hccvision_test_second\nempty =\nodd value = : 5 [\n"
    )
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_an_installed_plugin_is_found_by_its_entry_point(with_plugins):
    assert with_plugins["metric"] == {"from_a_plugin": 1.0}
    assert {"from_a_plugin", "voc_map"} <= set(with_plugins["detection"])
    assert {"mobilenet_v1", "timm", "vgg16", "vgg16_bn"} <= set(with_plugins["backbones"])


def test_a_broken_plugin_only_warns_and_only_once(with_plugins):
    said = {text.split("'")[1]: text for text in with_plugins["warnings"] if text.startswith("the plug-in")}
    assert set(said) == {
        "broken", "empty", "exiting", "good", "hanging", "missing", "odd", "odd value", "stopped", "thief"
    }  # fmt: skip
    assert "'from_a_plugin' is taken by hccvision_test_good.metric" in said["good"]  # the second of this name
    assert said["hanging"].isprintable()
    assert "of_the_last" in with_plugins["losses"]
    assert said["exiting"].endswith("failed to load: SystemExit: no licence")
    assert said["stopped"].endswith("failed to load: GeneratorExit")
    assert "failed to load: Odd" in said["odd"]
    assert "hccvision_test_broken" in said["broken"]
    assert "out of order" in said["broken"]
    assert "No module named 'hccvision_test_missing'" in said["missing"]
    assert with_plugins["again"] == []


def test_a_plugin_cannot_take_a_name_of_the_library_whatever_is_looked_up_first(with_plugins):
    assert with_plugins["ssd"] == "hccvision.heads.ssd"
    assert {"linear", "ssd", "own_head"} <= set(with_plugins["heads"])


def test_nor_can_a_user_who_registers_before_any_look_up(with_plugins):
    assert "the backbone name 'vgg16' is taken by hccvision.backbones.vgg.vgg16" in with_plugins["refused"]


def test_a_module_that_is_imported_again_replaces_its_own_definitions_only(things, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    source = "from {here} import RELOADED\n\n@RELOADED.register('mine')\ndef build():\n    return {value}\n"
    monkeypatch.setitem(sys.modules, "reloaded_home", types.SimpleNamespace(RELOADED=things))
    path = tmp_path / "reloaded_user.py"
    path.write_text(source.format(here="reloaded_home", value=1))
    module = importlib.import_module("reloaded_user")
    path.write_text(source.format(here="reloaded_home", value=22) + "# longer\n")
    importlib.reload(module)
    assert things.build("mine") == 22
    path.write_text(source.format(here="reloaded_home", value=3) * 2)  # the same name twice in one module
    with pytest.raises(ValueError, match=r"the thing name 'mine' is taken by reloaded_user\.build"):
        importlib.reload(module)
    del sys.modules["reloaded_user"]


# all four registries hold parts, and these keep their contracts


@pytest.mark.parametrize(
    ("registry", "own"),
    [
        (hv.BACKBONES, {"mobilenet_v1", "timm", "vgg16", "vgg16_bn"}),
        (hv.HEADS, {"linear", "ssd"}),
        (hv.AUGMENTATIONS, {"light", "none", "paper"}),
        (hv.METRICS, {"accuracy", "confusion", "roc_auc", "voc_map", "voc07_map", "coco_map", "froc"}),
    ],
    ids=lambda value: value.kind if isinstance(value, Registry) else "",
)
def test_every_registry_has_its_own_parts(registry, own):
    assert own <= set(registry.names())
    assert all(callable(registry.get(name)) for name in registry.names())


def test_the_face_gives_the_registries_themselves():
    assert (hv.BACKBONES, hv.HEADS, hv.AUGMENTATIONS, hv.METRICS) == (BACKBONES, HEADS, AUGMENTATIONS, METRICS)


def test_every_head_has_a_task():
    assert {HEADS.tags(name)["task"] for name in HEADS.names()} == {"classification", "detection"}
    for name in HEADS.names():
        assert HEADS.get(name).task == HEADS.tags(name)["task"]


def classified(*rows):
    return np.array(rows, np.float32)


def image(*boxes, scores=None, difficult=None):
    """One image's dictionary: truths, or predictions where there are scores."""
    rows = {"boxes": np.array(boxes, np.float32).reshape(-1, 4), "labels": np.arange(len(boxes)) % 2}
    if scores is None:
        rows["size"] = np.array([60, 80])
    if scores is not None:
        rows["scores"] = np.array(scores, np.float32)
    if difficult is not None:
        rows["difficult"] = np.array(difficult, bool)
    return rows


A, B = (0, 0, 10, 10), (20, 20, 40, 50)
CASES = {
    "classification": [
        (classified([0.9, 0.1], [0.4, 0.6], [0.2, 0.8]), np.array([0, 0, 1]), ("normal", "cancer")),
        (classified([0.9, 0.1]), np.array([0]), ("normal", "cancer")),
        (classified([0.9, 0.1], [0.6, 0.4]), np.array([1, 1]), ("normal", "cancer")),
        (classified([0.2, 0.3, 0.5], [0.3, 0.3, 0.4]), np.array([1, 2]), ("normal", "cyst", "cancer")),
    ],
    "multilabel": [
        (classified([0.9, 0.1], [0.4, 0.6], [0.2, 0.8]), np.array([[0, 0], [1, 1], [0, 1]]), ("hcc", "cyst")),
        (classified([0.9]), np.array([[0]]), ("hcc",)),
        (classified([0.9, 0.1, 0.2]), np.array([[1, 1, 0]]), ("hcc", "cyst", "scar")),
    ],
    "detection": [
        ([image(A, B, scores=(0.9, 0.4)), image(A, scores=(0.6,))], [image(A, B), image()], ("hcc", "cyst")),
        ([image(scores=()), image(scores=())], [image(), image()], ("hcc", "cyst")),
        ([image(scores=())], [image(A)], ("hcc", "cyst")),
        ([image(A, scores=(0.7,))], [image()], ("hcc",)),
        ([image(A, scores=(0.7,))], [image(A, difficult=(True,))], ("hcc",)),
    ],
}


def as_tensors(value):
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return [{field: torch.from_numpy(rows) for field, rows in one.items()} for one in value]


def compared(task, case, **options):
    predictions, truths, classes = CASES[task][case]
    return Comparison(predictions, truths, classes=classes, **options)


def test_every_metric_has_a_task():
    assert {METRICS.tags(name).get("task") for name in METRICS.names()} == set(CASES)


@pytest.mark.parametrize("name", METRICS.names())
def test_every_metric_has_a_direction(name):
    (metric,) = find_metrics(name)
    stated = METRICS.tags(name)["higher_is_better"]
    names = stated if isinstance(stated, dict) else {name: stated}
    assert all(metric.direction(figure) in (True, False) for figure in names)
    undirected = ("lesions", "score_threshold")
    for case in range(len(CASES[metric.task])):
        for figure in metric(compared(metric.task, case)):
            assert metric.direction(figure) is not None or figure.split("/")[0] in undirected, figure


@pytest.mark.parametrize("name", METRICS.names())
def test_every_metric_gives_figures_by_name(name):
    (metric,) = find_metrics(name)
    for case, (predictions, truths, classes) in enumerate(CASES[metric.task]):
        found = metric(compared(metric.task, case))
        assert found
        for key, value in found.items():
            assert isinstance(key, str)
            assert isinstance(value, Figure), (key, type(value))
            assert np.isfinite(value) or value.reason, key
        tensors = Comparison(as_tensors(predictions), as_tensors(truths), classes=list(classes))
        assert metric(tensors) == pytest.approx(found, nan_ok=True)
        if metric.task == "classification":
            assert set(metric(compared(metric.task, case, positive=classes[0]))) == set(found)


@pytest.mark.parametrize("name", METRICS.names())
def test_every_metric_works_on_resamples(name):
    (metric,) = find_metrics(name)
    for case in range(len(CASES[metric.task])):
        whole = compared(metric.task, case)
        for seed in range(3):
            found = metric(whole.take(np.random.default_rng(seed).integers(0, len(whole), len(whole))))
            assert all(np.isfinite(value) or value.reason for value in found.values())


@pytest.mark.parametrize("task", CASES)
def test_metrics_that_share_a_key_mean_the_same(task):
    for case in range(len(CASES[task])):
        seen = {}
        for metric in find_metrics(METRICS.names(task=task), task):
            for key, value in metric(compared(task, case)).items():
                assert seen.setdefault(key, value) == pytest.approx(value, nan_ok=True), (metric.name, key)


SIZE = (40, 56)


def batch(channels=3, dtype=torch.float32):
    """Two lesions, none, and one at the border: the rest is padding."""
    images = torch.rand(3, channels, *SIZE, generator=torch.Generator().manual_seed(9)).to(dtype)
    boxes = [
        torch.tensor([[8.0, 8.0, 20.0, 16.0], [30.0, 20.0, 34.0, 30.0]]),
        torch.zeros(0, 4),
        torch.tensor([[46.0, 0.0, 56.0, 9.0]]),
    ]
    labels = [torch.tensor([1, 0]), torch.zeros(0), torch.tensor([2])]
    return images, Targets.pad(boxes, labels, torch.tensor([1, 0, 1]))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


each_augmentation = pytest.mark.parametrize("name", AUGMENTATIONS.names())


@each_augmentation
@pytest.mark.parametrize(("channels", "dtype"), [(1, torch.float32), (3, torch.float32), (3, torch.float64)])
def test_every_augmentation_keeps_shapes_types_and_range(name, channels, dtype):
    augment = AUGMENTATIONS.build(name)
    images, targets = batch(channels, dtype)
    for seed in range(8):
        moved, found = augment(images, targets, seeded(seed))
        assert (moved.shape, moved.dtype) == (images.shape, dtype)
        assert ((moved >= 0) & (moved <= 1)).all()
        assert (found.boxes.shape, found.boxes.dtype) == (targets.boxes.shape, torch.float32)
        assert (found.labels.shape, found.labels.dtype) == (targets.labels.shape, torch.int64)
        assert torch.equal(found.image_labels, targets.image_labels)


@each_augmentation
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_every_augmentation_keeps_black_and_white_in_range(name, value):
    images, targets = batch()
    augment = AUGMENTATIONS.build(name)
    for seed in range(8):
        moved, _ = augment(torch.full_like(images, value), targets, seeded(seed))
        assert ((moved >= 0) & (moved <= 1)).all()


@each_augmentation
def test_every_augmentation_keeps_boxes_inside_and_padding_as_padding(name):
    augment = AUGMENTATIONS.build(name)
    images, targets = batch()
    limits = torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
    kept = 0
    for seed in range(20):
        _, found = augment(images, targets, seeded(seed))
        assert ((found.labels == targets.labels) | (found.labels == -1)).all()
        assert found.labels[1].eq(-1).all()
        assert found.labels[2, 1] == -1
        boxes = found.boxes[found.valid]
        assert ((boxes >= 0) & (boxes <= limits)).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        kept += len(boxes)
    assert kept > 20 * 3 / 2


@each_augmentation
def test_every_augmentation_takes_images_without_lesions(name):
    images, _ = batch()
    none = Targets.pad([torch.zeros(0, 4)] * 3, [torch.zeros(0)] * 3)
    moved, found = AUGMENTATIONS.build(name)(images, none, seeded())
    assert moved.shape == images.shape
    assert found.boxes.shape == (3, 0, 4)
    assert found.labels.shape == (3, 0)
    assert found.image_labels is None


@each_augmentation
def test_every_augmentation_replays_exactly_by_its_generator_alone(name):
    augment = AUGMENTATIONS.build(name)
    images, targets = batch()
    for seed in range(8):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        one_image, one = augment(images, targets, seeded(seed))
        assert torch.equal(torch.random.get_rng_state(), state)
        torch.manual_seed(seed + 100)
        other_image, other = AUGMENTATIONS.build(name)(images, targets, seeded(seed))
        assert torch.equal(one_image, other_image)
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.labels, other.labels)


@each_augmentation
def test_every_augmentation_but_none_does_something_else_each_time(name):
    augment = AUGMENTATIONS.build(name)
    images, targets = batch()
    generator = seeded()
    first, second = (augment(images, targets, generator)[0] for _ in range(2))
    assert torch.equal(first, second) == (name == "none")


@each_augmentation
def test_no_augmentation_edits_what_it_is_given(name):
    images, targets = batch()
    before = images.clone(), targets.boxes.clone(), targets.labels.clone()
    for seed in range(4):
        AUGMENTATIONS.build(name)(images, targets, seeded(seed))
    assert all(torch.equal(a, b) for a, b in zip((images, targets.boxes, targets.labels), before, strict=True))


@each_augmentation
def test_every_augmentation_says_what_images_it_takes(name):
    images, targets = batch()
    with pytest.raises(TypeError, match="float in"):
        AUGMENTATIONS.build(name)((images * 255).byte(), targets, seeded())
    with pytest.raises(ValueError, match="2 images on cpu need as many targets there, got 3"):
        AUGMENTATIONS.build(name)(images[:2], targets, seeded())


def test_a_frozen_part_is_built_though_it_cant_remember_its_name():
    @dataclass(frozen=True)
    class Frozen:
        size: int = 1

    parts = Registry("part")
    parts.register("frozen")(Frozen)
    parts.register("type")(lambda: int)
    assert parts.build("frozen", size=3) == Frozen(3)
    assert parts.build("type") is int


THREADS = """
import threading
from hccvision.registry import AUGMENTATIONS, BACKBONES, HEADS, METRICS, TASKS
start, found, faults = threading.Barrier(8), [], []

def look_up(number):
    start.wait()
    try:
        found.append([HEADS.names(), BACKBONES.names(), METRICS.names(task="detection"), TASKS.names()])
        HEADS.get("ssd"), BACKBONES.get("mobilenet_v1"), AUGMENTATIONS.get("light")
    except Exception as error:
        faults.append(repr(error))

threads = [threading.Thread(target=look_up, args=(i,)) for i in range(8)]
[t.start() for t in threads]
[t.join(60) for t in threads]
assert not any(t.is_alive() for t in threads)
assert not faults, faults
assert all(names == found[0] for names in found) and len(found) == 8
print("ok")
"""


def test_the_first_look_ups_of_several_threads_all_find_every_part():
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=120)
        assert done.stdout.strip() == "ok", done.stderr


def test_a_thread_that_registers_while_another_loads_does_not_wait(tmp_path, monkeypatch):
    (tmp_path / "slow_home.py").write_text(
        "import threading\nloading, go = threading.Event(), threading.Event()\nloading.set()\ngo.wait(30)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("thing", ("slow_home",))
    reader = threading.Thread(target=registry.names)
    reader.start()
    while "slow_home" not in sys.modules or not hasattr(sys.modules["slow_home"], "go"):
        time.sleep(0.01)
    registry.register("mine")(Thing)  # at once, though the home is still being imported
    sys.modules["slow_home"].go.set()
    reader.join(30)
    assert registry.names() == ["mine"]
    del sys.modules["slow_home"]


@pytest.mark.parametrize("name", [None, 3, "", Thing])
def test_a_name_is_a_text(things, name):
    with pytest.raises(TypeError, match="expected the name of a thing"):
        things.register(name)
    assert things.names() == ["brick", "stone"]
