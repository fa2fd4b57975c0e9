"""Predictors compared on the same samples."""

import json

import numpy as np
import pytest
import torch

import hccvision as hv
from hccvision.comparing import cost_of

CLASSES = ["normal", "cancer"]


def samples(n=40, patients=True):
    return [hv.Sample(f"{i}.png", f"P{i // 2}" if patients else None, class_name=CLASSES[i // 2 % 2]) for i in range(n)]


def predictions(values):
    return [hv.Prediction(f"{i}.png", torch.tensor([1 - p, p])) for i, p in enumerate(values)]


def noisy(seed, signal, n=40):
    rng = np.random.default_rng(seed)
    truth = np.arange(n) // 2 % 2
    return predictions(np.clip(0.5 + signal * (truth - 0.5) + rng.normal(0, 0.3, n), 0.001, 0.999).astype(np.float32))


def compare(candidates, **options):
    fast = {"permutations": 200, "resamples": 200} | options
    return hv.compare(candidates, samples(), classes=CLASSES, task="classification", **fast)


def test_the_better_one_is_found_and_the_table_tells_all():
    table = compare({"good": noisy(0, 0.9), "bad": noisy(1, 0.1), "same": noisy(0, 0.9)}, test=["roc_auc"])
    assert table.better("good", "bad", "roc_auc")
    assert not table.better("bad", "good", "roc_auc")
    assert not table.better("good", "same", "roc_auc")
    assert table.tests["good", "same", "roc_auc"].p_value == 1
    for (first, second, name), test in table.tests.items():
        assert test.difference == pytest.approx(table.figures[first][name] - table.figures[second][name])
        assert table.adjusted[first, second, name] >= test.p_value
    report = hv.score(noisy(0, 0.9), samples(), classes=CLASSES, task="classification", resamples=200)
    assert {n: (float(f), f.interval) for n, f in table.figures["good"].items()} == {
        n: (float(f), f.interval) for n, f in report.figures.items()
    }
    text = str(table)
    assert "good - bad, roc_auc" in text
    assert "40 images" in text
    assert json.loads(json.dumps(table.to_dict(), allow_nan=False))["images"] == 40
    with pytest.raises(KeyError, match="good - bad, roc_auc"):
        table.better("good", "bad", "f1")


def test_several_trainings_are_averaged_and_widen_the_interval():
    steady = {"a": [noisy(s, 0.6) for s in range(3)], "b": [noisy(s + 10, 0.4) for s in range(3)]}
    table = compare(steady, test="roc_auc")
    each = [hv.score(p, samples(), classes=CLASSES, task="classification", resamples=0)["roc_auc"] for p in steady["a"]]
    assert table.trainings == 3
    assert table.figures["a"]["roc_auc"] == pytest.approx(np.mean(each))
    assert table.figures["a"]["roc_auc"].method == f"standard deviation {np.std(each, ddof=1):.4f}"
    varied = {"a": [noisy(0, x) for x in (0.1, 0.5, 1.2)], "b": steady["b"]}
    wide, narrow = (
        np.ptp(t.tests["a", "b", "roc_auc"].difference.interval) for t in (compare(varied, test="roc_auc"), table)
    )
    assert wide > narrow


def test_models_and_recorded_predictions_are_compared_with_their_costs(tmp_path):
    data = hv.read_voc_folder(hv.phantom.write_dataset(tmp_path / "liver", patients=3, slices=1, seed=0))
    small = {"backbone_options": {"width": 0.25}}
    model = hv.build_model("mobilenet_v1", "ssd", classes=["hcc"], image_size=96, **small)
    recorded = hv.predict(model, [s.path for s in data], device="cpu")
    table = hv.compare({"model": model, "file": recorded}, data, device="cpu", permutations=20, resamples=20)
    assert table.figures["model"]["voc_map"] == table.figures["file"]["voc_map"]
    assert table.costs["model"].parameters == sum(p.numel() for p in model.parameters())
    assert table.costs["model"].milliseconds > 0
    assert table.costs["file"] == cost_of(None)
    assert "–" in str(table)


def test_operations_are_those_of_the_layers():
    class Two(torch.nn.Module):
        image_size, in_channels = (8, 6), 3

        def __init__(self):
            super().__init__()
            self.conv, self.linear = torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.Linear(5, 2)

        def forward(self, x):
            return self.linear(self.conv(x).mean((2, 3)))

    cost = cost_of(Two())
    assert cost.macs == 8 * 6 * 5 * 3 * 9 + 5 * 2
    assert cost.parameters == 3 * 5 * 9 + 5 + 5 * 2 + 2


def test_images_that_one_could_not_predict_are_left_out_for_all(capsys):
    broken = noisy(0, 0.9)
    broken[3] = hv.Prediction("3.png", error="3.png: can't be read")
    with pytest.raises(ValueError, match=r"1 of 40 images .* b: 3.png: can't be read"):
        compare({"a": noisy(0, 0.9), "b": broken})
    table = compare({"a": noisy(0, 0.9), "b": broken}, on_problem="skip")
    assert table.images == 39
    assert table.figures["a"] == table.figures["b"]
    assert "skipped for all: b: 3.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("candidates", "options", "message"),
    [
        ({"a": noisy(0, 1)}, {}, "at least two candidates"),
        ({"a": [noisy(0, 1), noisy(1, 1)], "b": noisy(0, 1)}, {}, "as many trainings"),
        ({"a": noisy(0, 1), "b": []}, {}, "as many trainings"),
        ({"a": noisy(0, 1), "b": noisy(0, 1)[:-1]}, {}, "have no prediction"),
        ({"a": noisy(0, 1), "b": noisy(0, 1)}, {"test": ["map"]}, "can't test 'map'"),
    ],
)
def test_what_cannot_be_compared_is_refused(candidates, options, message):
    with pytest.raises(ValueError, match=message):
        compare(candidates, **options)


def test_predictions_alone_need_classes_and_task():
    with pytest.raises(ValueError, match="classes= and task="):
        hv.compare({"a": noisy(0, 1), "b": noisy(1, 1)}, samples())
