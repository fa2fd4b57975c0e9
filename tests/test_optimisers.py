"""Optimisers: parameter groups, freezing and thawing."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from hccvision.model.build import build_model
from hccvision.recipes import Recipe
from hccvision.training.optimisers import Freezer, build_optimiser, parameter_table

RATES = Recipe(optimiser="sgd", learning_rate=1e-3, head_learning_rate=1e-2, epochs=7)


def classifier():
    return build_model(
        "mobilenet_v1", "linear", classes=["normal", "cancer"], image_size=64, seed=0,
        backbone_options={"width": 0.1}, head_options={"hidden": (), "pool": "avg"},
    )  # fmt: skip


# groups


def test_the_table_has_each_parameter_once_and_says_how_it_is_trained():
    model = classifier()
    model.backbone.layers[1][0].weight.requires_grad_(False)
    recipe = replace(RATES, frozen=("backbone.layers.0",), thaw=((2, "backbone.layers.3"),))
    table = parameter_table(model, recipe)
    assert [row.name for row in table] == [name for name, _ in model.named_parameters()]
    rows = {row.name: row for row in table}
    assert rows["backbone.layers.0.0.weight"][2:] == (None, 0.0, math.inf)
    assert rows["backbone.layers.1.0.weight"].group is None  # frozen by hand
    assert rows["backbone.layers.2.0.weight"][2:] == ("backbone", 1e-3, 0.0)
    assert rows["backbone.layers.3.0.weight"][2:] == ("backbone", 1e-3, 2.0)
    assert rows["head.layers.1.bias"][1:] == ((2,), "head", 1e-2, 0.0)
    trained = {id(p) for group in build_optimiser(model, recipe).param_groups for p in group["params"]}
    assert trained == {id(p) for name, p in model.named_parameters() if rows[name].group is not None}
    text = str(table)
    assert "from epoch 3 on" in text
    assert text.splitlines()[0].split()[-1] == "frozen"
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    count = sum(size for name, size in sizes.items() if rows[name].group)
    assert text.splitlines()[-1] == f"{count:,} of {sum(sizes.values()):,} numbers are trained"


# steps


def test_after_a_step_that_the_loss_scaler_skips_sgd_steps_as_usual():
    recipe = Recipe(optimiser="sgd", learning_rate=0.1, momentum=0.9, precision="fp16")
    model = classifier()
    parameters = list(model.parameters())
    optimiser, scaler = build_optimiser(model, recipe), torch.amp.GradScaler("cpu")
    before = [p.detach().clone() for p in parameters]
    for gradient in (torch.inf, 1.0, 1.0):
        scaler.scale(torch.ones(()))
        for p in parameters:
            p.grad = torch.full_like(p, gradient) * scaler.get_scale()
        scaler.step(optimiser)
        scaler.update()
    for p, old in zip(parameters, before, strict=True):
        torch.testing.assert_close(p.detach(), old - 0.1 * (1 + 1.9))


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_what_thaws_later_in_a_group_starts_to_step_then(optimiser):
    recipe = Recipe(optimiser=optimiser, thaw=((2, "backbone"), (1, "backbone.layers.13")))
    model = classifier()
    freezer, steps = Freezer(model, recipe), build_optimiser(model, recipe)
    for epoch in range(3):
        freezer.train(epoch)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        for p in model.parameters():
            p.grad = torch.ones_like(p) if p.requires_grad else None
        steps.step()
        moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert moved == {name for name, p in model.named_parameters() if p.requires_grad}


# freezing and thawing


def test_parts_thaw_one_after_the_other_with_their_batch_norms():
    model = classifier()
    freezer = Freezer(model, Recipe(thaw=((3, "backbone"), (1, "backbone.layers.13"))))
    for epoch, trained in enumerate([("head",), ("head", "backbone.layers.13"), ("head", "backbone.layers.13"), ("",)]):
        freezer.train(epoch)
        wanted = {name for name, p in model.named_parameters() if p.requires_grad}
        assert wanted == {name for name, _ in model.named_parameters() if name.startswith(trained)}
        modes = {name: m.training for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
        assert modes == {name: name.startswith(trained) for name in modes}


def test_the_longest_name_decides_what_stays_frozen():
    model = classifier()
    freezer = Freezer(model, Recipe(frozen=("backbone.layers.2",), thaw=((1, "backbone"),)))
    freezer.train(5)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name in dict(model.named_parameters()) if name.startswith("backbone.layers.2.")}
    with freezer():
        pass
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(thaw=((1, "neck"),)), "freezes 'neck', and the model has no such part"),
        (Recipe(thaw=((1, "backbone"), (1, "head"))), "nothing is left to train"),
        (Recipe(frozen=("backbone",), thaw=((1, "backbone"),)), "name a part twice: backbone, backbone"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(recipe, message):
    with pytest.raises(ValueError, match=message):
        Freezer(classifier(), recipe)
