import functools
import math

import numpy as np
import pytest
import torch

from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.metric import Metric, compute_metrics, direction_of, find_metrics
from hccvision.registry import METRICS

CLASSES = ("normal", "cancer")


@pytest.fixture
def comparison():
    return Comparison([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], [0, 0, 1], classes=CLASSES)


def errors(comparison, *, weight=1.0):
    return weight * float((comparison.calls != comparison.class_ids).sum())


# one metric


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, {"mine": 0.5}),
        (1, {"mine": 1.0}),
        (np.float32(0.5), {"mine": 0.5}),
        (torch.tensor(0.5), {"mine": 0.5}),
        (Figure(0.5, count=2), {"mine": 0.5}),
        ({"a": 0.5, "b": Figure.number(2)}, {"a": 0.5, "b": 2}),
    ],
)
def test_what_a_metric_returns_becomes_figures(comparison, value, expected):
    found = Metric("mine", lambda c: value)(comparison)
    assert found == expected
    assert all(type(figure) is Figure for figure in found.values())


def test_a_figure_keeps_what_it_knows_and_a_bare_nan_gets_a_reason(comparison):
    assert repr(Metric("mine", lambda c: Figure.share(1, 3))(comparison)["mine"]) == repr(Figure.share(1, 3))
    found = Metric("mine", lambda c: {"a": math.nan, "b": Figure.undefined("no lesion")})(comparison)
    assert (found["a"].reason, found["b"].reason) == ("a is undefined for these cases", "no lesion")


@pytest.mark.parametrize("value", [None, "high", {"a": [1, 2]}])
def test_anything_but_numbers_is_refused(comparison, value):
    with pytest.raises(TypeError, match=r"the metric 'mine' returned .*: expected a number, a Figure, or a mapping"):
        Metric("mine", lambda c: value)(comparison)


def test_options_are_passed_on_and_checked(comparison):
    metric = Metric("errors", errors)
    assert metric(comparison) == {"errors": 1.0}
    assert metric.with_options(weight=2)(comparison) == {"errors": 2.0}
    assert (metric.settings, metric.with_options(weight=2).settings) == ({"weight": 1.0}, {"weight": 2})
    with pytest.raises(TypeError, match=r"the metric 'errors'.*wait.*its options are: weight"):
        metric.with_options(wait=2)
    with pytest.raises(TypeError, match="missing a required argument"):
        Metric("strict", lambda c, *, must: must)
    assert len({metric, Metric("errors", errors)}) == 1


def test_directions_are_of_the_figures_of_the_metric():
    metric = Metric("errors", errors, higher_is_better=False)
    directions = [metric.direction(name) for name in ("errors", "errors/cancer", "froc", "errors_50")]
    assert directions == [False, False, None, None]
    several = Metric("several", errors, higher_is_better={"tp": True, "fp": False})
    assert [several.direction(name) for name in ("tp", "fp", "fp/hcc", "fn", "several")] == [
        True, False, False, None, None,
    ]  # fmt: skip
    assert Metric("errors", errors).direction("errors") is None
    metrics = find_metrics(["froc", "detection_counts", "sensitivity_by_size"], "detection")
    assert direction_of("froc/0.5", metrics) is True
    assert direction_of("sensitivity/0-10 %", metrics) is True
    assert direction_of("fn", metrics) is False
    assert direction_of("lesions/0-10 %", metrics) is None
    assert direction_of("loss", metrics) is None


# looking metrics up


def test_metrics_are_found_by_name_object_function_and_mapping():
    errors.higher_is_better = False
    metric = Metric("mine", errors, higher_is_better=True)
    found = find_metrics(["f1", metric, errors, {"roc_auc": {}, errors: {"weight": 2}}], "classification")
    assert [m.name for m in found] == ["f1", "mine", "errors", "roc_auc", "errors"]
    assert [m.higher_is_better for m in found] == [True, True, False, True, False]
    assert found[1] is metric
    assert found[4].options == {"weight": 2}
    for alone in ("f1", metric, errors):
        assert len(find_metrics(alone)) == 1
    assert find_metrics({"froc": {"iou_threshold": 0.3}}, "detection")[0].settings["iou_threshold"] == 0.3
    assert find_metrics({"froc": None}, "detection")[0].options == {}
    assert find_metrics({metric: {"weight": 3}})[0].options == {"weight": 3}
    assert find_metrics(functools.partial(errors, weight=2))[0].name == "errors"
    del errors.higher_is_better
    assert find_metrics(errors)[0].direction("errors") is None
    assert find_metrics([]) == []


def test_unknown_metrics_and_those_of_another_task_are_refused():
    with pytest.raises(KeyError, match=r"unknown metric 'voc_mao'; did you mean 'voc_map'.*coco_map"):
        find_metrics(["voc_map", "voc_mao"], "detection")
    with pytest.raises(ValueError, match=r"'roc_auc' is for classification, and this model does detection.*coco_map"):
        find_metrics(["roc_auc"], "detection")
    with pytest.raises(ValueError, match=r"'froc' is for detection, and this model does classification.*roc_auc"):
        find_metrics({"froc": {}}, "classification")
    with pytest.raises(ValueError, match=r"'mine' is for detection, and this model does multilabel.*multilabel_f1"):
        find_metrics(Metric("mine", errors, task="detection"), "multilabel")
    with pytest.raises(TypeError, match=r"the metric 'froc'.*iou.*its options are: iou_threshold, rates"):
        find_metrics({"froc": {"iou": 0.3}}, "detection")
    with pytest.raises(TypeError):
        find_metrics(3, "detection")


def test_a_registered_function_stays_a_function(comparison, monkeypatch):
    for table in ("_builders", "_tags"):
        monkeypatch.setattr(METRICS, table, dict(getattr(METRICS, table)))
    assert METRICS.register("errors", task="classification", higher_is_better=False)(errors) is errors
    metric = find_metrics(["errors"], "classification")[0]
    assert (metric.task, metric.direction("errors"), metric(comparison)) == ("classification", False, {"errors": 1.0})


# several metrics


def test_figures_of_several_metrics_stand_in_order(comparison):
    found = compute_metrics(find_metrics(["f1", "confusion", errors]), comparison)
    assert list(found)[:3] == ["f1", "tp", "fn"]
    assert list(found)[-1] == "errors"


def test_two_values_under_one_name_are_refused(comparison):
    other = Metric("other", lambda c: {"f1": 0.123})
    with pytest.raises(ValueError, match=r"'f1' and 'other' give different values for 'f1', 0\.6667 and 0\.1230"):
        compute_metrics([*find_metrics(["f1"]), other], comparison)
    undefined = Metric("other", lambda c: {"f1": math.nan})
    with pytest.raises(ValueError, match="different values for 'f1'"):
        compute_metrics([*find_metrics(["f1"]), undefined], comparison)
    assert len(compute_metrics([undefined, undefined], comparison)) == 1
