"""What fails in a training or a prediction says where, keeps its type, and is found as early as it can be."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small_trainings import classifier, detector, write_slices

import hccvision as hv
from hccvision.contracts.batches import Loss
from hccvision.contracts.errors import noted
from hccvision.contracts.samples import Problem, Sample
from hccvision.images.formats.image_format import ImageFormat
from hccvision.metrics.metric import Metric
from hccvision.recipes import Recipe
from hccvision.registry import IMAGE_FORMATS
from hccvision.training.batches import cut
from hccvision.training.engine import fit
from hccvision.training.processes import on_main
from hccvision.training.single_images import smallest_batch

RECIPE = Recipe(optimiser="sgd", learning_rate=1e-3, epochs=1, batch=2)


@pytest.fixture
def data(tmp_path):
    return write_slices(tmp_path / "data", 5)


def said(error):
    """The message of an error with its notes."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


def with_head(**methods):
    model = classifier()
    for name, method in methods.items():
        setattr(model.head, name, partial(method, getattr(model.head, name)))
    return model


# a note keeps the error as it is


def test_a_note_is_added_once_and_to_errors_only():
    for where in ("here", lambda: "here"):
        with pytest.raises(KeyError) as caught, noted(where), noted("here"):
            raise KeyError("a")
        assert type(caught.value) is KeyError
        assert said(caught.value).count("here") == 1
    with pytest.raises(ValueError, match="it is here") as caught, noted("here"):
        raise ValueError("it is here")
    assert said(caught.value) == "it is here"
    with pytest.raises(KeyboardInterrupt), noted("here"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", [ValueError, OSError, torch.OutOfMemoryError, RuntimeError, StopIteration])
def test_an_error_in_a_step_names_epoch_step_and_files_and_keeps_its_type(data, kind):
    def fails(_, maps):
        raise kind("of the head")

    with pytest.raises(kind) as caught:
        fit(with_head(forward=fails), data, recipe=RECIPE, device="cpu")
    assert "of the head" in said(caught.value)
    assert "in epoch 1, step 1, on the batch of " in said(caught.value)
    assert said(caught.value).count("slice_") == 2
    if kind is torch.OutOfMemoryError:
        assert "set a larger accumulate or a smaller batch" in said(caught.value)


def test_an_error_in_a_hook_names_the_hook_and_does_not_hide_the_first_one(data, capsys):
    hook = SimpleNamespace(on_step=lambda *_: 1 / 0, on_end=lambda *_: {}["a"])
    with pytest.raises(ZeroDivisionError) as caught:
        fit(classifier(), data, recipe=RECIPE, hooks=[hook], device="cpu")
    assert "in on_step of the hook SimpleNamespace" in said(caught.value)
    assert "on_end failed as well: KeyError" in capsys.readouterr().out
    with pytest.raises(KeyError):
        fit(classifier(), data, recipe=RECIPE, hooks=[SimpleNamespace(on_end=hook.on_end)], device="cpu")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda images, targets, _: (images * torch.nan, targets), "returned images with infinite numbers or NaN"),
        (lambda images, targets, _: (images[..., :9], targets), r"expected images \(2, 3, 64, 64\)"),
        (lambda images, targets, _: (images[:1], targets), r"got images \(1, 3, 64, 64\)"),
        (lambda images, targets, _: (images, targets.take(torch.tensor([0]))), "the targets of 2 images"),
        (lambda images, targets, _: None, "got NoneType: return both"),
        (lambda images, targets, _: [images], "got Tensor: return both"),
        (lambda images, targets, _: ((images * 255).byte(), targets), "returned images"),
    ],
)
def test_what_an_augmentation_returns_is_checked(data, broken, message):
    recipe = Recipe(optimiser="sgd", epochs=1, batch=2, augmentation=broken)
    with pytest.raises((ValueError, TypeError), match=message):
        fit(classifier(), data[:2], recipe=recipe, device="cpu")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda _, out, *__, **___: Loss({"a": out.sum(1)}, torch.tensor(1.0)), "one scalar tensor per part"),
        (lambda _, out, *__, **___: Loss({}, torch.tensor(1.0)), "one scalar tensor per part"),
        (lambda _, out, *__, **___: Loss({"a": 1.0}, torch.tensor(1.0)), "one scalar tensor per part"),
        (lambda _, out, *__, **___: Loss({"a": out.sum()}, 3), "a scalar count"),
        (lambda _, out, *__, **___: Loss({"a": out.sum().detach()}, torch.tensor(1.0)), "depends on no weight"),
    ],
)
def test_what_a_loss_returns_is_checked(data, loss, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fit(with_head(loss=loss), data, recipe=RECIPE, device="cpu")


@pytest.mark.parametrize("value", [None, "a", "0.5", b"1", 1j, [1.0], np.zeros(3)])
def test_a_metric_that_returns_no_number_is_named(value):
    with pytest.raises(TypeError, match="the metric 'mine' returned"):
        Metric("mine", lambda _: value)(None)


def test_a_validation_that_fails_loses_no_step(data, tmp_path):
    failing = [True]

    def fragile(comparison):
        if failing[0]:
            raise ZeroDivisionError("not yet")
        return 0.5

    mine, run = Metric("mine", fragile, higher_is_better=True), tmp_path / "run"
    train = partial(fit, train=data, val=data, recipe=RECIPE, run=run, device="cpu", metrics=[mine])
    with pytest.raises(ZeroDivisionError) as caught:
        train(classifier())
    assert "in the metric 'mine'" in said(caught.value)
    assert "in the validation of epoch 1" in said(caught.value)
    failing[0] = False
    steps = []
    resumed, plain = classifier(), classifier()
    train(resumed, resume=True, hooks=[SimpleNamespace(on_step=lambda step, *_: steps.append(step))])
    assert steps == []
    fit(plain, data, data, recipe=RECIPE, device="cpu", metrics=[mine])
    assert all(a.equal(b) for a, b in zip(resumed.state_dict().values(), plain.state_dict().values(), strict=True))


# before the first step


@pytest.fixture
def steps():
    return []


@pytest.fixture
def hook(steps):
    return SimpleNamespace(on_step=lambda step, *_: steps.append(step))


@pytest.mark.parametrize("monitor", ["train_los", "val_voc_mapp", "val_voc_map/hcx", "val_regresion"])
def test_a_monitored_figure_that_will_not_be_there_is_said_before_the_first_step(data, monitor, hook, steps):
    recipe = Recipe(optimiser="sgd", learning_rate=1e-3, epochs=1, batch=2, monitor=monitor)
    with pytest.raises(ValueError, match=rf"monitors '{monitor}', which is not in the history; it has: epoch, "):
        fit(detector(), data, data, recipe=recipe, device="cpu", hooks=[hook])
    assert steps == []


def test_a_missing_file_is_said_before_the_first_step(data, tmp_path, hook, steps):
    lost = Sample(tmp_path / "no.png", class_name="normal")
    for parts in (([*data, lost], data), (data, [*data, lost])):
        with pytest.raises(FileNotFoundError, match=r"no\.png: there is no such image file"):
            fit(classifier(), *parts, recipe=RECIPE, device="cpu", hooks=[hook])
    assert steps == []


class Unsaved(torch.optim.SGD):
    def state_dict(self):
        return {**super().state_dict(), "odd": Path("a")}


def test_a_state_that_cannot_be_read_back_is_said_before_the_first_step(data, tmp_path, hook, steps):
    recipe = Recipe(epochs=1, batch=2, optimiser=lambda groups, _: Unsaved(groups, lr=0.1))
    with pytest.raises(ValueError, match="can't be read back"):
        fit(classifier(), data, recipe=recipe, run=tmp_path / "run", device="cpu", hooks=[hook])
    assert steps == []
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"recipe.json", "run.json", "split.json"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_said_before_the_first_step(data, tmp_path, hook, steps, monkeypatch):
    def full(state, path):
        with Path("/dev/full").open("wb") as file:
            file.write(bytes(10_000))

    monkeypatch.setattr("hccvision.training.checkpoints._save", full)
    with pytest.raises(OSError, match="free disk space"):
        fit(classifier(), data, recipe=RECIPE, run=tmp_path / "run", device="cpu", hooks=[hook])
    assert steps == []


# a single image and batch norms on 1×1 maps


def test_a_last_batch_of_one_image_joins_the_one_before_it():
    assert cut([4, 1, 3, 0, 2], 2, 2) == [[4, 1], [3, 0, 2]]
    assert cut([4, 1, 3, 0], 2, 2) == [[4, 1], [3, 0]]
    assert cut([4], 2, 2) == [[4]]
    assert cut([], 2, 2) == []


def test_a_model_with_such_batch_norms_trains_on_any_number_of_images(data):
    sizes = []
    model = classifier(image_size=32)
    forward = model.head.forward
    model.head.forward = lambda maps: sizes.append(len(maps[-1])) or forward(maps)
    history = fit(model, data, data, recipe=RECIPE, device="cpu")
    assert sizes == [2, 3, 2, 2, 1]  # of training, then of validation
    assert len(history) == 1


def test_split_attention_of_timm(data):
    model = classifier("timm", backbone_options={"model_name": "resnest14d"}, image_size=64)
    assert smallest_batch(model, RECIPE, 5, 1) == 2
    assert smallest_batch(model, RECIPE, 6, 1) == 1  # no batch of one


@pytest.mark.parametrize(
    ("images", "changes", "processes", "expected"),
    [
        (7, {"batch": 3}, 1, 2),
        (7, {"batch": 1}, 1, None),
        (1, {"batch": 4}, 1, None),
        (6, {"batch": 3, "accumulate": 2}, 1, None),  # 2 and 1
        (9, {"batch": 4, "accumulate": 2}, 1, None),  # the last 5 are 3 and 2, and all others 2 and 2
        (6, {"batch": 3}, 2, None),  # 2 and 1
        (8, {"batch": 4}, 2, 1),
        (7, {"batch": 1, "frozen": ("backbone",)}, 1, 1),
    ],
)
def test_shares_of_one_image_are_named_before_the_training(images, changes, processes, expected):
    model, recipe = classifier(image_size=32), Recipe(epochs=1, **changes)
    if expected is None and images != 9:
        with pytest.raises(ValueError, match=rf"can't be trained on a single image, and {images} images in batches of"):
            smallest_batch(model, recipe, images, processes)
    else:
        assert smallest_batch(model, recipe, images, processes) == (expected or 2)
    assert smallest_batch(classifier(image_size=64), recipe, images, processes) == 1
    assert all(module.training for module in model.modules()) == model.training


# prediction and evaluation


def test_an_error_in_a_prediction_names_the_files(data):
    model = with_head(decode=lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        hv.predict(model, [sample.path for sample in data[:2]], device="cpu")
    assert f"while predicting {data[0].path}, {data[1].path}" in said(caught.value)


def test_an_error_of_a_metric_names_the_metric(data):
    with pytest.raises(KeyError) as caught:
        hv.evaluate(classifier(), data, [Metric("mine", lambda c: {}["a"])], device="cpu")
    assert "in the metric 'mine'" in said(caught.value)


def test_a_data_set_takes_no_sample_that_cannot_be_used(data):
    problem = Problem("bad_box", "a.xml", "needs four numbers", usable=False)
    bad = Sample(data[0].path, "P0", "normal", data[0].annotation, problems=(problem,))
    for use in (classifier().dataset, classifier().loader):
        with pytest.raises(ValueError, match=r"a\.xml: needs four numbers; correct it, or leave the sample out"):
            use([*data, bad])


def test_an_image_format_that_fails_to_match_leaves_the_others(data, monkeypatch):
    class Broken(ImageFormat):
        suffixes = (".broken",)

        def matches(self, path, first_bytes):
            raise RuntimeError("oops")

    monkeypatch.setitem(IMAGE_FORMATS._builders, "broken", Broken)
    monkeypatch.setitem(IMAGE_FORMATS._tags, "broken", {})
    with pytest.warns(UserWarning, match=r"slice_0\.png: the image format Broken failed .* \(RuntimeError: oops\)"):
        assert hv.images.read_image(data[0].path).shape == (48, 72, 3)


def test_classes_that_no_sample_shows_are_said_before_the_training(data):
    normal = [sample for sample in data if sample.class_name == "normal"]
    with pytest.warns(UserWarning, match="none of 2 training samples, such as .* shows 'cancer'"):
        fit(classifier(), normal, recipe=RECIPE, device="cpu")
    boxed = [sample for sample in data if sample.class_name != "normal"]
    with pytest.warns(UserWarning, match="shows 'cyst'"):
        fit(detector(classes=["hcc", "cyst"]), boxed, recipe=RECIPE, device="cpu")


# several processes and threads


def test_what_fails_in_the_main_process_stops_all(monkeypatch):
    sent = []

    def broadcast(value, processes):
        if processes.is_main_process:
            sent.append(value)
        return sent[-1]

    monkeypatch.setattr("hccvision.training.processes.broadcast", broadcast)
    main, other = (SimpleNamespace(is_main_process=is_main) for is_main in (True, False))
    with pytest.raises(ZeroDivisionError):
        on_main(lambda: 1 / 0, main)
    with pytest.raises(
        RuntimeError, match="the main process stopped the training: ZeroDivisionError: division by zero"
    ):
        on_main(lambda: 1 / 0, other)
    done = []
    for processes in (main, other):
        on_main(lambda: done.append(1), processes)
    assert done == [1]


@pytest.mark.parametrize("build", [classifier, detector])
def test_predictions_of_several_threads_are_those_of_one(tmp_path, build):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (50, 60, 3), np.uint8)).save(path)
    model, threads = build(), 8

    def answer(_):
        barrier.wait()
        return hv.predict(model, paths, device="cpu", batch=2)

    barrier = threading.Barrier(1)
    (expected,) = map(answer, range(1))
    barrier = threading.Barrier(threads)
    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(answer, range(threads)):
            for one, other in zip(found, expected, strict=True):
                if build is classifier:
                    assert one.probabilities.equal(other.probabilities)
                else:
                    assert all(
                        getattr(one.detections, k).equal(getattr(other.detections, k)) for k in ("boxes", "scores")
                    )


def test_python_3_10_has_notes_in_the_message(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    with pytest.raises(ValueError, match="wrong\nhere"), noted("here"):
        raise ValueError("wrong")
    with pytest.raises(OSError, match="full") as caught, noted("here"):
        raise OSError(28, "full")
    assert caught.value.errno == 28
