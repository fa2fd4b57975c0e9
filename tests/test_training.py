"""hv.fit: what a step does, what an epoch reports, which epoch is the best, and what is refused."""

import copy
import math
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from hccvision.augment.adapter import adapt
from hccvision.contracts.batches import Loss, Targets
from hccvision.contracts.outputs import Detections
from hccvision.contracts.samples import Annotation, Sample
from hccvision.data.dataset import SliceDataset, collate, to_float
from hccvision.model.build import build_model
from hccvision.recipes import Recipe
from hccvision.registry import AUGMENTATIONS, LOSSES, METRICS
from hccvision.scoring import evaluate
from hccvision.training.engine import fit
from hccvision.training.history import History
from hccvision.training.optimisers import build_optimiser

SIZE = (48, 72)
LESION = (20, 10, 50, 34)
STILL = Recipe(optimiser="sgd", learning_rate=1e-30, momentum=0.0, epochs=1, batch=4)  # changes no weight


@pytest.fixture
def slices(tmp_path):
    """Seven slices of noise, five of them with a bright lesion."""
    rng = np.random.default_rng(0)
    samples = []
    for i in range(7):
        pixels = rng.integers(0, 60, SIZE, np.uint8)
        boxes = [LESION] if i % 4 else []
        for x1, y1, x2, y2 in boxes:
            pixels[y1:y2, x1:x2] = 230
        path = tmp_path / f"slice_{i}.png"
        Image.fromarray(pixels).save(path)
        annotation = Annotation(np.array(boxes), ("hcc",) * len(boxes), size=SIZE)
        samples.append(Sample(path, f"P{i}", "cancer" if boxes else "normal", annotation))
    return samples


def detector(seed=0, **options):
    return build_model(
        "mobilenet_v1",
        "ssd",
        **{"classes": ["hcc"], "image_size": 64, "backbone_options": {"width": 0.1}, "seed": seed, **options},
    )


def classifier(seed=0, dropout=0.0, **options):
    return build_model(
        "mobilenet_v1",
        "linear",
        **{"classes": ["normal", "cancer"], "image_size": 64, "backbone_options": {"width": 0.1}, **options},
        head_options={"hidden": (8,), "pool": "avg", "dropout": dropout},
        seed=seed,
    )


BOTH = pytest.mark.parametrize("build", [detector, classifier])


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def differing(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture
def batches(monkeypatch):
    """What the augmentation "recorded" was given, batch by batch; it changes nothing."""
    seen = []

    def build():
        def apply(images, targets, generator):
            seen.append((images, targets))
            return images, targets

        return apply

    monkeypatch.setitem(AUGMENTATIONS._builders, "recorded", build)
    monkeypatch.setitem(AUGMENTATIONS._tags, "recorded", {})
    return seen


# several labels


def test_several_labels_are_trained_and_watched_as_they_are_evaluated(slices, batches):
    options = {"hidden": (8,), "pool": "avg", "dropout": 0.0, "output": "multilabel"}
    small = {"image_size": 64, "backbone_options": {"width": 0.1}}
    model = build_model("mobilenet_v1", "linear", classes=["hcc", "cyst"], head_options=options, **small)
    assert model.task == "multilabel"
    recipe = Recipe(optimiser="adamw", learning_rate=3e-3, epochs=6, batch=7, augmentation="recorded", loss="focal")
    history = fit(model, slices, slices, recipe=recipe, device="cpu")
    assert sorted(batches[0][1].image_labels.tolist()) == [[0, 0]] * 2 + [[1, 0]] * 5
    assert history["train_loss"][-1] < 0.7 * history["train_loss"][0]
    best = history.best
    report = evaluate(model, slices, ["multilabel_auc"], device="cpu")
    found = {k: history.rows[best][f"val_{k}"] for k in report.figures}
    assert found == pytest.approx({k: float(v) for k, v in report.figures.items()}, nan_ok=True)
    assert math.isnan(report["multilabel_auc/cyst"])  # no slice shows one
    assert "cyst" in report["multilabel_auc/cyst"].reason
    with pytest.raises(ValueError, match=r"'balanced_accuracy' is for classification, and this model does multilabel"):
        fit(model, slices, slices, recipe=recipe, metrics=["balanced_accuracy"], device="cpu")


def test_one_sigmoid_is_trained_and_evaluated_as_any_classifier(slices):
    options = {"hidden": (8,), "pool": "avg", "dropout": 0.0, "output": "sigmoid"}
    small = {"image_size": 64, "backbone_options": {"width": 0.1}}
    classes = ["cancer", "normal"]  # the logit is that of the last class, and the positive one is the other
    model = build_model("mobilenet_v1", "linear", classes=classes, positive="cancer", head_options=options, **small)
    recipe = Recipe(optimiser="adamw", learning_rate=3e-3, epochs=6, batch=7)
    history = fit(model, slices, recipe=recipe, device="cpu")
    assert history["train_loss"][-1] < 0.8 * history["train_loss"][0]
    report = evaluate(model, slices, device="cpu")
    assert report["tp"] + report["fn"] == 5
    for prediction in report.predictions:
        assert prediction.probabilities.sum().item() == pytest.approx(1, abs=1e-6)


# learning


@BOTH
def test_training_lowers_the_loss(build, slices):
    recipe = Recipe(optimiser="adamw", learning_rate=3e-3, epochs=8, batch=7)
    model = build()
    losses = fit(model, slices, recipe=recipe, device="cpu")["train_loss"]
    assert len(losses) == 8
    assert losses[-1] < 0.7 * losses[0]
    assert not model.training


@BOTH
def test_one_step_is_the_step_done_by_hand(build, slices, batches):
    recipe = Recipe(
        optimiser="sgd", learning_rate=1e-3, head_learning_rate=1e-2, weight_decay=5e-4, momentum=0.9, epochs=1,
        batch=8, augmentation="recorded",
    )  # fmt: skip
    model = build()
    by_hand = copy.deepcopy(model).train()
    fit(model, slices, recipe=recipe, device="cpu")
    ((images, targets),) = batches
    by_hand.loss(by_hand(images), targets)["loss"].backward()
    trained = dict(model.named_parameters())
    for name, parameter in by_hand.named_parameters():
        rate = 1e-2 if name.startswith("head.") else 1e-3
        expected = parameter - rate * (parameter.grad + 5e-4 * parameter)
        torch.testing.assert_close(trained[name], expected, rtol=1e-5, atol=1e-6)


def test_a_data_set_without_any_lesion_trains(slices):
    normal = [s for s in slices if s.class_name == "normal"]
    history = fit(detector(), normal, normal, recipe=Recipe(epochs=2, batch=2), device="cpu")
    for row in history:
        undefined = {"val_voc_map", "val_voc_map/hcc"} & row.keys()  # no lesion could have been found
        assert "val_voc_map" in undefined
        assert all(math.isnan(row[name]) for name in undefined)
        assert all(math.isfinite(value) for name, value in row.items() if name not in undefined)
        assert row["train_regression"] == 0
        assert row["train_loss"] > 0


def test_truths_of_a_classifier_and_of_a_detector_may_stand_in_one_sample(slices):
    # "cancer" is no class of the detector, and "hcc" is none of the classifier
    for model in (detector(), classifier()):
        assert len(fit(model, slices[:2], recipe=STILL, device="cpu")) == 1


# repeating


@pytest.mark.parametrize("build", [detector, partial(classifier, dropout=0.5)])
def test_the_same_seed_gives_the_same_run_bit_by_bit(build, slices):
    def run(seed, global_seed):
        torch.manual_seed(global_seed)
        model = build()
        history = fit(
            model, slices, slices[:2], recipe=Recipe(epochs=2, batch=3, augmentation="paper"), seed=seed, device="cpu"
        )
        return weights(model), history.rows

    (first, rows), (again, same_rows), (other, other_rows) = run(1, 10), run(1, 20), run(2, 10)
    assert differing(first, again) == set()
    assert rows == same_rows
    assert differing(first, other)
    assert rows != other_rows


def test_the_callers_random_numbers_are_left_alone(slices):
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    fit(classifier(), slices, slices, recipe=Recipe(epochs=1, batch=4, augmentation="paper", seed=3), device="cpu")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


# frozen parts


def test_a_frozen_backbone_does_not_change_nor_do_its_batch_norms(slices):
    model = classifier()
    model.backbone.layers[0][0].weight.requires_grad_(False)  # the user's own, to be left as it was
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    before = weights(model)
    fit(model, slices, recipe=Recipe(epochs=2, batch=4, frozen=("backbone",)), device="cpu")
    changed = differing(before, weights(model))
    assert any("running_mean" in name for name in before)
    assert {name.split(".")[0] for name in changed} == {"head"}
    assert changed == {name for name in before if name.startswith("head.")}
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags


def test_a_part_of_the_backbone_can_be_frozen_by_itself(slices):
    model = classifier()
    before = weights(model)
    fit(model, slices, recipe=Recipe(epochs=1, batch=4, frozen=("backbone.layers.1", "head")), device="cpu")
    changed = differing(before, weights(model))
    assert not any(name.startswith(("backbone.layers.1.", "head.")) for name in changed)
    assert "backbone.layers.2.1.running_mean" in changed
    assert any(name.startswith("backbone.layers.10.") for name in changed)  # which only begins like the frozen one


def test_what_a_user_has_frozen_by_hand_stays_as_it_is(slices):
    model = classifier()
    model.backbone.layers[0][0].weight.requires_grad_(False)
    before = weights(model)
    fit(model, slices, recipe=Recipe(epochs=1, batch=4), device="cpu")
    changed = differing(before, weights(model))
    assert "backbone.layers.0.0.weight" not in changed
    assert "backbone.layers.0.1.weight" in changed


@pytest.mark.parametrize(
    ("frozen", "message"),
    [(("back",), "freezes 'back'"), (("neck",), "freezes 'neck'"), (("backbone", "head"), "nothing is left to train")],
)
def test_a_recipe_that_does_not_fit_the_model_is_refused(frozen, message, slices, tmp_path):
    model = classifier()
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        fit(model, slices, recipe=replace(STILL, frozen=frozen), run=tmp_path / "run", device="cpu")
    assert differing(before, weights(model)) == set()
    assert all(p.requires_grad for p in model.parameters())
    assert not (tmp_path / "run").exists()


def test_gradients_are_wanted_again_after_a_training_that_failed(slices):
    model = classifier()
    nn.init.constant_(model.head.layers[-1].weight, torch.nan)
    with pytest.raises(FloatingPointError):
        fit(model, slices, recipe=replace(STILL, frozen=("backbone",)), device="cpu")
    assert all(p.requires_grad for p in model.parameters())


# optimiser and schedule


@BOTH
@pytest.mark.parametrize("frozen", [(), ("backbone",), ("head",), ("backbone.layers.0",)])
@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_every_trained_parameter_is_in_one_group_at_its_parts_rate(build, frozen, optimiser):
    model = build()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(tuple(f"{part}." for part in frozen)))
    recipe = Recipe(optimiser=optimiser, learning_rate=1e-3, head_learning_rate=1e-2, weight_decay=5e-4, momentum=0.8)
    groups = build_optimiser(model, recipe).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in groups)
    expected = {
        id(p): 1e-2 if name.startswith("head.") else 1e-3 for name, p in model.named_parameters() if p.requires_grad
    }
    assert rates == expected
    assert {group["weight_decay"] for group in groups} == {5e-4}
    if optimiser == "sgd":
        assert {group["momentum"] for group in groups} == {0.8}


def test_without_a_rate_of_its_own_the_head_learns_at_the_backbones():
    groups = build_optimiser(classifier(), Recipe(learning_rate=3e-4)).param_groups
    assert [group["lr"] for group in groups] == [3e-4, 3e-4]


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_schedule_is_torchs_own(schedule, slices, tmp_path):
    recipe = Recipe(optimiser="sgd", learning_rate=1e-3, head_learning_rate=1e-2, schedule=schedule, epochs=4, batch=8)
    parameter = nn.Parameter(torch.zeros(()))
    reference = torch.optim.SGD([{"params": [parameter], "lr": 1e-3}, {"params": [torch.zeros(())], "lr": 1e-2}])
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=4)
    expected = []
    for _ in range(4):
        expected.append([group["lr"] for group in reference.param_groups])
        reference.step()
        if schedule == "cosine":
            cosine.step()
    history = fit(classifier(), slices[:2], recipe=recipe, run=tmp_path / "run", device="cpu")
    assert history["learning_rate"] == pytest.approx([rates[1] for rates in expected], abs=1e-12)
    last = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["optimiser"]["param_groups"]
    assert [group["lr"] for group in last] == pytest.approx(expected[-1], abs=1e-12)


def test_the_warm_up_raises_the_rates_step_by_step(slices, monkeypatch):
    rates = []
    step = torch.optim.SGD.step

    def recorded(self, *args, **kwargs):
        rates.append([group["lr"] for group in self.param_groups])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", recorded)
    recipe = Recipe(optimiser="sgd", learning_rate=1e-4, head_learning_rate=1e-3, epochs=3, batch=4, warmup=1.5)
    history = fit(detector(), slices, recipe=recipe, device="cpu")  # two steps an epoch
    assert rates == [pytest.approx([1e-4 * f, 1e-3 * f]) for f in (1 / 3, 2 / 3, 1, 1, 1, 1)]
    assert history["learning_rate"] == pytest.approx([1e-3 * 2 / 3, 1e-3, 1e-3])


def test_gradients_are_clipped_as_torch_clips_them(slices):
    model = detector()
    reference = copy.deepcopy(model).train()

    def vector(network):
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    start = vector(model)
    recipe = Recipe(optimiser="sgd", learning_rate=1e-2, momentum=0.0, epochs=1, batch=7, clip_norm=0.5)
    fit(model, slices, recipe=recipe, device="cpu")
    optimiser = torch.optim.SGD(reference.parameters(), lr=1e-2)
    dataset = SliceDataset(slices, task="detection", classes=["hcc"], image_size=(64, 64))
    batch = collate([dataset[i] for i in range(7)])
    reference.loss(reference(to_float(batch.images)), batch.targets)["loss"].backward()
    norm = nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
    assert norm > 1  # so that there was something to clip
    optimiser.step()
    ours, theirs = vector(model) - start, vector(reference) - start
    assert ours.norm().item() == pytest.approx(1e-2 * 0.5, rel=1e-3)
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.999


# the history


def test_the_loss_is_the_sum_of_its_parts_in_every_row(slices):
    recipe = Recipe(epochs=2, batch=4, augmentation="paper")
    for row in fit(detector(), slices, slices[:4], recipe=recipe, device="cpu"):
        for side in ("train", "val"):
            parts = row[f"{side}_regression"] + row[f"{side}_classification"]
            assert row[f"{side}_loss"] == pytest.approx(parts, rel=1e-6)


@BOTH
def test_the_epochs_loss_is_the_mean_over_images_also_with_a_small_last_batch(build, slices, batches):
    model = build()
    reference = copy.deepcopy(model).train()
    history = fit(model, slices, slices, recipe=replace(STILL, augmentation="recorded"), device="cpu")
    assert [len(images) for images, _ in batches] == [4, 3]
    with torch.no_grad():
        losses = [float(reference.loss(reference(images), targets)["loss"]) for images, targets in batches]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)
    assert history["train_loss"] == pytest.approx([(4 * losses[0] + 3 * losses[1]) / 7], rel=1e-5)


def test_a_classifiers_validation_loss_is_the_mean_cross_entropy_of_its_images(slices, batches):
    model = classifier()
    history = fit(model, slices, slices, recipe=replace(STILL, augmentation="recorded"), device="cpu")
    images = torch.cat([images for images, _ in batches])
    labels = torch.cat([targets.image_labels for _, targets in batches])
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model.eval()(images), labels)
    assert history["val_loss"] == pytest.approx([float(expected)], rel=1e-5)


def test_each_image_is_seen_once_an_epoch_in_another_order_each_time(slices, batches):
    fit(classifier(), slices, recipe=replace(STILL, epochs=3, augmentation="recorded"), device="cpu")
    means = [round(float(image.mean()), 6) for images, _ in batches for image in images]
    epochs = [means[i : i + 7] for i in range(0, 21, 7)]
    assert len(set(epochs[0])) == 7
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


@pytest.mark.parametrize("build", [detector, classifier])
def test_the_recipe_caps_patients_and_balances(build, slices, batches):
    data = [replace(sample, patient="ab"[i > 3]) for i, sample in enumerate(slices)]  # normal: 0 of a and 4 of b
    recipe = replace(STILL, epochs=4, per_patient=3, balanced=True, augmentation="recorded")
    fit(build(), data, recipe=recipe, device="cpu")
    images = [image for images, _ in batches for image in images]
    assert len(images) == 4 * 6
    for epoch in range(4):
        bright = [bool((image > 0.8).any()) for image in images[6 * epoch : 6 * epoch + 6]]
        assert sum(bright) in ((3,) if False in bright else (6,))  # both classes equally often, if both were drawn
    assert any(not (image > 0.8).any() for image in images)


def test_the_history_has_the_metrics_asked_for_by_name(slices):
    row = fit(classifier(), slices, slices, recipe=STILL, metrics=["f1", "roc_auc"], device="cpu").rows[0]
    assert {name for name in row if name.startswith("val_")} == {
        "val_loss",
        "val_classification",
        "val_f1",
        "val_roc_auc",
    }
    row = fit(detector(), slices, slices, recipe=STILL, metrics=[], device="cpu").rows[0]
    assert {name for name in row if name.startswith("val_")} == {"val_loss", "val_classification", "val_regression"}


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_a_detectors_metrics_are_those_that_evaluate_gives(resize, slices):
    model = detector(resize=resize)
    # the lesion of 72×48 pixels in the input of 64×64: wholly found, with one false alarm below it in score
    scale, pad = ((64 / 72, 64 / 48), 0) if resize == "stretch" else ((64 / 72, 43 / 48), 10)
    x1, y1, x2, y2 = LESION
    lesion = [x1 * scale[0], y1 * scale[1] + pad, x2 * scale[0], y2 * scale[1] + pad]
    found = Detections(torch.tensor([lesion, [0.0, 20.0, 9.0, 40.0]]), torch.tensor([0.9, 0.2]), torch.tensor([0, 0]))
    model.decode = lambda output, **options: [found] * len(output.logits)
    # a difficult truth that is not found must cost nothing
    boxes = np.array([LESION, (55, 5, 70, 20)])
    val = [
        Sample(s.path, annotation=Annotation(boxes, ("hcc", "hcc"), size=SIZE, difficult=(False, True)))
        for s in slices
        if s.class_name == "cancer"
    ]
    row = fit(model, slices, val, recipe=STILL, metrics=["voc_map", "detection_counts"], device="cpu").rows[0]
    assert row["val_voc_map"] == 1.0
    report = evaluate(model, val, metrics=["voc_map", "detection_counts"], device="cpu")
    assert {name: row[f"val_{name}"] for name in report.figures} == pytest.approx(
        {name: float(figure) for name, figure in report.figures.items()}, rel=0, abs=0, nan_ok=True
    )


def test_a_classifiers_metrics_are_of_its_positive_class(slices):
    model = classifier(classes=["cancer", "normal"], positive="cancer")
    nn.init.zeros_(model.head.layers[-1].weight)
    model.head.layers[-1].bias.data = torch.tensor([1.0, -1.0])  # everything is called cancer
    row = fit(model, slices, slices, recipe=STILL, metrics=["sensitivity", "specificity"], device="cpu").rows[0]
    assert (row["val_sensitivity"], row["val_specificity"]) == (1.0, 0.0)


# a batch in parts, averaged weights, weighted and smoothed labels, precision, stopping early


def without_batch_norms(model):
    return tuple(name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d))


@BOTH
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_a_batch_in_parts_is_the_batch_in_one(build, parts, slices):
    frozen = without_batch_norms(build())
    recipe = Recipe(optimiser="sgd", learning_rate=1e-3, epochs=2, batch=7, augmentation="paper", frozen=frozen)
    ends, rows = [], []
    for accumulate in (1, parts):
        model = build()
        rows.append(fit(model, slices, recipe=replace(recipe, accumulate=accumulate), device="cpu").rows)
        ends.append(weights(model))
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=0, atol=1e-6)
    for one, other in zip(*rows, strict=True):
        assert other == pytest.approx(one, rel=1e-6)


def test_a_weighted_batch_in_parts_is_the_batch_in_one(slices):
    frozen = without_batch_norms(classifier())
    recipe = Recipe(optimiser="sgd", learning_rate=1e-2, epochs=1, batch=7, frozen=frozen, class_weights="balanced")
    ends = []
    for accumulate in (1, 3):
        model = classifier()
        fit(model, slices, recipe=replace(recipe, accumulate=accumulate, label_smoothing=0.1), device="cpu")
        ends.append(weights(model))
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=0, atol=1e-6)


def test_the_averaged_weights_are_those_of_the_formula(slices):
    recipe = Recipe(optimiser="sgd", learning_rate=1e-2, momentum=0.0, epochs=1, batch=3)
    steps = []  # three, of 3, 3 and 1 images
    start = classifier()
    average = weights(start)
    step = torch.optim.SGD.step

    def recorded(self, *args, **kwargs):
        result = step(self, *args, **kwargs)
        steps.append([p.detach().clone() for group in self.param_groups for p in group["params"]])
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", recorded)
        model = classifier()
        history = fit(model, slices, slices, recipe=replace(recipe, ema=0.6), metrics=[], device="cpu")
    assert len(steps) == 3
    names = [name for part in ("backbone", "head") for name, _ in start.named_parameters() if name.startswith(part)]
    expected = {name: average[name] for name in names}
    for number, values in enumerate(steps):
        for name, value in zip(names, values, strict=True):
            expected[name] = value if number == 0 else 0.6 * expected[name] + 0.4 * value
    found = weights(model)
    for name in names:
        torch.testing.assert_close(found[name], expected[name])
        assert not torch.equal(found[name], dict(zip(names, steps[-1], strict=True))[name])
    # it is the average that is validated
    again = fit(model, slices, slices, recipe=replace(STILL, frozen=("backbone",)), metrics=[], device="cpu")
    assert again["val_loss"] == pytest.approx(history["val_loss"], rel=1e-5)


@pytest.mark.parametrize(("given", "expected"), [((0.5, 2.0), (0.5, 2.0)), ("balanced", (7 / 4, 7 / 10))])
def test_class_weights_and_smoothing_reach_the_loss(given, expected, slices, batches):
    model = classifier()
    recipe = replace(STILL, batch=7, class_weights=given, label_smoothing=0.2, augmentation="recorded")
    (row,) = fit(copy.deepcopy(model), slices, recipe=recipe, device="cpu").rows
    ((images, targets),) = batches
    loss = nn.functional.cross_entropy(
        model.train()(images), targets.image_labels, torch.tensor(expected), label_smoothing=0.2
    )
    assert row["train_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_class_weights_of_lesions_reach_the_detectors_loss(slices):
    rows = [
        fit(detector(), slices, recipe=replace(STILL, batch=7, class_weights=w), device="cpu").rows[0]
        for w in (None, (3.0,))
    ]
    assert rows[1]["train_regression"] == pytest.approx(rows[0]["train_regression"])
    assert rows[1]["train_classification"] > 1.1 * rows[0]["train_classification"]


def test_class_weights_that_do_not_fit_are_refused(slices):
    with pytest.raises(ValueError, match=r"3 class weights, the model 2: \('normal', 'cancer'\)"):
        fit(classifier(), slices, recipe=replace(STILL, class_weights=(1.0, 2.0, 3.0)), device="cpu")
    normal = [s for s in slices if s.class_name == "normal"]
    with pytest.raises(ValueError, match="no training sample shows 'cancer'"):
        fit(classifier(), normal, recipe=replace(STILL, class_weights="balanced"), device="cpu")


def test_patience_ends_a_training(slices, monkeypatch, capsys):
    scores = iter([0.2, 0.9, 0.5, 0.9, 0.8, 0.7])
    monkeypatch.setitem(METRICS._builders, "scripted", lambda *_, **__: {"scripted": next(scores)})
    monkeypatch.setitem(METRICS._tags, "scripted", {"higher_is_better": True})
    recipe = replace(STILL, epochs=6, monitor="val_scripted", patience=2)
    history = fit(classifier(), slices[:2], slices[:2], recipe=recipe, metrics=["scripted"], device="cpu")
    assert (len(history), history.best) == (4, 1)
    assert "stopped early: val_scripted has not improved in 2 epochs" in capsys.readouterr().out


def test_patience_without_validation_data_is_refused(slices):
    with pytest.raises(ValueError, match='pass val, or set monitor="train_loss"'):
        fit(classifier(), slices, recipe=replace(STILL, patience=2), device="cpu")


def test_validation_too_goes_through_the_network_in_parts(slices, monkeypatch):
    model = classifier()
    forward, seen = model.backbone.forward, []
    monkeypatch.setattr(model.backbone, "forward", lambda images: seen.append(len(images)) or forward(images))
    fit(model, slices, slices, recipe=replace(STILL, epochs=1, batch=4, accumulate=2), device="cpu", metrics=[])
    assert seen == [2, 2, 2, 1] * 2


@pytest.mark.parametrize("build", [detector, classifier])
def test_half_precision_trains_with_a_loss_in_full_precision(build, slices, monkeypatch):
    kinds = set()
    model = build()
    loss = model.head.loss

    def recorded(output, *args, **options):
        parts = loss(output, *args, **options)
        kinds.add((getattr(output, "logits", output).dtype, parts["loss"].dtype))
        return parts

    model.head.loss = recorded
    full = fit(build(), slices, slices, recipe=replace(STILL, batch=7), metrics=[], device="cpu").rows[0]
    recipe = replace(STILL, batch=7, precision="bf16")
    half = fit(model, slices, slices, recipe=recipe, metrics=[], device="cpu").rows[0]
    assert kinds == {(torch.bfloat16, torch.float32)}
    assert half != full
    assert half == pytest.approx(full, rel=0.05)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_fp16_on_a_cpu_is_refused(slices):
    with pytest.raises(ValueError, match='precision="fp16" needs CUDA'):
        fit(classifier(), slices, recipe=replace(STILL, precision="fp16"), device="cpu")


def test_a_head_whose_loss_is_no_sum_and_count_is_refused(slices):
    model = classifier()
    loss = model.head.loss
    model.head.loss = lambda *args, **options: {**loss(*args, **options), "other": torch.tensor(1.0)}
    with pytest.raises(TypeError, match=r"expected hv\.Loss\(sums, count\) from the loss of LinearHead, got dict"):
        fit(model, slices, recipe=STILL, device="cpu")


def test_the_loss_is_the_sum_of_all_parts_that_a_head_returns(slices):
    plain, more = classifier(), classifier()
    loss = more.head.loss

    def with_another_part(*args, **options):
        found = loss(*args, **options)
        return Loss({**found.sums, "other": 0.5 * found.count}, found.count)

    more.head.loss = with_another_part
    recipe = replace(STILL, batch=7)
    (row,), (expected,) = (fit(model, slices, slices, recipe=recipe, device="cpu").rows for model in (more, plain))
    for side in ("train", "val"):
        assert row[f"{side}_other"] == pytest.approx(0.5)
        assert row[f"{side}_loss"] == pytest.approx(expected[f"{side}_loss"] + 0.5)
        assert row[f"{side}_classification"] == pytest.approx(expected[f"{side}_classification"])


# the best epoch


@pytest.mark.parametrize(
    ("monitor", "values", "best"),
    [
        ("val_loss", [3.0, 1.0, 2.0], 1),
        ("val_regression", [3.0, 1.0, 2.0], 1),
        ("val_voc_map", [0.3, 0.1, 0.2], 0),
        ("val_voc_map", [0.1, 0.3, 0.3], 1),
        ("train_loss", [3.0, 2.0, 1.0], 2),
        ("val_absent", [1.0, 1.0, 1.0], 2),
    ],
)
def test_a_loss_is_best_when_lowest_and_a_metric_when_highest(monitor, values, best):
    history = History()
    for value in values:
        row = {"train_loss": 1.0, "train_regression": 1.0, "val_loss": 1.0, "val_regression": 1.0, "val_voc_map": 1.0}
        history.add(
            {**row, monitor: value} if monitor != "val_absent" else {"train_loss": value},
            monitor,
            higher_is_better=monitor == "val_voc_map",
        )
    assert history.best == best


@pytest.mark.parametrize("monitor", ["val_scripted", "val_loss"])
def test_the_model_ends_with_the_weights_of_the_best_epoch(monitor, slices, tmp_path, monkeypatch):
    scores = iter([0.2, 0.9, 0.5])
    monkeypatch.setitem(METRICS._builders, "scripted", lambda *_, **__: {"scripted": next(scores)})
    monkeypatch.setitem(METRICS._tags, "scripted", {"higher_is_better": True})
    model = classifier()
    # learning at such a rate makes the loss rise again
    recipe = Recipe(optimiser="sgd", learning_rate=0.3, epochs=3, batch=4, monitor=monitor)
    history = fit(model, slices, slices, recipe=recipe, run=tmp_path / "run", metrics=["scripted"], device="cpu")
    best = 1 if monitor == "val_scripted" else int(np.argmin(history["val_loss"]))
    assert history.best == best
    assert differing(load_file(tmp_path / "run" / "best.safetensors"), weights(model)) == set()
    if best != 2:
        assert differing(load_file(tmp_path / "run" / "last.safetensors"), weights(model))
    # the figure of that epoch can be had again
    again = fit(model, slices, slices, recipe=replace(STILL, frozen=("backbone",)), metrics=[], device="cpu")
    assert again["val_loss"] == pytest.approx([history["val_loss"][best]], rel=1e-5)


def test_without_validation_data_the_last_epoch_is_the_best(slices, tmp_path):
    model = classifier()
    history = fit(model, slices, recipe=Recipe(epochs=2, batch=4), run=tmp_path / "run", device="cpu")
    assert history.best == 1
    assert not any(name.startswith("val_") for row in history for name in row)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["model"]
    assert differing(state, weights(model)) == set()


def test_a_monitor_that_is_not_in_the_history_is_an_error(slices):
    with pytest.raises(ValueError, match=r"monitors 'val_mAP'.*val_loss.*val_voc_map"):
        fit(detector(), slices, slices, recipe=replace(STILL, monitor="val_mAP"), device="cpu")


# what is refused


@pytest.mark.parametrize("how", ["weights", "rate", "validation"])
def test_a_loss_that_is_not_finite_stops_with_the_files_of_its_batch(how, slices):
    model = classifier()
    recipe = replace(STILL, batch=3)
    val = None
    if how == "weights":
        nn.init.constant_(model.head.layers[-1].bias, torch.nan)
    else:
        recipe = replace(recipe, learning_rate=1e30)
    if how == "validation":  # a single step, so that the first loss after it is that of the validation
        recipe, val = replace(recipe, batch=7), slices[:3]
    with pytest.raises(FloatingPointError, match=r"epoch 1.*hv\.check, or lower the learning rate") as caught:
        fit(model, slices, val, recipe=recipe, device="cpu")
    named = [s for s in slices if str(s.path) in str(caught.value)]
    assert len(named) == 3
    if how == "validation":
        assert named == slices[:3]


def test_an_unknown_metric_is_refused_before_training(slices, tmp_path):
    model = detector()
    before = weights(model)
    with pytest.raises(KeyError, match="unknown metric 'voc_mao'; did you mean 'voc_map'"):
        fit(model, slices, slices, metrics=["voc_mao"], run=tmp_path / "run", device="cpu")
    with pytest.raises(ValueError, match="'accuracy' is for classification, and this model does detection"):
        fit(model, slices, slices, metrics=["accuracy"], run=tmp_path / "run", device="cpu")
    assert differing(before, weights(model)) == set()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("loss", LOSSES.names(task="detection"))
def test_a_detector_trains_by_every_loss_of_its_head(slices, loss):
    history = fit(detector(), slices, recipe=Recipe(epochs=2, batch=4, loss=loss), device="cpu")
    assert history["train_loss"][1] < history["train_loss"][0]


def test_an_unknown_augmentation_or_loss_is_refused(slices):
    with pytest.raises(KeyError, match="unknown augmentation 'papper'; did you mean 'paper'"):
        fit(detector(), slices, recipe=replace(STILL, augmentation="papper"), device="cpu")
    with pytest.raises(KeyError, match="unknown loss 'hinge' for detection; Known: focal, focal_giou, giou, multibox"):
        fit(detector(), slices, recipe=replace(STILL, loss="hinge"), device="cpu")
    with pytest.raises(KeyError, match="unknown loss 'hinge' for classification; Known: cross_entropy, focal"):
        fit(classifier(), slices, recipe=replace(STILL, loss="hinge"), device="cpu")


def test_a_class_that_the_model_does_not_know_is_refused_with_the_file(slices, tmp_path):
    xml = tmp_path / "slice_1.xml"
    cyst = Sample(slices[1].path, annotation=Annotation(np.array([LESION]), ("cyst",), path=xml))
    with pytest.raises(ValueError, match=rf"{xml}: the class 'cyst' is not among the model's classes \(hcc\)"):
        fit(detector(), [slices[0], cyst], recipe=STILL, device="cpu")
    with pytest.raises(ValueError, match="'cyst'"):
        fit(detector(), slices, [cyst], recipe=STILL, device="cpu")
    benign = Sample(slices[1].path, class_name="benign")
    with pytest.raises(ValueError, match=rf"{benign.path}: the class 'benign' is not among .*\(normal, cancer\)"):
        fit(classifier(), [slices[0], benign], recipe=STILL, device="cpu")


def test_samples_without_what_the_task_needs_are_refused_with_the_file(slices):
    boxes_only = [Sample(s.path, annotation=s.annotation) for s in slices]
    with pytest.raises(ValueError, match=rf"{slices[0].path}: the ground truth of classification is a class_name"):
        fit(classifier(), boxes_only, recipe=STILL, device="cpu")
    names_only = [Sample(s.path, class_name=s.class_name) for s in slices]
    with pytest.raises(ValueError, match=rf"{slices[0].path}: the ground truth of detection is an annotation"):
        fit(detector(), names_only, recipe=STILL, device="cpu")


@pytest.mark.parametrize("val", [None, []])
def test_no_samples_are_refused(val, slices):
    with pytest.raises(ValueError, match="no usable sample"):
        fit(classifier(), slices if val == [] else [], val, recipe=STILL, device="cpu")


# devices


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused(slices, tmp_path):
    with pytest.raises(ValueError, match='no CUDA device here; use "auto" or "cpu"'):
        fit(classifier(), slices, recipe=STILL, run=tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists()


def test_an_unknown_device_is_refused(slices):
    with pytest.raises(ValueError, match="unknown device 'gpu'; known: 'auto', 'cpu', 'cuda'"):
        fit(classifier(), slices, recipe=STILL, device="gpu")


@pytest.mark.gpu
@BOTH
def test_an_epoch_on_cuda_agrees_with_one_on_the_cpu(build, slices):
    rows = {}
    for device in ("cuda", "cpu"):
        model = build()
        rows[device] = fit(model, slices, slices, recipe=STILL, device=device, metrics=[]).rows[0]
        assert model.device.type == device
    assert rows["cuda"] == pytest.approx(rows["cpu"], rel=2e-2)


# threads


def test_trainings_in_two_threads_end_with_the_weights_of_their_seeds(slices):
    def train(seed):
        model = classifier(dropout=0.5)
        fit(model, slices, recipe=Recipe(epochs=2, batch=2, augmentation="paper"), seed=seed, device="cpu")
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    alone = [train(seed) for seed in (0, 1)]
    assert not torch.equal(*alone)
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(train, (0, 1, 0, 1)))
    assert all(torch.equal(weights, alone[i % 2]) for i, weights in enumerate(together))


def test_models_built_and_augmented_beside_a_training_leave_both_as_they_are_alone(slices):
    shake = adapt(lambda images, targets: (images + torch.rand(images.shape), targets))
    images, targets = torch.zeros(1, 3, 4, 4), Targets(torch.zeros(1, 0, 4), torch.zeros(1, 0).long())

    def train():
        model = classifier(dropout=0.5)
        fit(model, slices, slices, recipe=Recipe(epochs=3, batch=2, augmentation=shake), device="cpu", metrics=[])
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    def build():
        return torch.cat([p.detach().flatten() for p in classifier(seed=7).parameters()])

    def augment():
        return shake(images, targets, torch.Generator().manual_seed(3))[0]

    trained, built, shaken = train(), build(), augment()
    before = torch.get_rng_state()
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(train)
        rounds = 0
        while not training.done():
            assert torch.equal(build(), built)
            assert torch.equal(augment(), shaken)
            rounds += 1
    assert rounds > 2
    assert torch.equal(training.result(), trained)
    assert torch.equal(torch.get_rng_state(), before)
