"""Parts of one's own in a training: of the recipe, of the model, and metrics; by name and as objects."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from small_trainings import classifier, detector, write_slices
from torch import nn

import hccvision as hv
from hccvision.contracts.batches import Loss
from hccvision.metrics.metric import Metric
from hccvision.model.build import load_model
from hccvision.model.features import features_of
from hccvision.recipes import Recipe
from hccvision.registry import AUGMENTATIONS, LOSSES, NECKS, OPTIMISERS, SCHEDULES
from hccvision.scoring import evaluate
from hccvision.training.engine import fit
from hccvision.training.optimisers import parameter_table

RECIPE = Recipe(optimiser="sgd", learning_rate=1e-3, head_learning_rate=1e-2, epochs=2, batch=4)
HERE = __name__


@pytest.fixture
def slices(tmp_path):
    return write_slices(tmp_path / "slices")


@pytest.fixture
def registries(monkeypatch):
    """Forget, at the end of the test, what it registers."""
    for registry in (AUGMENTATIONS, LOSSES, NECKS, OPTIMISERS, SCHEDULES):
        registry.names()
        monkeypatch.setattr(registry, "_builders", dict(registry._builders))
        monkeypatch.setattr(registry, "_tags", dict(registry._tags))


def changed(before, model):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# parts of the recipe, as objects


def radam(groups, recipe, **options):
    return torch.optim.RAdam(groups, weight_decay=recipe.weight_decay, **options)


def adamax(groups, recipe):
    return torch.optim.Adamax(groups)


def half(recipe, progress, **options):
    return 0.5


def mirror(images, targets, generator):
    if images.shape[-1] != 64:
        raise ValueError("another size")
    return images.flip(-1), targets


def brier(logits, labels):
    errors = (logits.softmax(-1) - nn.functional.one_hot(labels, logits.shape[-1])).square().sum(-1)
    return Loss({"brier": errors.sum()}, torch.tensor(float(len(labels))))


def offsets_only(output, targets, **options):
    positive = targets.classes > 0
    error = (output.offsets - targets.offsets)[positive].abs().sum()
    return Loss({"regression": error, "classification": 0 * output.logits.sum()}, positive.sum())


def blank(images, targets, generator):
    return images, targets


OBJECTS = {"optimiser": radam, "schedule": half, "augmentation": mirror, "loss": brier}


def test_a_recipe_of_objects_trains_and_the_run_notes_what_they_were(slices, tmp_path):
    recipe, run = replace(RECIPE, **OBJECTS), tmp_path / "run"
    model = classifier()
    history = fit(model, slices, slices, recipe=recipe, run=run, device="cpu")
    assert history["learning_rate"] == [5e-3, 5e-3]
    assert {"train_brier", "val_brier"} <= history.rows[0].keys()
    assert "train_classification" not in history.rows[0]
    noted = json.loads((run / "recipe.json").read_text())
    for name, part in OBJECTS.items():
        assert noted[name] == {"object": f"{HERE}.{part.__name__}"}
    loaded = load_model(run / "best.safetensors")
    assert not changed(weights(model), loaded)
    with pytest.raises(ValueError, match=r"optimiser of this recipe was given as the object .*radam.* pass the object"):
        Recipe(**noted)


def test_a_run_of_objects_resumes_with_the_same_objects_only(slices, tmp_path):
    recipe, run = replace(RECIPE, epochs=3, **OBJECTS), tmp_path / "run"
    whole, resumed = classifier(), classifier()
    expected = fit(whole, slices, recipe=recipe, device="cpu")
    stop = Stop(4)
    with pytest.raises(RuntimeError, match="step 4"):
        fit(classifier(), slices, recipe=recipe, run=run, save_every=1, hooks=[stop], device="cpu")
    for name, other in {"optimiser": adamax, "schedule": "constant", "augmentation": blank, "loss": None}.items():
        message = rf"another recipe \({name}: \{{'object': '{HERE}\.{OBJECTS[name].__name__}'\}} then"
        with pytest.raises(ValueError, match=message):
            fit(classifier(), slices, recipe=replace(recipe, **{name: other}), run=run, resume=True, device="cpu")
    assert fit(resumed, slices, recipe=recipe, run=run, resume=True, device="cpu").rows == expected.rows
    assert not changed(weights(whole), resumed)


class Stop:
    """Hook that ends the training in the middle of an epoch."""

    def __init__(self, at):
        self.at = at

    def on_step(self, step, losses, model):
        if step == self.at:
            raise RuntimeError(f"step {step}")


def test_a_loss_of_ones_own_trains_a_detector(slices):
    model = detector()
    history = fit(model, slices, slices, recipe=replace(RECIPE, loss=offsets_only), device="cpu")
    assert history["train_classification"] == [0, 0]
    assert history["train_loss"] == pytest.approx(history["train_regression"])
    assert 0 < history["train_loss"][1] < history["train_loss"][0]


def test_an_optimiser_may_make_groups_of_its_own_and_must_be_one(slices):
    def without_decay_of_biases(groups, recipe):
        split = []
        for group in groups:
            kinds = {True: [], False: []}
            for parameter in group["params"]:
                kinds[parameter.ndim > 1].append(parameter)
            split += [{"params": kinds[True], "lr": group["lr"], "weight_decay": 1e-2}]
            split += [{"params": kinds[False], "lr": group["lr"], "weight_decay": 0.0}]
        return torch.optim.AdamW(split)

    recipe = replace(RECIPE, optimiser=without_decay_of_biases, schedule="step", step_epochs=1)
    assert fit(classifier(), slices, recipe=recipe, device="cpu")["learning_rate"] == pytest.approx([1e-2, 1e-3])
    with pytest.raises(TypeError, match=r"expected a torch\.optim\.Optimizer from the optimiser .*, got list"):
        fit(classifier(), slices, recipe=replace(RECIPE, optimiser=lambda groups, recipe: groups), device="cpu")


# options of the recipe


def test_options_of_optimiser_and_augmentation_are_used_and_saved(slices, tmp_path, registries):
    given = []

    @AUGMENTATIONS.register("scaled")
    def scaled(*, factor=1.0):
        def apply(images, targets, generator):
            given.append(float(images.max()))
            return images * factor, targets

        return apply

    recipe = replace(
        RECIPE, optimiser_options={"nesterov": True, "momentum": 0.5}, augmentation="scaled",
        augmentation_options={"factor": 0.25},
    )  # fmt: skip
    run, plain = tmp_path / "run", classifier()
    model = classifier()
    fit(model, slices, recipe=recipe, run=run, device="cpu")
    assert given
    noted = json.loads((run / "recipe.json").read_text())
    assert noted["optimiser_options"] == {"nesterov": True, "momentum": 0.5}
    assert noted["augmentation_options"] == {"factor": 0.25}
    assert Recipe(**noted) == recipe
    groups = torch.load(run / "state.pt", weights_only=True)["optimiser"]["param_groups"]
    assert {(group["nesterov"], group["momentum"]) for group in groups} == {(True, 0.5)}
    fit(plain, slices, recipe=replace(recipe, augmentation_options={}), device="cpu")
    assert changed(weights(model), plain)
    with pytest.raises(TypeError, match=r"options \(factor\) are for an augmentation given by name"):
        fit(classifier(), slices, recipe=replace(recipe, augmentation=mirror), device="cpu")


def test_a_registered_optimiser_is_one_definition(slices, tmp_path, registries):
    @OPTIMISERS.register("nadam")
    def nadam(groups, recipe, **options):
        return torch.optim.NAdam(groups, weight_decay=recipe.weight_decay, **options)

    recipe, run = replace(RECIPE, optimiser="nadam", optimiser_options={"eps": 1e-6}), tmp_path / "run"
    model = classifier()
    before = weights(model)
    fit(model, slices, recipe=recipe, run=run, device="cpu")
    assert json.loads((run / "recipe.json").read_text())["optimiser"] == "nadam"
    groups = torch.load(run / "state.pt", weights_only=True)["optimiser"]["param_groups"]
    assert [(group["eps"], group["lr"]) for group in groups] == [(1e-6, 1e-3), (1e-6, 1e-2)]
    assert {"backbone.layers.0.0.weight", "head.layers.2.weight"} & changed(before, model)
    assert len(fit(classifier(), slices, recipe=recipe, run=run, resume=True, device="cpu")) == 2


def test_a_registered_loss_trains_by_its_name(slices, registries):
    LOSSES.register("brier", task="classification")(brier)
    history = fit(classifier(), slices, recipe=replace(RECIPE, loss="brier"), device="cpu")
    assert history["train_loss"] == pytest.approx(history["train_brier"])


# models of unregistered parts


class Edges(nn.Module):
    """A backbone of two maps that nobody registered."""

    channels, strides = (4, 8), (8, 16)

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 9, stride=8, padding=4)
        self.second = nn.Conv2d(4, 8, 3, stride=2, padding=1)

    def forward(self, images):
        fine = self.first(images).relu()
        return fine, self.second(fine).relu()


class Brightest(nn.Module):
    """A head for classification that nobody registered."""

    task = "classification"

    def __init__(self, features, num_classes):
        super().__init__()
        self.layer = nn.Linear(features.channels[-1], num_classes)

    def forward(self, maps):
        return self.layer(maps[-1].amax((2, 3)))

    def loss(self, output, targets, *, name=None):
        value = nn.functional.cross_entropy(output, targets.image_labels, reduction="sum")
        return Loss({"classification": value}, torch.tensor(float(len(targets))))

    def decode(self, output, *, score_threshold=0.0):
        return output.softmax(-1)


def own_parts():
    torch.manual_seed(0)
    backbone = Edges()
    return backbone, Brightest(features_of(backbone, 64), 2)


def test_a_model_of_unregistered_parts_trains_saves_and_asks_for_them_when_loaded(slices, tmp_path):
    backbone, head = own_parts()
    model, run = classifier(backbone, head), tmp_path / "run"
    before = weights(model)
    recipe = replace(RECIPE, learning_rate=1e-2, epochs=4)
    history = fit(model, slices, slices, recipe=recipe, run=run, device="cpu")
    assert history["train_loss"][-1] < history["train_loss"][0]
    assert changed(before, model) == set(before)
    settings = json.loads((run / "run.json").read_text())["model"]
    assert settings["backbone"] == {"object": f"{HERE}.Edges"}
    assert settings["head"] == {"object": f"{HERE}.Brightest"}

    path = run / "best.safetensors"
    with pytest.raises(ValueError, match=rf"its backbone was given as an object of {HERE}\.Edges.*backbone=…"):
        hv.load_model(path)
    with pytest.raises(ValueError, match=rf"its head was given as an object of {HERE}\.Brightest.*head=…"):
        hv.load_model(path, backbone=own_parts()[0])
    fresh = own_parts()
    loaded = hv.load_model(path, backbone=fresh[0], head=fresh[1])
    assert not changed(weights(model), loaded)
    found, expected = (hv.predict(network, slices, device="cpu") for network in (loaded, model))
    assert all(torch.equal(a.probabilities, b.probabilities) for a, b in zip(found, expected, strict=True))
    with pytest.raises(ValueError, match="its tensors don't fit the parts that it names"):
        hv.load_model(path, backbone=fresh[0], head=classifier(fresh[0]).head)

    resumed = fit(classifier(*own_parts()), slices, slices, recipe=recipe, run=run, resume=True, device="cpu")
    assert resumed.rows == history.rows


def test_an_unregistered_backbone_trains_under_a_registered_head(slices, tmp_path):
    torch.manual_seed(0)
    model = detector(Edges(), head_options={"prior": 0.01})
    fit(model, slices, slices, recipe=RECIPE, run=tmp_path / "run", device="cpu")
    loaded = load_model(tmp_path / "run" / "last.safetensors", backbone=Edges())
    assert loaded.head.built_from == ("ssd", {"prior": 0.01})
    assert not changed(load_file(tmp_path / "run" / "last.safetensors"), loaded)


# a neck


@pytest.fixture
def bottom_up(registries):
    """A small neck as one decorated definition: each of its maps sees all finer maps of the backbone."""

    @NECKS.register("bottom_up")
    class BottomUp(nn.Module):
        def __init__(self, features, *, width=16):
            super().__init__()
            self.channels, self.strides = (width,) * len(features.channels), features.strides
            self.sides = nn.ModuleList(nn.Conv2d(c, width, 1) for c in features.channels)

        def forward(self, maps):
            maps = [side(m) for side, m in zip(self.sides, maps, strict=True)]
            for i in range(1, len(maps)):
                maps[i] = maps[i] + nn.functional.adaptive_avg_pool2d(maps[i - 1], maps[i].shape[-2:])
            return tuple(maps)

    return BottomUp


@pytest.mark.parametrize("build", [detector, classifier])
def test_a_neck_trains_with_either_head_and_is_saved_and_loaded(build, slices, tmp_path, bottom_up):
    model, run = build(neck="bottom_up", neck_options={"width": 8}), tmp_path / "run"
    assert isinstance(model.neck, bottom_up)
    rows = {row.name: row for row in parameter_table(model, RECIPE)}
    assert {row.group for name, row in rows.items() if name.startswith("neck.")} == {"head"}
    assert {row.learning_rate for name, row in rows.items() if name.startswith(("neck.", "head."))} == {1e-2}
    assert {row.learning_rate for name, row in rows.items() if name.startswith("backbone.")} == {1e-3}

    before = weights(model)
    fit(model, slices, slices, recipe=RECIPE, run=run, device="cpu")
    moved = changed(before, model)
    assert {name for name in before if name.startswith("neck.")} <= moved
    assert {name.split(".")[0] for name in moved} == {"backbone", "neck", "head"}
    assert json.loads((run / "run.json").read_text())["model"]["neck"] == ["bottom_up", {"width": 8}]
    loaded = load_model(run / "best.safetensors")
    assert not changed(weights(model), loaded)
    found, expected = (evaluate(network, slices, device="cpu").figures for network in (loaded, model))
    assert found == pytest.approx(expected, rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize("build", [detector, classifier])
def test_a_neck_given_as_an_object_is_asked_for(build, slices, tmp_path, bottom_up):
    model = build(neck=bottom_up(features_of(build().backbone, 64)))
    fit(model, slices, recipe=replace(RECIPE, epochs=1, frozen=("neck",)), run=tmp_path / "run", device="cpu")
    path = tmp_path / "run" / "best.safetensors"
    with pytest.raises(ValueError, match=r"its neck was given as an object of .*BottomUp.*neck=…"):
        load_model(path)
    loaded = load_model(path, neck=bottom_up(features_of(build().backbone, 64)))
    assert not changed(weights(model), loaded)


def test_a_feature_cache_needs_the_neck_to_be_frozen_too(slices, bottom_up):
    recipe = replace(RECIPE, frozen=("backbone",))
    with pytest.raises(ValueError, match=r"and neck is: set frozen=\('backbone', 'neck'\) in the recipe"):
        fit(detector(neck="bottom_up"), slices, recipe=recipe, feature_cache=True, device="cpu")
    recipe = replace(recipe, frozen=("backbone", "neck"))
    ends = [detector(neck="bottom_up"), detector(neck="bottom_up")]
    for model, cached in zip(ends, (False, True), strict=True):
        fit(model, slices, slices, recipe=recipe, feature_cache=cached, device="cpu")
    for name, value in ends[0].state_dict().items():
        torch.testing.assert_close(ends[1].state_dict()[name], value, rtol=0, atol=1e-6)


# metrics


def share_called_cancer(comparison, *, threshold=0.5):
    return float((comparison.probabilities[:, 1] > threshold).mean())


@pytest.mark.parametrize(
    ("metrics", "names"),
    [
        (["f1", share_called_cancer], {"f1", "share_called_cancer"}),
        (share_called_cancer, {"share_called_cancer"}),
        ([Metric("calls", share_called_cancer, higher_is_better=True), "roc_auc"], {"calls", "roc_auc"}),
        ({"f1": {}, share_called_cancer: {"threshold": 0.0}}, {"f1", "share_called_cancer"}),
        ([partial(share_called_cancer, threshold=1.0)], {"share_called_cancer"}),
        (Metric("two", lambda c: {"a": 0.25, "b": 0.5}), {"a", "b"}),
        ([], set()),
    ],
)
def test_metrics_are_given_by_name_as_callables_as_metrics_or_with_options(metrics, names, slices):
    model, recipe = classifier(), replace(RECIPE, epochs=1)
    (row,) = fit(model, slices, slices, recipe=recipe, metrics=metrics, device="cpu").rows
    assert {name.removeprefix("val_") for name in row if name.startswith("val_")} - {"loss", "classification"} == names
    figures = evaluate(model, slices, metrics, device="cpu").figures
    assert {name: row[f"val_{name}"] for name in figures} == pytest.approx(
        {name: float(figure) for name, figure in figures.items()}, nan_ok=True
    )
    if "share_called_cancer" in names and isinstance(metrics, dict):
        assert row["val_share_called_cancer"] == 1.0
    elif isinstance(metrics, list) and any(isinstance(metric, partial) for metric in metrics):
        assert row["val_share_called_cancer"] == 0.0


def test_a_metric_with_options_it_lacks_is_refused_before_training(slices, tmp_path):
    with pytest.raises(TypeError, match=r"the metric 'f1': .*its options are"):
        fit(classifier(), slices, slices, metrics={"f1": {"beta": 2}}, run=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_detectors_metric_has_the_options_it_is_given(slices):
    model, recipe = detector(), replace(RECIPE, epochs=1)
    metrics = {"froc": {"iou_threshold": 0.3}, "voc_map": {}}
    (row,) = fit(model, slices, slices, recipe=recipe, metrics=metrics, device="cpu").rows
    figures = evaluate(model, slices, metrics, device="cpu").figures
    found = {name: row[f"val_{name}"] for name in figures}
    assert found == pytest.approx({name: float(figure) for name, figure in figures.items()}, nan_ok=True)
    assert {"froc", "voc_map"} <= found.keys()


def test_an_unknown_option_of_fit_is_refused(slices):
    with pytest.raises(TypeError, match="save_each"):
        fit(classifier(), slices, save_each=3, device="cpu")
    with pytest.raises(ValueError, match="save_every is a number of steps from 1 and needs a run folder, got 3"):
        fit(classifier(), slices, save_every=3, device="cpu")
