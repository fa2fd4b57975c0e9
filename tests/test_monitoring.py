"""The monitored figure: its direction decides which epoch is the best, and an unclear one is refused."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from small_trainings import classifier, detector, write_slices

from hccvision.metrics.metric import Metric, find_metrics
from hccvision.recipes import Recipe
from hccvision.registry import METRICS
from hccvision.training.engine import fit
from hccvision.training.history import History
from hccvision.training.monitoring import Monitor

STILL = Recipe(optimiser="sgd", learning_rate=1e-30, momentum=0.0, epochs=4, batch=4)  # changes no weight


@pytest.fixture
def slices(tmp_path):
    return write_slices(tmp_path / "slices", 3)


def scripted(values, **facts):
    """Metric whose figures follow a script, epoch by epoch."""
    values = iter(values)
    return Metric("scripted", lambda comparison: next(values), **facts)


def train(metric, slices, monitor="val_scripted", build=classifier, **options):
    recipe = replace(STILL, monitor=monitor)
    return fit(build(), slices, slices, recipe=recipe, metrics=[metric], device="cpu", **options)


@pytest.mark.parametrize(
    ("direction", "values", "best"),
    [
        (True, [0.2, 0.9, 0.9, 0.5], 1),
        (False, [0.2, 0.9, 0.1, 0.1], 2),
        ({"scripted": False}, [0.2, 0.9, 0.1, 0.1], 2),
        (True, [math.nan, 0.1, math.nan, 0.05], 1),
        (False, [math.nan, 0.1, math.nan, 0.05], 3),
        (True, [0.5, math.nan, math.inf, 0.1], 2),
        (True, [math.nan] * 4, 0),
    ],
)
def test_the_direction_of_the_metric_chooses_the_best_epoch(direction, values, best, slices):
    history = train(scripted(values, higher_is_better=direction), slices)
    assert history.best == best
    assert history["val_scripted"] == pytest.approx(values, nan_ok=True)


def test_a_function_states_its_direction_by_an_attribute(slices):
    values = iter([0.5, 0.2, 0.3, 0.4])

    def errors(comparison):
        return next(values)

    errors.higher_is_better = False
    assert train(errors, slices, "val_errors").best == 1


def test_a_figure_below_a_metrics_name_has_its_direction(slices):
    history = train("voc_map", slices, "val_voc_map/hcc", detector)
    assert len(history) == 4
    assert Monitor("val_voc_map/hcc", find_metrics("voc_map")).higher_is_better
    assert not Monitor("val_fp", find_metrics("detection_counts")).higher_is_better


def test_a_metric_without_direction_is_refused_before_training_where_the_name_tells(slices, tmp_path):
    for monitor in ("val_scripted", "val_scripted/hcc"):
        with pytest.raises(ValueError, match=f"monitors '{monitor}', and its metric doesn't state whether higher is"):
            train(scripted([]), slices, monitor, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_figure_without_direction_is_refused_after_the_first_epoch(slices, tmp_path):
    values = iter([{"other": 0.1}] * 4)
    steps = []
    hook = SimpleNamespace(on_step=lambda step, losses, model: steps.append(step))
    metric = Metric("scripted", lambda comparison: next(values), higher_is_better=True)
    with pytest.raises(ValueError, match="monitors 'val_other', and its metric doesn't state whether higher is better"):
        train(metric, slices, "val_other", run=tmp_path / "run", hooks=[hook])
    assert steps == [1]
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_a_figure_that_is_not_there_is_refused_with_those_that_are(slices):
    with pytest.raises(ValueError, match=r"monitors 'val_mAP', which is not in the history; it has: epoch,.*voc_map"):
        train("voc_map", slices, "val_mAP", detector)
    with pytest.raises(ValueError, match=r"monitors 'train_los'.*train_loss, train_classification$"):
        fit(classifier(), slices, recipe=replace(STILL, monitor="train_los"), device="cpu")


@pytest.mark.parametrize("monitor", ["val_loss", "val_regression", "val_classification", "train_regression"])
def test_a_loss_or_a_part_of_it_is_best_when_lowest(monitor, slices):
    recipe = Recipe(optimiser="sgd", learning_rate=0.1, epochs=6, batch=2, monitor=monitor)
    history = fit(detector(), slices, slices, recipe=recipe, metrics=[], device="cpu")
    values = history[monitor]
    assert len(set(values)) > 1
    assert history.best == values.index(min(values))


def test_a_metric_named_as_a_part_of_the_loss_decides_by_its_own_direction(slices):
    name, values = "val_classification", iter([0.2, 0.9, 0.1, 0.1])
    history = train(Metric("classification", lambda comparison: next(values), higher_is_better=True), slices, name)
    assert history.best == 1


def test_without_validation_data_the_newest_epoch_is_best_and_a_training_loss_can_be_monitored(slices):
    assert fit(classifier(), slices, recipe=STILL, device="cpu").best == 3
    recipe = Recipe(optimiser="sgd", learning_rate=0.5, epochs=6, batch=2, monitor="train_loss")
    history = fit(classifier(), slices, recipe=recipe, device="cpu")
    assert history.best == history["train_loss"].index(min(history["train_loss"]))


@pytest.mark.parametrize("higher", [True, False])
def test_an_undefined_figure_is_never_better_than_another(higher):
    history = History()
    values = [math.nan, math.nan, 0.5, math.nan, 0.5, math.nan]
    better = [history.add({"val_x": value}, "val_x", higher_is_better=higher) for value in values]
    assert better == [True, False, True, False, False, False]
    assert history.best == 2


def test_a_registered_metric_states_its_direction_as_a_tag(slices, monkeypatch):
    values = iter([0.5, 0.2, 0.3, 0.4])
    monkeypatch.setattr(METRICS, "_builders", dict(METRICS._builders))
    monkeypatch.setattr(METRICS, "_tags", dict(METRICS._tags))

    @METRICS.register("my_errors", task="classification", higher_is_better=False)
    def my_errors(comparison):
        return next(values)

    assert train("my_errors", slices, "val_my_errors").best == 1
