"""Hooks: when they are called and with what, also where a training is interrupted, fails or is pruned."""

import signal
import threading
from dataclasses import replace

import pytest
import torch
from small_trainings import classifier, write_slices

from hccvision.recipes import Recipe
from hccvision.training.engine import fit
from hccvision.training.history import History
from hccvision.training.hooks import Hook, Hooks

RECIPE = Recipe(optimiser="adamw", learning_rate=3e-3, epochs=2, batch=3)  # three steps an epoch


@pytest.fixture
def slices(tmp_path):
    return write_slices(tmp_path / "slices")


class Recorder:
    """Keeps the calls; it is no `Hook`, which a hook needn't be."""

    def __init__(self, name="", calls=None):
        self.name, self.calls = name, [] if calls is None else calls

    def on_step(self, step, losses, model):
        self.calls.append((f"{self.name}step", step, dict(losses), model))

    def on_epoch(self, history, model):
        self.calls.append((f"{self.name}epoch", len(history), history, model))

    def on_end(self, history, model):
        self.calls.append((f"{self.name}end", len(history), history, model))


def order(calls):
    return [call[:2] for call in calls]


def test_hooks_are_called_after_every_step_every_epoch_and_at_the_end(slices):
    recorder, model = Recorder(), classifier()
    history = fit(model, slices, slices, recipe=RECIPE, hooks=[recorder], device="cpu")
    first = [("step", 1), ("step", 2), ("step", 3), ("epoch", 1)]
    assert order(recorder.calls) == [*first, ("step", 4), ("step", 5), ("step", 6), ("epoch", 2), ("end", 2)]
    for kind, _, given, network in recorder.calls:
        assert network is model
        if kind == "step":
            assert given.keys() == {"loss", "classification"}
            assert given["loss"] == pytest.approx(given["classification"])
        else:
            assert given is history
    losses = [call[2]["loss"] for call in recorder.calls if call[0] == "step"]
    assert history["train_loss"] == pytest.approx([(3 * a + 3 * b + c) / 7 for a, b, c in (losses[:3], losses[3:])])


def test_several_hooks_are_called_in_order_and_only_for_the_methods_they_have(slices):
    calls = []

    class Epochs(Hook):
        def on_epoch(self, history, model):
            calls.append(("only epoch", len(history)))

    both = [Recorder("a ", calls), Epochs(), Recorder("b ", calls)]
    fit(classifier(), slices[:2], recipe=replace(RECIPE, epochs=1), hooks=both, device="cpu")
    expected = ["a step", "b step", "a epoch", "only epoch", "b epoch", "a end", "b end"]
    assert [call[0] for call in calls] == expected


def test_the_averaged_model_is_the_one_that_hooks_are_given_after_an_epoch(slices):
    recorder, model = Recorder(), classifier()
    fit(model, slices, recipe=replace(RECIPE, ema=0.5), hooks=[recorder], device="cpu")
    after = {kind: network for kind, _, _, network in recorder.calls}
    assert after["step"] is model
    assert after["epoch"] is after["end"] is not model


def test_an_epoch_is_saved_before_its_hooks_are_called(slices, tmp_path):
    seen = []

    class Look(Hook):
        def on_epoch(self, history, model):
            state = torch.load(history.run / "state.pt", weights_only=True)
            seen.append((len(state["history"]), state["step"], (history.run / "last.safetensors").is_file()))

    fit(classifier(), slices, recipe=RECIPE, run=tmp_path / "run", hooks=[Look()], device="cpu")
    assert seen == [(1, 0, True), (2, 0, True)]


class Pruned(Exception):
    pass


class Pruner(Hook):
    def __init__(self, method, at):
        self.method, self.at = method, at

    def on_step(self, step, losses, model):
        if (self.method, self.at) == ("on_step", step):
            raise Pruned

    def on_epoch(self, history, model):
        if (self.method, self.at) == ("on_epoch", len(history)):
            raise Pruned


@pytest.mark.parametrize(("method", "at", "epochs"), [("on_epoch", 1, 1), ("on_epoch", 2, 2), ("on_step", 5, 1)])
def test_a_pruned_run_resumes_to_the_same_weights(method, at, epochs, slices, tmp_path):
    recipe = replace(RECIPE, epochs=3)
    whole, resumed = classifier(), classifier()
    expected = fit(whole, slices, slices, recipe=recipe, device="cpu")
    recorder, run = Recorder(), tmp_path / "run"
    with pytest.raises(Pruned):
        fit(classifier(), slices, slices, recipe=recipe, run=run, hooks=[Pruner(method, at), recorder], device="cpu")
    assert order(recorder.calls)[-1] == ("end", epochs)
    later = Recorder()
    history = fit(resumed, slices, slices, recipe=recipe, run=run, resume=True, hooks=[later], device="cpu")
    assert history.rows == expected.rows
    assert order(later.calls)[0] == ("step", 3 * epochs + 1)  # counted over the whole training
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("run", ["run", None])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_on_end_is_called_after_ctrl_c_and_after_errors(error, run, slices, tmp_path):
    recorder, calls = Recorder(), []

    def fail(images, targets, generator):
        calls.append(len(images))
        if len(calls) == 5:
            raise error
        return images, targets

    recipe = replace(RECIPE, augmentation=fail)
    folder = None if run is None else tmp_path / run
    with pytest.raises(error):
        fit(classifier(), slices, recipe=recipe, run=folder, hooks=[recorder], device="cpu")
    assert order(recorder.calls)[-2:] == [("step", 4), ("end", 1)]
    assert [kind for kind, *_ in recorder.calls].count("end") == 1


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals need the main thread")
def test_ctrl_c_in_a_run_ends_the_step_and_calls_on_end(slices, tmp_path, capsys):
    recorder, before = Recorder(), signal.getsignal(signal.SIGINT)

    class CtrlC(Hook):
        def on_step(self, step, losses, model):
            if step == 2:
                signal.raise_signal(signal.SIGINT)

    run, whole, resumed = tmp_path / "run", classifier(), classifier()
    expected = fit(whole, slices, recipe=RECIPE, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        fit(classifier(), slices, recipe=RECIPE, run=run, hooks=[CtrlC(), recorder], device="cpu")
    assert order(recorder.calls) == [("step", 1), ("step", 2), ("end", 0)]
    assert torch.load(run / "state.pt", weights_only=True)["step"] == 2
    said = capsys.readouterr().out
    assert "saved in epoch 1 after 2 steps" in said
    assert f"stopped after 0 whole epochs; resume with run={str(run)!r}, resume=True" in said
    assert signal.getsignal(signal.SIGINT) is before
    assert fit(resumed, slices, recipe=RECIPE, run=run, resume=True, device="cpu").rows == expected.rows
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (object(), "expected a hook with one of the methods on_step, on_epoch, on_end, got <object object"),
        (print, "one of the methods on_step, on_epoch, on_end, got <built-in function print>"),
        (Recorder, r"expected a hook object, got the class Recorder: write Recorder\(\)"),
    ],
)
def test_what_is_no_hook_is_refused_before_training(hook, message, slices, tmp_path):
    with pytest.raises(TypeError, match=message):
        fit(classifier(), slices, recipe=RECIPE, hooks=[Recorder(), hook], run=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_hooks_of_several_objects_are_a_hook():
    calls = []
    both = Hooks([Recorder("a ", calls), Recorder("b ", calls)])
    both.on_step(1, {"loss": 0.5}, None)
    both.on_epoch(History(), None)
    both.on_end(History(), None)
    assert [call[0] for call in calls] == ["a step", "b step", "a epoch", "b epoch", "a end", "b end"]
