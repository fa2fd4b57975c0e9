"""Run folders: their files, that nothing overwrites them, and that an interrupted run resumes to the same weights."""

import contextlib
import csv
import errno
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hccvision.contracts.samples import Annotation, Sample
from hccvision.files import write_atomically
from hccvision.model.build import build_model, load_model
from hccvision.recipes import Recipe
from hccvision.registry import AUGMENTATIONS
from hccvision.training import checkpoints
from hccvision.training.checkpoints import Run
from hccvision.training.engine import fit

WRITTEN = {
    "recipe.json",
    "run.json",
    "split.json",
    "history.csv",
    "history.json",
    "best.safetensors",
    "last.safetensors",
}
STATES = {"state.pt", "state.previous.pt"}
FILES = WRITTEN | STATES | {"curves.png"}
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
    assert Recipe(**json.loads((run / "recipe.json").read_text())) == RECIPE
    split = json.loads((run / "split.json").read_text())["parts"]
    for name in ("train", "val"):
        assert [Path(entry["image"]).name for entry in split[name]["files"]] == [s.path.name for s in slices]
        assert split[name]["files"][0]["sha256"] == hashlib.sha256(slices[0].path.read_bytes()).hexdigest()
    about = json.loads((run / "run.json").read_text())
    assert about["libraries"]["torch"] == version("torch")
    assert about["machine"]["threads"] == torch.get_num_threads()
    assert about["machine"]["CPU"]

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
    assert state["made_by"]["recipe"] == json.loads((run / "recipe.json").read_text())
    assert state["made_by"]["data"] == hashlib.sha256((run / "split.json").read_bytes()).hexdigest()
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
    with pytest.raises(
        FileExistsError, match=f"{run}: this folder is not empty; .* or resume the run in it with resume=True"
    ):
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
    assert set(files(tmp_path / "run")) == FILES - {"state.previous.pt"}


def test_a_part_given_as_an_object_is_noted_in_the_run_and_asked_for(slices, fails_at, tmp_path):
    model, run, recipe = classifier(), tmp_path / "run", replace(RECIPE, epochs=1)
    del model.head.built_from  # as if it had been given as an object
    fit(model, slices, recipe=recipe, run=run, device="cpu")
    note = {"object": "hccvision.heads.linear.LinearHead"}
    assert json.loads((run / "run.json").read_text())["model"]["head"] == note
    with pytest.raises(ValueError, match=r"its head was given as an object of hccvision\.heads\.linear\.LinearHead"):
        load_model(run / "best.safetensors")
    loaded = load_model(run / "best.safetensors", head=classifier(seed=9).head)
    assert_same_state(loaded.state_dict(), model.state_dict())
    with pytest.raises(ValueError, match=r"another model \(head: .*LinearHead.* then, \['linear', .*\] now\)"):
        fit(classifier(), slices, recipe=recipe, run=run, resume=True, device="cpu")
    assert len(fit(model, slices, recipe=recipe, run=run, resume=True, device="cpu")) == 1


# resuming


@pytest.mark.parametrize(
    ("optimiser", "error"), [("adamw", KeyboardInterrupt()), ("sgd", RuntimeError("the power went out"))]
)
def test_an_interrupted_run_resumes_to_the_very_same_end(optimiser, error, slices, fails_at, tmp_path):
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
    for name in FILES - STATES:
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


def test_a_run_stopped_while_it_wrote_resumes_from_the_epoch_before(slices, fails_at, tmp_path, monkeypatch):
    whole = classifier()
    fit(whole, slices, slices, recipe=RECIPE, run=tmp_path / "whole", device="cpu")
    run = tmp_path / "run"
    save = torch.save

    def disk_full(state, file):
        save(state, file)
        if len(state["history"]) == 3:
            file.truncate(100)
            raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", disk_full)
        with pytest.raises(OSError, match="no space left"):
            fit(classifier(), slices, slices, recipe=RECIPE, run=run, device="cpu")
    assert set(files(run)) == WRITTEN | STATES
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
        (replace(recipe, learning_rate=1e-4), "learning_rate: 0.003 then, 0.0001 now"),
        (replace(recipe, seed=1), "seed: 0 then, 1 now"),
        (replace(recipe, frozen=("backbone",)), r"frozen: \[\] then, \['backbone'\] now"),
        (replace(recipe, schedule_options={"x": 1}), r"schedule_options: \{\} then, \{'x': 1\} now"),
    ):
        with pytest.raises(ValueError, match=f"{run}: this run has another recipe \\({difference}\\)"):
            fit(classifier(), slices, recipe=other, run=run, resume=True, device="cpu")
    for model, difference in (
        (classifier(classes=("cancer", "normal")), "classes: "),
        (classifier(image_size=64), "image_size: "),
        (classifier(backbone_options={"width": 0.2}), "backbone: "),
        (classifier(positive="normal"), "positive: 'cancer' then, 'normal' now"),
    ):
        with pytest.raises(ValueError, match=f"{run}: this run has another model \\({difference}"):
            fit(model, slices, recipe=recipe, run=run, resume=True, device="cpu")
    assert files(run) == before


def test_the_seed_argument_is_kept_in_the_recipe_of_the_run(slices, fails_at, tmp_path):
    run = tmp_path / "run"
    recipe = replace(RECIPE, epochs=1)
    fit(classifier(), slices, recipe=recipe, seed=7, run=run, device="cpu")
    assert json.loads((run / "recipe.json").read_text()) == {
        **asdict(recipe), "seed": 7, "frozen": [], "thaw": []
    }  # fmt: skip
    fit(classifier(), slices, recipe=replace(recipe, seed=7), run=run, resume=True, device="cpu")


# stopped at any step

STEPS = replace(RECIPE, batch=1, epochs=3, augmentation="paper", ema=0.9, patience=3)


@pytest.mark.parametrize("stop", [1, 4, 10, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 5, 7))])  # of 12
def test_a_run_stopped_at_any_step_resumes_to_the_very_same_end(stop, slices, tmp_path, monkeypatch):
    build = classifier if stop % 2 else detector
    data = slices if stop % 2 else boxed(slices)
    whole = build()
    expected = fit(whole, data, data, recipe=STEPS, run=tmp_path / "whole", device="cpu")

    made = 0
    step = torch.optim.AdamW.step

    def killed(self, *args, **kwargs):
        nonlocal made
        result = step(self, *args, **kwargs)
        made += 1
        if made == stop:
            raise RuntimeError("the power went out")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", killed)
        with pytest.raises(RuntimeError, match="power"):
            fit(build(), data, data, recipe=STEPS, run=tmp_path / "run", save_every=1, device="cpu")
    # what was saved last is the state after the step before
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True) if stop > 1 else {"history": [], "step": 0}
    assert 4 * len(state["history"]) + state["step"] == stop - 1

    torch.manual_seed(77)
    resumed = build(seed=99 if stop > 1 else 0)
    history = fit(resumed, data, data, recipe=STEPS, run=tmp_path / "run", resume=True, save_every=1, device="cpu")
    assert history.rows == expected.rows
    assert_same_state(resumed.state_dict(), whole.state_dict())
    for name in WRITTEN:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def boxed(slices):
    annotation = Annotation(np.array([(10, 5, 40, 30)]), ("hcc",), size=(40, 50))
    return [Sample(s.path, annotation=annotation) for s in slices]


def detector(seed=0):
    options = {"classes": ["hcc"], "image_size": 48, "backbone_options": {"width": 0.1}}
    return build_model("mobilenet_v1", "ssd", **options, seed=seed)


def test_a_state_that_cannot_be_read_is_replaced_by_the_one_before(slices, fails_at, tmp_path, capsys):
    whole = classifier()
    fit(whole, slices, slices, recipe=RECIPE, run=tmp_path / "whole", device="cpu")
    run = tmp_path / "run"
    fails_at[6] = RuntimeError("the power went out")
    with pytest.raises(RuntimeError):
        fit(classifier(), slices, slices, recipe=RECIPE, run=run, device="cpu")
    (run / "state.pt").write_bytes((run / "state.pt").read_bytes()[:5000])
    resumed = classifier()
    fit(resumed, slices, slices, recipe=RECIPE, run=run, resume=True, device="cpu")
    assert "resuming from the state before it, state.previous.pt" in capsys.readouterr().out
    assert_same_state(resumed.state_dict(), whole.state_dict())
    for path in (run / "state.pt", run / "state.previous.pt"):
        path.write_bytes(b"PK" + bytes(100))
    with pytest.raises(ValueError, match=r"state\.pt: can't be read .*state\.previous\.pt: can't be read"):
        fit(classifier(), slices, slices, recipe=RECIPE, run=run, resume=True, device="cpu")


def test_a_state_that_would_run_code_is_not_loaded(slices, fails_at, tmp_path):
    run = tmp_path / "run"
    fit(classifier(), slices, recipe=replace(RECIPE, epochs=1), run=run, device="cpu")
    torch.save({"history": [], "evil": Path("a")}, run / "state.pt")  # a pickled object that isn't plain data
    with pytest.raises(ValueError, match=r"state\.pt: can't be read"):
        fit(classifier(), slices, recipe=replace(RECIPE, epochs=1), run=run, resume=True, device="cpu")


def test_a_run_is_not_resumed_with_other_data(slices, fails_at, tmp_path):
    run, recipe = tmp_path / "run", replace(RECIPE, epochs=1)
    fit(classifier(), slices, slices[:2], recipe=recipe, run=run, device="cpu")
    before = files(run)
    for train, val, message in (
        (slices[:3], slices[:2], "train: 4 samples then, 3 now"),
        (slices, slices[1:3], "0.png: its place in val is taken by 1.png"),
        (slices, None, "val: 2 samples then, 0 now"),
        ([Sample(s.path, class_name="normal") for s in slices], slices[:2], "1.png: its class_name changed"),
    ):
        with pytest.raises(ValueError, match=f"this run has other data .*{message}.*resume it with the same data"):
            fit(classifier(), train, val, recipe=recipe, run=run, resume=True, device="cpu")
    pixels = slices[0].path.read_bytes()
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(slices[0].path)
    with pytest.raises(ValueError, match=r"0\.png: has changed"):
        fit(classifier(), slices, slices[:2], recipe=recipe, run=run, resume=True, device="cpu")
    slices[0].path.write_bytes(pixels)
    fit(classifier(), slices, slices[:2], recipe=recipe, run=run, resume=True, device="cpu")
    assert {k: v for k, v in files(run).items() if k != "curves.png"} == {
        k: v for k, v in before.items() if k != "curves.png"
    }


# killed, interrupted, and out of space: in a process of its own

PROGRAM = """
import resource, signal, sys, threading, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from hccvision.annotations.image_folder import read_image_folder
from hccvision.model.build import build_model
from hccvision.recipes import Recipe
from hccvision.training.engine import fit

folder, run, what = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
model = build_model(
    "mobilenet_v1", "linear", classes=["normal", "cancer"], image_size=48, backbone_options={"width": 0.1},
    head_options={"hidden": (8,), "pool": "avg", "dropout": 0.3}, seed=0,
)
data = read_image_folder(folder, {"normal": "normal", "cancer": "cancer"})
if what == "full":  # a write fails in the middle of a file, as on a full disk
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
print("ready", flush=True)
recipe = Recipe(epochs=8, batch=2, augmentation="paper", ema=0.9, learning_rate=3e-3)
fit(model, data, data, recipe=recipe, run=run, resume=True, save_every=1, device="cpu")
print("done", flush=True)
"""


@pytest.fixture
def program(tmp_path, slices):
    """Starts the program on a folder of slices; its run ends on the same weights however often it is stopped."""
    script = tmp_path / "train.py"
    script.write_text(PROGRAM)
    for sample in slices:
        (tmp_path / "data" / sample.class_name).mkdir(parents=True, exist_ok=True)
        shutil.copy(sample.path, tmp_path / "data" / sample.class_name / sample.path.name)

    def start(run, what="train", *more):
        command = [sys.executable, str(script), str(tmp_path / "data"), str(run), what, *map(str, more)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start


def assert_readable(run):
    """Whatever moment the process was stopped at, each file there is whole."""
    for path in run.glob("*.safetensors"):
        load_model(path)
    for path in run.glob("*.json"):
        json.loads(path.read_text())
    for path in run.glob("state*.pt"):
        torch.load(path, weights_only=True)


def unfinished(run):
    """Names of files that are being written, or whose writer was killed."""
    return {path.name for path in run.glob(".*") if path.name != checkpoints.LOCK}


def kill_at_random_moments(program, tmp_path, kills, seed):
    """Kill a run again and again: every fourth time while a file is being written, else at any moment."""
    whole = tmp_path / "whole"
    text, _ = program(whole).communicate(timeout=300)
    assert text.endswith("done\n"), text
    run, rng, killed, inside_a_write = tmp_path / "run", np.random.default_rng(seed), 0, 0
    for attempt in range(20 * kills):
        before = unfinished(run)
        process = program(run)
        assert process.stdout.readline() == "ready\n"
        pause = float(rng.uniform(0.02, 2.0))
        if attempt % 4:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=pause)
        else:
            end = time.monotonic() + 1.0 + pause
            while process.poll() is None and (time.monotonic() < end or not unfinished(run) - before):
                time.sleep(0.0002)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
        inside_a_write += bool(unfinished(run) - before)
        if run.exists():
            assert_readable(run)
        if process.returncode == 0:
            for name in WRITTEN - {"split.json"}:
                assert (run / name).read_bytes() == (whole / name).read_bytes(), name
            shutil.rmtree(run)
        if killed == kills:
            break
    assert killed == kills
    text, _ = program(run).communicate(timeout=300)
    assert text.endswith("done\n"), text
    assert not unfinished(run)  # nothing half written is left
    for name in WRITTEN - {"split.json"}:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    return inside_a_write


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_killed_at_random_moments_a_run_stays_readable_and_ends_the_same(program, tmp_path):
    kill_at_random_moments(program, tmp_path, kills=3, seed=0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_killed_fifty_times_a_run_stays_readable_and_ends_the_same(program, tmp_path):
    inside_a_write = kill_at_random_moments(program, tmp_path, kills=50, seed=1)
    print(f"{inside_a_write} of 50 kills were inside a write")
    assert inside_a_write


def full_behind_torch():
    """The error of torch.save on a full disk: a RuntimeError raised while the OSError is handled."""
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free disk space"),
        (OSError(errno.EFBIG, "File too large"), "free disk space"),
        (full_behind_torch(), "free disk space"),
        (RuntimeError("the network is down"), "mend the cause"),
        (PermissionError(errno.EACCES, "Permission denied"), "mend the cause"),
    ],
)
def test_only_where_room_is_short_the_remedy_is_room(tmp_path, error, remedy):
    run = Run(tmp_path / "run", RECIPE, classifier())

    def write(path):
        raise error

    with pytest.raises(OSError, match=rf"last\.safetensors: could not be written .*: {remedy}, then resume it"):
        run._write(run.last, write)


def test_another_processor_and_number_of_threads_are_reported(slices, fails_at, tmp_path, capsys):
    run = tmp_path / "run"
    fit(classifier(), slices, slices, recipe=RECIPE, run=run, device="cpu")
    about = json.loads((run / "run.json").read_text())
    about["machine"] |= {"threads": 96, "CPU": "Z80"}
    (run / "run.json").write_text(json.dumps(about))
    fit(classifier(), slices, slices, recipe=RECIPE, run=run, resume=True, device="cpu")
    text = "".join(capsys.readouterr())
    assert f"threads 96 then, {torch.get_num_threads()} now" in text
    assert "CPU Z80 then, " in text


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of file sizes")
@pytest.mark.parametrize("space", [30_000, pytest.param(80_000, marks=pytest.mark.slow)])
def test_a_full_disk_is_an_error_that_spoils_nothing(space, program, tmp_path):
    run = tmp_path / "run"
    process = program(run)
    assert process.stdout.readline() == "ready\n"
    while not (run / "state.pt").exists():
        time.sleep(0.01)
    process.kill()
    process.communicate()
    before = files(run)
    text, _ = program(run, "full", space).communicate(timeout=300)
    assert "could not be written" in text
    assert "free disk space, then resume it with resume=True" in text
    assert_readable(run)
    assert not unfinished(run)
    assert set(files(run)) >= {name for name in before if not name.startswith(".")}
    text, _ = program(run).communicate(timeout=300)
    assert text.endswith("done\n"), text


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ on Windows")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_the_step_and_says_how_to_resume(sent, program, tmp_path):
    run = tmp_path / "run"
    process = program(run)
    assert process.stdout.readline() == "ready\n"
    while not (run / "state.pt").exists():
        time.sleep(0.01)
    if sent is signal.SIGTERM:
        process.send_signal(signal.SIGSTOP)
        text, _ = program(run).communicate(timeout=120)  # a second training in the folder
        assert f"{run}: this run folder is in use, a training is running in it" in text
    process.send_signal(sent)
    process.send_signal(signal.SIGCONT)
    text, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"resume with run={str(run)!r}, resume=True" in text
    assert "KeyboardInterrupt" in text
    assert_readable(run)
    text, _ = program(run).communicate(timeout=300)
    assert text.endswith("done\n"), text


def test_what_is_optional_never_ends_a_training(slices, tmp_path, monkeypatch):
    class Board:
        def add_scalar(self, *_):
            raise OSError("disk full")

        flush = close = add_scalar

    monkeypatch.setattr(checkpoints, "_tensorboard", lambda folder: Board())
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(checkpoints, "training_curves", lambda *_, **__: 1 / 0)
    with pytest.warns(UserWarning, match="could not be written") as caught:
        history = fit(classifier(), slices, recipe=Recipe(epochs=2, batch=4), run=tmp_path / "run", device="cpu")
    said = [str(w.message) for w in caught if "the training is not affected" in str(w.message)]
    assert len(said) == 2
    assert "TensorBoard could not be written (OSError: disk full)" in said[0]
    assert "curves.png could not be written (ZeroDivisionError" in said[1]
    assert len(history) == 2
    load_model(tmp_path / "run" / "best.safetensors")


def test_a_file_of_the_users_in_a_run_folder_is_left_alone(slices, tmp_path):
    run, options = tmp_path / "run", {"recipe": Recipe(epochs=1, batch=4), "device": "cpu"}
    fit(classifier(), slices, run=run, **options)
    (run / ".x.tmp").write_text("the user's")
    fit(classifier(), slices, run=run, resume=True, **options)
    assert (run / ".x.tmp").read_text() == "the user's"


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
