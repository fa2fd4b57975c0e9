"""The loss is normalised once, by the engine, over all parts of a batch and all processes."""

import copy
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from small_trainings import classifier, detector, write_slices
from torch import nn
from torch.utils.data import SequentialSampler

from hccvision.matchers import bipartite
from hccvision.recipes import Recipe
from hccvision.registry import LOSSES
from hccvision.training import loop
from hccvision.training.engine import fit
from hccvision.training.optimisers import build_optimiser

STEP = Recipe(optimiser="sgd", learning_rate=1e-2, epochs=1, batch=7)
BOTH = pytest.mark.parametrize("build", [detector, classifier])


@pytest.fixture
def slices(tmp_path):
    return write_slices(tmp_path)


def batch_norms(model):
    return tuple(name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d))


class Gradients:
    """Optimiser that keeps a copy of the gradients of each step."""

    def __init__(self):
        self.steps = []

    def __call__(self, groups, recipe, **options):
        optimiser = torch.optim.SGD(groups, momentum=recipe.momentum, **options)
        parameters = [p for group in groups for p in group["params"]]
        optimiser.register_step_pre_hook(
            lambda *_: self.steps.append([None if p.grad is None else p.grad.clone() for p in parameters])
        )
        return optimiser


@pytest.mark.parametrize(
    ("build", "changes"),
    [
        (detector, {}),
        (detector, {"loss": "focal_giou"}),
        (detector, {"class_weights": (2.0,), "label_smoothing": 0.1}),
        (classifier, {}),
        (classifier, {"class_weights": "balanced", "label_smoothing": 0.1}),
        (classifier, {"loss": "focal", "class_weights": (0.3, 1.9)}),
    ],
)
def test_gradients_and_weights_are_the_same_in_any_number_of_parts(build, changes, slices):
    recipe = replace(STEP, epochs=2, augmentation="paper", frozen=batch_norms(build()), **changes)
    ends = []
    for parts in (1, 2, 3, 5):
        model, optimiser = build().double(), Gradients()
        history = fit(model, slices, recipe=replace(recipe, accumulate=parts, optimiser=optimiser), device="cpu")
        ends.append((optimiser.steps, model.state_dict(), history.rows))
    (steps, weights, rows), others = ends[0], ends[1:]
    assert len(steps) == 2
    assert max(float(g.abs().max()) for g in steps[0]) > 1e-3
    for other_steps, other_weights, other_rows in others:
        for one, other in zip(steps, other_steps, strict=True):
            for gradient, again in zip(one, other, strict=True):
                torch.testing.assert_close(again, gradient, rtol=0, atol=1e-9)
        for name, value in weights.items():
            torch.testing.assert_close(other_weights[name], value, rtol=0, atol=1e-9)
        for row, again in zip(rows, other_rows, strict=True):
            assert again == pytest.approx(row, rel=1e-9)


PROGRAM = """
import os
import sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from hccvision.training.engine import fit
from small_trainings import classifier, detector, write_slices
from test_training_loss import STEP, Gradients, batch_norms

folder, out, rank = Path(sys.argv[1]), Path(sys.argv[2]), int(os.environ.get("RANK", "0"))
slices = write_slices(folder / str(rank))
for build in (detector, classifier):
    for parts in (1, 3):
        model, optimiser = build().double(), Gradients()
        recipe = replace(
            STEP, epochs=2, batch=5, augmentation="paper", frozen=batch_norms(model), accumulate=parts,
            class_weights=None if build is detector else "balanced", optimiser=optimiser,
        )
        rows = fit(model, slices, recipe=recipe, device="cpu").rows
        if rank == 0:
            found = {"gradients": optimiser.steps, "weights": model.state_dict(), "rows": rows}
            torch.save(found, out / f"{build.__name__}{parts}.pt")
"""


@pytest.fixture(scope="module")
def by_processes(tmp_path_factory):
    """What one process and two processes computed, by number of processes, model and number of parts."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "train.py").write_text(PROGRAM)
    found = {}
    for count in (1, 2):
        out = folder / str(count)
        out.mkdir()
        launch = [] if count == 1 else ["-m", "torch.distributed.run", "--nproc-per-node", str(count)]
        command = [sys.executable, *launch, str(folder / "train.py"), str(folder / "slices"), str(out)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        for _ in range(2):
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
            if "terminate called without an active exception" not in done.stderr:  # torch's threads at exit, rarely
                break
        assert done.returncode == 0, done.stderr
        for file in out.glob("*.pt"):
            found[count, file.stem] = torch.load(file)
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun with gloo is for POSIX systems here")
@pytest.mark.parametrize("kind", ["detector", "classifier"])
def test_gradients_and_weights_are_the_same_in_two_processes(kind, by_processes):
    expected = by_processes[1, f"{kind}1"]
    assert len(expected["gradients"]) == 4  # two epochs with a batch of 5 images and one of 2
    for key in ((1, f"{kind}3"), (2, f"{kind}1"), (2, f"{kind}3")):
        found = by_processes[key]
        for one, other in zip(expected["gradients"], found["gradients"], strict=True):
            for gradient, again in zip(one, other, strict=True):
                torch.testing.assert_close(again, gradient, rtol=0, atol=1e-9)
        for name, value in expected["weights"].items():
            torch.testing.assert_close(found["weights"][name], value, rtol=0, atol=1e-9)
        for row, again in zip(expected["rows"], found["rows"], strict=True):
            assert again == pytest.approx(row, rel=1e-9)


@pytest.mark.parametrize(("parts", "calls"), [(1, 1), (2, 2), (3, 3)])
def test_each_part_is_matched_once(parts, calls, slices, monkeypatch):
    made = []
    match = bipartite.match
    monkeypatch.setattr(bipartite, "match", lambda *a, **o: made.append(len(a[1])) or match(*a, **o))
    fit(detector(), slices[:6], recipe=replace(STEP, batch=6, accumulate=parts), device="cpu")
    assert made == [6 // parts] * calls


@BOTH
@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_batch_in_one_part_makes_the_step_of_a_plain_loop_bit_by_bit(build, optimiser, slices):
    seen = []

    def recorded(images, targets, generator):
        seen.append((images, targets))
        return images, targets

    recipe = replace(STEP, optimiser=optimiser, augmentation=recorded)
    model = build()
    plain = copy.deepcopy(model).to(memory_format=torch.channels_last).train()
    (row,) = fit(model, slices, recipe=recipe, device="cpu").rows
    ((images, targets),) = seen
    steps = build_optimiser(plain, recipe)
    loss = plain.loss(plain(images), targets)
    loss["loss"].backward()
    steps.step()
    expected = plain.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert row["train_loss"] == pytest.approx(loss["loss"].item(), rel=1e-6)


def test_a_batch_without_any_lesion_is_divided_by_one_in_any_number_of_parts(slices):
    normal = [s for s in slices if s.class_name == "normal"]
    recipe = replace(STEP, batch=3, frozen=batch_norms(detector()))
    ends = []
    for parts in (1, 3):
        model = detector().double()
        (row,) = fit(model, normal, recipe=replace(recipe, accumulate=parts), device="cpu").rows
        ends.append((model.state_dict(), row))
    assert ends[0][1]["train_loss"] > 1
    assert ends[1][1] == pytest.approx(ends[0][1], rel=1e-9)
    for name, value in ends[0][0].items():
        torch.testing.assert_close(ends[1][0][name], value, rtol=0, atol=1e-9)


def test_a_first_part_without_lesions_does_not_change_the_step(slices, monkeypatch):
    """The count of the first part is only a provisional divisor; it is 0 here, and in the other order it is not."""
    monkeypatch.setattr(loop, "build_sampler", lambda samples, **options: SequentialSampler(samples))
    ordered = sorted(slices[:6], key=lambda s: s.class_name == "cancer")
    assert [s.class_name for s in ordered[:3]] == ["normal", "normal", "cancer"]
    ends = []
    for data in (ordered, ordered[::-1]):
        model = detector().double()
        recipe = replace(STEP, batch=6, accumulate=3, frozen=batch_norms(model))
        fit(model, data, recipe=recipe, device="cpu", seed=0)
        ends.append(model.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=0, atol=1e-9)


@pytest.mark.parametrize("loss", LOSSES.names(task="detection"))
def test_the_count_of_a_detectors_loss_is_that_of_the_matched_default_boxes(loss, slices):
    model = detector().eval()
    for images, targets in model.loader(slices, batch=7, shuffle=False):
        with torch.no_grad():
            found = model.loss(model(images), targets, name=loss)
        matched = model.head.box_targets(model(images), targets).classes > 0
        assert float(found.count) == int(matched.sum()) > 0
        total = sum(float(value) for value in found.sums.values()) / float(found.count)
        assert float(found["loss"]) == pytest.approx(total, rel=1e-6)
