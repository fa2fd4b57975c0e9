"""A training that leaves the numbers ends with an error, and what it saved before stays good."""

from dataclasses import replace

import pytest
import torch
from small_trainings import classifier, detector, write_slices
from torch import nn

import hccvision as hv
from hccvision.model.build import load_model
from hccvision.recipes import Recipe
from hccvision.training.engine import fit

RECIPE = Recipe(optimiser="sgd", learning_rate=1e-3, epochs=2, batch=4)


@pytest.fixture
def data(tmp_path):
    return write_slices(tmp_path / "data", 8)


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("more", [{}, {"batch": 8, "epochs": 1}, {"ema": 0.9}, {"accumulate": 2}, {"clip_norm": 1.0}])
@pytest.mark.parametrize("build", [classifier, detector])
def test_a_learning_rate_out_of_all_bounds_ends_in_an_error(tmp_path, data, build, optimiser, more):
    recipe = replace(RECIPE, optimiser=optimiser, learning_rate=1e38, **more)
    with pytest.raises(FloatingPointError, match=r"in epoch 1.*step \d"):
        fit(build(), data, recipe=recipe, run=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_the_best_epoch_stays_valid(tmp_path, data):
    recipe = replace(RECIPE, schedule=lambda recipe, progress: 1.0 if progress.epoch < 1 else 1e38)
    with pytest.raises(FloatingPointError, match=r"in epoch 2.*step \d"):
        fit(classifier(), data, data, recipe=recipe, run=tmp_path / "run", device="cpu")
    model = load_model(tmp_path / "run" / "best.safetensors")
    assert hv.evaluate(model, data, device="cpu")["balanced_accuracy"] >= 0


@pytest.mark.parametrize("more", [{}, {"accumulate": 2}, {"clip_norm": 1.0}])
def test_a_gradient_that_is_not_a_number_changes_no_weight(data, more):
    model = classifier()
    before = {name: value.clone() for name, value in model.named_parameters()}
    weight = model.head.layers[-1].weight
    weight.register_hook(lambda gradient: gradient * torch.nan)
    expected = r"gradient is infinite or NaN \(head\.layers.*\) in epoch 1, step 1, on the batch of .*slice_"
    with pytest.raises(FloatingPointError, match=expected):
        fit(model, data, recipe=replace(RECIPE, **more), device="cpu")
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_batch_norm_statistics_are_looked_at_before_a_save(tmp_path, data):
    model = classifier()

    class Spoil:
        def on_step(self, step, losses, model):
            model.backbone.layers[0][1].running_var.fill_(torch.inf)

    with pytest.raises(
        FloatingPointError, match=r"weights became infinite.*epoch 1, by step 2 \(backbone.*running_var"
    ):
        fit(model, data, recipe=RECIPE, run=tmp_path / "run", device="cpu", hooks=[Spoil()])
    assert not list((tmp_path / "run").glob("*.safetensors"))
    with pytest.raises(FloatingPointError, match=r"epoch 1, by step 1"):
        fit(classifier(), data, recipe=RECIPE, run=tmp_path / "r2", device="cpu", hooks=[Spoil()], save_every=1)
    assert not (tmp_path / "r2" / "state.pt").exists()


def test_an_output_of_validation_that_is_not_finite_is_named(data):
    class Spoil:
        def on_step(self, step, losses, model):
            decode = model.head.decode
            model.head.decode = lambda output, **options: decode(output, **options) * torch.nan

    with pytest.raises(FloatingPointError, match=r"validation in epoch 1: .*slice_0.png: the model's output is not"):
        fit(classifier(), data, data, recipe=RECIPE, device="cpu", hooks=[Spoil()])


def test_fp16_gives_up_after_many_skipped_steps(data):
    from types import SimpleNamespace

    from hccvision.training.stepper import MAX_SKIPPED, Stepper

    processes = SimpleNamespace(optimizer_step_was_skipped=True)
    state = SimpleNamespace(epoch=0, step=4)
    step = Stepper(SimpleNamespace(processes=processes), None, None, state)
    for _ in range(MAX_SKIPPED - 1):
        step._count_skipped(data)
    with pytest.raises(FloatingPointError, match=rf"in {MAX_SKIPPED} steps in a row, up to epoch 1, step 5"):
        step._count_skipped(data)
    processes.optimizer_step_was_skipped = False
    step._count_skipped(data)
    assert step.skipped == 0


def test_gradients_that_torch_left_unset_in_bf16_count_as_zero():
    from types import SimpleNamespace

    from hccvision.training.stepper import Stepper

    layer = nn.Linear(2, 2)
    layer.weight.grad = torch.tensor([[torch.nan, torch.inf], [1e20, 0.5]])
    for precision, expected in (("fp32", layer.weight.grad.clone()), ("bf16", torch.tensor([[0.0, 0.0], [0.0, 0.5]]))):
        setup = SimpleNamespace(recipe=SimpleNamespace(precision=precision), model=layer)
        Stepper(setup, None, None, SimpleNamespace())._reset_unset_gradients()
        assert torch.equal(layer.weight.grad.nan_to_num(), expected.nan_to_num())
