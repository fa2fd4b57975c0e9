"""Recipes: the paper's numbers, the ranges of the values, and the paper's two trainings run once each."""

import inspect
from dataclasses import FrozenInstanceError, asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image

from hccvision.augment import paper
from hccvision.contracts.samples import Annotation, Sample
from hccvision.model.build import build_model
from hccvision.recipes import Recipe, paper_ssd, paper_vgg16, quick
from hccvision.training.engine import fit


@pytest.fixture
def slices(tmp_path):
    rng = np.random.default_rng(0)
    samples = []
    for i in range(4):
        pixels = rng.integers(0, 60, (60, 80), np.uint8)
        boxes = [(20, 10, 50, 40)] * (i % 2)
        for x1, y1, x2, y2 in boxes:
            pixels[y1:y2, x1:x2] = 230
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        annotation = Annotation(np.array(boxes), ("hcc",) * len(boxes), size=(60, 80))
        samples.append(Sample(tmp_path / f"{i}.png", f"P{i}", ("normal", "cancer")[i % 2], annotation))
    return samples


# the paper


def test_table_3_for_vgg16():
    recipe = paper_vgg16()
    assert (recipe.optimiser, recipe.learning_rate, recipe.batch, recipe.epochs) == ("adam", 0.001, 8, 100)
    assert recipe.head_learning_rate in (None, 0.001)
    assert recipe.augmentation == "paper"
    assert recipe.frozen == ("backbone",)


def test_table_3_for_mobilenet_ssd():
    recipe = paper_ssd()
    assert (recipe.optimiser, recipe.batch, recipe.epochs) == ("sgd", 5, 50)
    assert (recipe.learning_rate, recipe.head_learning_rate) == (0.001, 0.01)
    assert (recipe.momentum, recipe.weight_decay) == (0.9, 5e-4)
    assert recipe.augmentation == "light"  # by evidence: benchmarks/results/lesion_sizes.md
    assert recipe.frozen == ()


def test_table_2_for_the_augmentation_of_both():
    strengths = {name: p.default for name, p in inspect.signature(paper).parameters.items()}
    assert {name: strengths[name] for name in ("flip", "rotation", "noise", "blurred")} == {
        "flip": 0.3, "rotation": 25.0, "noise": 0.5, "blurred": 0.1,
    }  # fmt: skip
    assert strengths["translation"] > 0


def test_the_papers_classifier_trains_its_head_and_leaves_vgg16_as_it_was(slices):
    model = build_model("vgg16", "linear", classes=["normal", "cancer"], image_size=64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    history = fit(model, slices, slices, recipe=replace(paper_vgg16(), epochs=1), device="cpu")
    assert np.isfinite(list(history.rows[0].values())).all()
    after = model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        f"head.layers.{layer}.{kind}" for layer in (0, 3, 6) for kind in ("weight", "bias")
    }
    assert sum(name.startswith("backbone.") for name in before) == 26  # 13 convolutions
    assert all(p.requires_grad for p in model.parameters())


def test_the_papers_detector_trains_all_of_mobilenet_and_head(slices):
    model = build_model("mobilenet_v1", "ssd", classes=["hcc"], image_size=96, backbone_options={"width": 0.25})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    history = fit(model, slices, slices, recipe=replace(paper_ssd(), epochs=1), device="cpu")
    assert np.isfinite(list(history.rows[0].values())).all()
    assert history["learning_rate"] == [0.01]
    unchanged = {name for name, p in model.named_parameters() if torch.equal(before[name], p)}
    assert {name for name in unchanged if name.startswith("backbone.") or name.endswith(".weight")} == set()


# the values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimiser": "lion"}, "unknown optimiser 'lion'; known: adam, adamw, sgd"),
        ({"schedule": "stairs"}, "unknown schedule 'stairs'; known: constant, cosine, onecycle, step"),
        ({"precision": "int8"}, "unknown precision 'int8'; known: fp32, bf16, fp16"),
        ({"accumulate": 0}, "accumulate is a whole number from 1, got 0"),
        ({"accumulate": 9, "batch": 8}, "a batch of 8 can't be cut into 9 parts: lower accumulate"),
        ({"step_epochs": 0}, "step_epochs is a whole number from 1, got 0"),
        ({"step_factor": 0.0}, "step_factor is above 0 and finite, got 0.0"),
        ({"patience": 0}, "patience is a whole number from 1, or None, got 0"),
        ({"rise": 1.0}, "rise is between 0 and 1, got 1.0"),
        ({"ema": 1.0}, "ema is between 0 and 1, got 1.0"),
        ({"label_smoothing": 1.0}, r"label_smoothing is in \[0, 1\), got 1.0"),
        ({"class_weights": "even"}, "class_weights are 'balanced', a tuple of numbers, or None, got 'even'"),
        ({"class_weights": (1.0, 0.0)}, r"class_weights are above 0 and finite, got \(1.0, 0.0\)"),
        ({"thaw": ((0, "backbone"),)}, "thaw holds pairs of epochs from 1 and a name"),
        ({"thaw": ("backbone",)}, "thaw holds pairs of epochs from 1 and a name"),
        ({"schedule": "onecycle", "warmup": 1.0}, "the schedule 'onecycle' has its own warm-up: set warmup=0"),
        ({"epochs": 0}, "epochs is a whole number from 1, got 0"),
        ({"epochs": 2.5}, "epochs is a whole number from 1, got 2.5"),
        ({"batch": 0}, "batch is a whole number from 1, got 0"),
        ({"batch": "8"}, "batch is a whole number from 1, got '8'"),
        ({"learning_rate": 0.0}, "learning_rate is above 0 and finite, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is above 0 and finite, got nan"),
        ({"head_learning_rate": -1e-3}, "head_learning_rate is above 0 and finite, got -0.001"),
        ({"head_learning_rate": float("inf")}, "head_learning_rate is above 0 and finite, got inf"),
        ({"warmup": -1.0}, "warmup is at least 0 and finite, got -1.0"),
        ({"clip_norm": 0.0}, "clip_norm is above 0 and finite, got 0.0; None: no clipping"),
        ({"per_patient": 0}, "per_patient is a whole number from 1, or None, got 0"),
        ({"per_patient": 1.5}, "per_patient is a whole number from 1, or None, got 1.5"),
        ({"momentum": 1.0}, r"momentum is in \[0, 1\), got 1.0"),
        ({"momentum": -0.1}, r"momentum is in \[0, 1\), got -0.1"),
        ({"weight_decay": -1e-4}, "weight_decay is at least 0 and finite, got -0.0001"),
        ({"frozen": "backbone"}, r"frozen is a tuple of names, got the string 'backbone'; write \('backbone',\)"),
        ({"optimiser": 3}, "optimiser is a registered name or a callable, got 3"),
        ({"schedule": None}, "schedule is a registered name or a callable, got None"),
        ({"augmentation": None}, "augmentation is a registered name or a callable, got None"),
        ({"loss": 0.5}, "loss is a registered name or a callable, got 0.5"),
        (
            {"loss": {"object": "mine.loss"}},
            "loss of this recipe was given as the object mine.loss, .* pass the object",
        ),
    ],
)
def test_a_value_out_of_its_range_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**values)
    with pytest.raises(ValueError, match=message):
        replace(paper_ssd(), **values)


@pytest.mark.parametrize("make", [Recipe, paper_vgg16, paper_ssd, quick])
def test_a_recipe_is_a_frozen_set_of_plain_values(make):
    recipe = make()
    with pytest.raises(FrozenInstanceError):
        recipe.epochs = 1
    assert recipe == make()
    assert hash(recipe) == hash(make())
    assert Recipe(**asdict(recipe)) == recipe
    assert replace(recipe, seed=9) != recipe
    values = asdict(recipe)
    for name in ("optimiser_options", "schedule_options", "augmentation_options"):
        assert values.pop(name) == {}
    assert {type(value) for value in values.values()} <= {str, int, float, bool, tuple, type(None)}
