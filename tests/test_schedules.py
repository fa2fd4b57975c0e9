"""Learning-rate schedules: equal to torch's, and one of your own in one definition."""

import math
from dataclasses import replace

import pytest
import torch
from small_trainings import classifier, write_slices
from torch import nn

from hccvision.recipes import Recipe
from hccvision.registry import SCHEDULES
from hccvision.training.engine import fit
from hccvision.training.optimisers import build_optimiser, set_learning_rates
from hccvision.training.schedules import Progress, rate_factor

RATES = Recipe(optimiser="sgd", learning_rate=1e-3, head_learning_rate=1e-2, epochs=7)


def twins(recipe):
    """An optimiser of ours, and one of torch's own with the same two rates."""
    theirs = torch.optim.SGD(
        [
            {"params": [nn.Parameter(torch.zeros(()))], "lr": recipe.learning_rate},
            {"params": [nn.Parameter(torch.zeros(()))], "lr": recipe.head_learning_rate},
        ]
    )
    return build_optimiser(classifier(), recipe), theirs


@pytest.mark.parametrize(
    ("recipe", "scheduler"),
    [
        (RATES, lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0)),
        (replace(RATES, schedule="cosine"), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=7)),
        (
            replace(RATES, schedule="step", step_epochs=3, step_factor=0.2),
            lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=3, gamma=0.2),
        ),
    ],
)
def test_rates_by_epoch_are_those_of_torch(recipe, scheduler):
    ours, theirs = twins(recipe)
    schedule = scheduler(theirs)
    for epoch in range(recipe.epochs):
        for step in range(4):
            set_learning_rates(ours, rate_factor(recipe, epoch, step, 4))
            assert [g["lr"] for g in ours.param_groups] == pytest.approx([g["lr"] for g in theirs.param_groups])
        theirs.step()
        schedule.step()


@pytest.mark.parametrize(("epochs", "steps", "rise"), [(7, 4, 0.3), (2, 5, 0.5), (1, 20, 0.1), (3, 1, 0.34)])
def test_one_cycle_is_torchs_own(epochs, steps, rise):
    recipe = replace(RATES, schedule="onecycle", epochs=epochs, rise=rise)
    ours, theirs = twins(recipe)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        theirs, max_lr=[1e-3, 1e-2], total_steps=epochs * steps, pct_start=rise, cycle_momentum=False
    )
    for epoch in range(epochs):
        for step in range(steps):
            set_learning_rates(ours, rate_factor(recipe, epoch, step, steps))
            expected = [g["lr"] for g in theirs.param_groups]
            assert [g["lr"] for g in ours.param_groups] == pytest.approx(expected, rel=1e-9), (epoch, step)
            theirs.step()
            if epoch * steps + step + 1 < epochs * steps:
                schedule.step()


def test_one_cycle_of_a_single_step_is_finite():
    recipe = replace(RATES, schedule="onecycle", epochs=1)
    assert 0 < rate_factor(recipe, 0, 0, 1) <= 1


def test_a_warm_up_leaves_the_rest_of_the_schedule_as_it_is():
    recipe = replace(RATES, schedule="cosine", warmup=2.0)
    plain = replace(recipe, warmup=0.0)
    factors = [rate_factor(recipe, epoch, step, 5) for epoch in range(7) for step in range(5)]
    expected = [rate_factor(plain, epoch, step, 5) for epoch in range(7) for step in range(5)]
    assert factors[9:] == expected[9:]
    assert factors[:10] == pytest.approx([(i + 1) / 10 * e for i, e in enumerate(expected[:10])])


# schedules of one's own


@pytest.fixture
def slices(tmp_path):
    return write_slices(tmp_path / "slices")


@pytest.fixture
def own_schedules(monkeypatch):
    """Forget, at the end of the test, what it registers."""
    SCHEDULES.names()
    monkeypatch.setattr(SCHEDULES, "_builders", dict(SCHEDULES._builders))
    monkeypatch.setattr(SCHEDULES, "_tags", dict(SCHEDULES._tags))


def test_a_registered_schedule_is_one_definition(slices, tmp_path, own_schedules):
    @SCHEDULES.register("square_root")
    def square_root(recipe, progress, *, power=0.5):
        return (1 + progress.epoch * progress.steps + progress.step) ** -power

    recipe = replace(RATES, epochs=2, batch=4, schedule="square_root", schedule_options={"power": 1.0})
    history = fit(classifier(), slices, recipe=recipe, run=tmp_path / "run", device="cpu")  # two steps an epoch
    assert history["learning_rate"] == pytest.approx([1e-2 / 2, 1e-2 / 4])
    assert rate_factor(replace(recipe, schedule_options={}), 1, 1, 2) == pytest.approx(0.5)
    assert len(fit(classifier(), slices, recipe=recipe, run=tmp_path / "run", resume=True, device="cpu")) == 2
    other = replace(recipe, schedule_options={"power": 2.0})
    with pytest.raises(ValueError, match=r"another recipe \(schedule_options: \{'power': 1.0\} then, \{'power': 2"):
        fit(classifier(), slices, recipe=other, run=tmp_path / "run", resume=True, device="cpu")


def test_a_schedule_given_as_a_callable_is_asked_at_every_step(slices):
    asked = []

    def halve(recipe, progress, **options):
        asked.append((progress, options))
        return 0.5**progress.epoch

    recipe = replace(RATES, epochs=3, batch=4, schedule=halve, schedule_options={"note": 1}, warmup=1.0)
    history = fit(classifier(), slices, recipe=recipe, device="cpu")
    expected = [Progress(epoch, step, 2, 3) for epoch in range(3) for step in range(2)]
    assert asked == [(progress, {"note": 1}) for progress in expected]
    assert history["learning_rate"] == pytest.approx([1e-2, 5e-3, 2.5e-3])


def test_a_schedule_that_warms_up_by_itself_states_it_as_a_tag(own_schedules):
    SCHEDULES.register("ramp", warms_up=True)(lambda recipe, progress: 1.0)
    assert Recipe(schedule="ramp").warmup == 0
    with pytest.raises(ValueError, match="the schedule 'ramp' has its own warm-up: set warmup=0"):
        Recipe(schedule="ramp", warmup=1.0)


@pytest.mark.parametrize("schedule", SCHEDULES.names())
def test_every_schedule_stays_between_zero_and_the_highest_rate(schedule):
    recipe = replace(RATES, schedule=schedule)
    factors = [rate_factor(recipe, epoch, step, 5) for epoch in range(recipe.epochs) for step in range(5)]
    assert all(0 <= factor <= 1 + 1e-12 and math.isfinite(factor) for factor in factors)
    assert max(factors) > 0.99
