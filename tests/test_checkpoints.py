"""The run folder: what is in it, that nothing overwrites it, and that an interrupted run ends as if it had not been."""

import csv
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hccvision.contracts import Sample
from hccvision.model import build_model, load_model
from hccvision.recipes import Recipe
from hccvision.registry import AUGMENTATIONS
from hccvision.training.checkpoints import write_atomically
from hccvision.training.engine import fit

FILES = {"recipe.json", "history.csv", "history.json", "best.safetensors", "last.safetensors", "state.pt"}
RECIPE = Recipe(
    optimiser="adamw", learning_rate=3e-3, weight_decay=1e-2, schedule="cosine", epochs=4, batch=2, augmentation="frail"
)


@pytest.fixture
def slices(tmp_path):
    """Four slices of noise, bright and dark."""
    rng = np.random.default_rng(0)
    (tmp_path / "slices").mkdir()
    samples = []
    for i in range(4):
        path = tmp_path / "slices" / f"{i}.png"
        Image.fromarray(rng.integers(0, 100 + 150 * (i % 2), (40, 50), np.uint8)).save(path)
        samples.append(Sample(path, class_name=("normal", "cancer")[i % 2]))
    return samples


def classifier(seed=0, classes=("normal", "cancer"), **options):
    return build_model(
        "mobilenet_v1",
        "linear",
        **{"image_size": 48, "backbone_options": {"width": 0.1}, **options},
        classes=classes,
        head_options={"hidden": (8,), "pool": "avg", "dropout": 0.3},
        seed=seed,
    )


@pytest.fixture
def fails_at(monkeypatch):
    """The augmentation "frail" is "paper", but raises what ``fails_at[call]`` says at that call, once."""
    plan = {}

    def build():
        paper = AUGMENTATIONS.build("paper")
        calls = 0

        def apply(images, targets, generator):
            nonlocal calls
            calls += 1
            if calls in plan:
                raise plan.pop(calls)
            return paper(images, targets, generator)

        return apply

    monkeypatch.setitem(AUGMENTATIONS._builders, "frail", build)
    monkeypatch.setitem(AUGMENTATIONS._tags, "frail", {})
    return plan


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same_state(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


# what is in it


def test_a_run_folder_holds_recipe_history_models_and_state(slices, fails_at, tmp_path):
    model = classifier()
    run = tmp_path / "runs" / "first"
    history = fit(model, slices, slices, recipe=RECIPE, run=run, device="cpu")
    assert history.run == run
    assert {path.name for path in run.iterdir()} == FILES
    assert Recipe(**{**json.loads((run / "recipe.json").read_text()), "frozen": ()}) == RECIPE

    written = json.loads((run / "history.json").read_text())
    assert written == {"best": history.best, "epochs": history.rows}
    with (run / "history.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert rows == history.rows
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]

    best = load_model(run / "best.safetensors")
    assert best.classes == ("normal", "cancer")
    assert best.image_size == (48, 48)
    assert_same_state(best.state_dict(), model.state_dict())
    state = torch.load(run / "state.pt", weights_only=True)
    assert state.keys() == {"history", "best", "model", "optimiser"}
    assert_same_state(state["model"], load_file(run / "last.safetensors"))
    assert (state["history"], state["best"]) == (history.rows, history.best)


def test_without_a_run_folder_nothing_is_written(slices, fails_at, tmp_path):
    history = fit(classifier(), slices, recipe=replace(RECIPE, epochs=1), device="cpu")
    assert history.run is None
    assert [path.name for path in tmp_path.iterdir()] == ["slices"]


def test_a_run_folder_is_not_overwritten(slices, fails_at, tmp_path):
    run = tmp_path / "run"
    recipe = replace(RECIPE, epochs=1)
    fit(classifier(), slices, recipe=recipe, run=run, device="cpu")
    before = files(run)
    with pytest.raises(FileExistsError, match=f"{run}: there is a run .* or go on with it by resume=True"):
        fit(classifier(), slices, recipe=recipe, run=run, device="cpu")
    assert files(run) == before


def test_a_folder_of_other_things_is_neither_overwritten_nor_resumed(slices, fails_at, tmp_path):
    for resume, error in ((False, FileExistsError), (True, ValueError)):
        with pytest.raises(error, match=str(tmp_path / "slices")):
            fit(classifier(), slices, recipe=RECIPE, run=tmp_path / "slices", resume=resume, device="cpu")
    assert {path.suffix for path in (tmp_path / "slices").iterdir()} == {".png"}


def test_an_empty_folder_is_as_good_as_none(slices, fails_at, tmp_path):
    (tmp_path / "run").mkdir()
    fit(classifier(), slices, recipe=replace(RECIPE, epochs=1), run=tmp_path / "run", device="cpu")
    assert set(files(tmp_path / "run")) == FILES


def test_a_model_that_cannot_be_saved_is_refused_before_training(slices, fails_at, tmp_path):
    model = classifier()
    del model.head.built_from
    with pytest.raises(ValueError, match="was not built by name"):
        fit(model, slices, recipe=RECIPE, run=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


# going on


@pytest.mark.parametrize(
    ("optimiser", "error"), [("adamw", KeyboardInterrupt()), ("sgd", RuntimeError("the power went out"))]
)
def test_an_interrupted_run_goes_on_to_the_very_same_end(optimiser, error, slices, fails_at, tmp_path):
    recipe = replace(RECIPE, optimiser=optimiser)
    whole = classifier()
    expected = fit(whole, slices, slices, recipe=recipe, run=tmp_path / "whole", device="cpu")

    fails_at[6] = error  # two steps an epoch: in the middle of the third
    with pytest.raises(type(error)):
        fit(classifier(), slices, slices, recipe=recipe, run=tmp_path / "run", device="cpu")
    assert [row["epoch"] for row in json.loads((tmp_path / "run" / "history.json").read_text())["epochs"]] == [1, 2]

    torch.manual_seed(77)
    resumed = classifier(seed=99)  # its weights are to come from the folder
    history = fit(resumed, slices, slices, recipe=recipe, run=tmp_path / "run", resume=True, device="cpu")
    assert history.rows == expected.rows
    assert history.best == expected.best
    assert_same_state(resumed.state_dict(), whole.state_dict())
    for name in FILES - {"state.pt"}:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_run_interrupted_in_its_first_epoch_starts_again(slices, fails_at, tmp_path):
    recipe = replace(RECIPE, epochs=2)
    whole = classifier()
    expected = fit(whole, slices, slices, recipe=recipe, device="cpu")
    fails_at[2] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        fit(classifier(), slices, slices, recipe=recipe, run=tmp_path / "run", device="cpu")
    resumed = classifier()
    history = fit(resumed, slices, slices, recipe=recipe, run=tmp_path / "run", resume=True, device="cpu")
    assert history.rows == expected.rows
    assert_same_state(resumed.state_dict(), whole.state_dict())


def test_a_run_stopped_while_it_wrote_goes_on_from_the_epoch_before(slices, fails_at, tmp_path, monkeypatch):
    whole = classifier()
    fit(whole, slices, slices, recipe=RECIPE, run=tmp_path / "whole", device="cpu")
    run = tmp_path / "run"
    save = torch.save

    def disk_full(state, path):
        save(state, path)
        if len(state["history"]) == 3:
            path.write_bytes(path.read_bytes()[:100])
            raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", disk_full)
        with pytest.raises(OSError, match="no space left"):
            fit(classifier(), slices, slices, recipe=RECIPE, run=run, device="cpu")
    assert set(files(run)) == FILES
    assert len(torch.load(run / "state.pt", weights_only=True)["history"]) == 2

    resumed = classifier()
    fit(resumed, slices, slices, recipe=RECIPE, run=run, resume=True, device="cpu")
    assert_same_state(resumed.state_dict(), whole.state_dict())
    assert files(run)["history.csv"] == files(tmp_path / "whole")["history.csv"]


def test_resuming_a_finished_run_gives_its_history_and_best_weights(slices, fails_at, tmp_path):
    run = tmp_path / "run"
    trained = classifier()
    expected = fit(trained, slices, slices, recipe=RECIPE, run=run, device="cpu")
    before = files(run)
    model = classifier(seed=99)
    history = fit(model, slices, slices, recipe=RECIPE, run=run, resume=True, device="cpu")
    assert history.rows == expected.rows
    assert (history.best, history.run) == (expected.best, run)
    assert_same_state(model.state_dict(), trained.state_dict())
    assert not model.training
    assert files(run) == before


def test_resume_starts_a_run_that_is_not_there_yet(slices, fails_at, tmp_path):
    history = fit(
        classifier(), slices, recipe=replace(RECIPE, epochs=1), run=tmp_path / "run", resume=True, device="cpu"
    )
    assert len(history) == 1


def test_a_run_is_not_resumed_with_another_recipe_or_model(slices, fails_at, tmp_path):
    run = tmp_path / "run"
    recipe = replace(RECIPE, epochs=1)
    fit(classifier(), slices, recipe=recipe, run=run, device="cpu")
    before = files(run)
    for other, difference in (
        (replace(recipe, learning_rate=1e-4), "learning_rate: 0.003 there, 0.0001 now"),
        (replace(recipe, seed=1), "seed: 0 there, 1 now"),
        (replace(recipe, frozen=("backbone",)), r"frozen: \[\] there, \['backbone'\] now"),
    ):
        with pytest.raises(ValueError, match=f"{run}: this run has another recipe \\({difference}\\)"):
            fit(classifier(), slices, recipe=other, run=run, resume=True, device="cpu")
    for model, difference in (
        (classifier(classes=("cancer", "normal")), "classes: "),
        (classifier(image_size=64), "image_size: "),
        (classifier(backbone_options={"width": 0.2}), "backbone: "),
        (classifier(positive="normal"), "positive: 'cancer' there, 'normal' now"),
    ):
        with pytest.raises(ValueError, match=f"{run}: this run has another model \\({difference}"):
            fit(model, slices, recipe=recipe, run=run, resume=True, device="cpu")
    assert files(run) == before


def test_the_seed_argument_is_kept_in_the_recipe_of_the_run(slices, fails_at, tmp_path):
    run = tmp_path / "run"
    recipe = replace(RECIPE, epochs=1)
    fit(classifier(), slices, recipe=recipe, seed=7, run=run, device="cpu")
    assert json.loads((run / "recipe.json").read_text()) == {**asdict(recipe), "seed": 7, "frozen": []}
    fit(classifier(), slices, recipe=replace(recipe, seed=7), run=run, resume=True, device="cpu")


# writing


def test_a_file_is_written_whole_and_without_leftovers(tmp_path):
    path = tmp_path / "history.csv"
    for text in ("old", "new"):
        assert write_atomically(path, lambda p, text=text: p.write_text(text)) == path
        assert files(tmp_path) == {"history.csv": text.encode()}


@pytest.mark.parametrize("there", [True, False])
def test_a_write_that_fails_leaves_the_old_file_as_it_was(there, tmp_path):
    path = tmp_path / "history.csv"
    if there:
        path.write_text("old")

    def fail(partial):
        partial.write_text("half of the n")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, fail)
    assert files(tmp_path) == ({"history.csv": b"old"} if there else {})
