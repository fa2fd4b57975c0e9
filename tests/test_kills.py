"""Every writer of files, killed at random and on a full disk: the old files, the new ones, or nothing."""

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from hccvision import phantom

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL and no RLIMIT_FSIZE on Windows")

WORKER = r"""
import os, resource, signal, sys, traceback
from pathlib import Path
import nibabel
import numpy as np
import torch
from hccvision.annotations.coco import write_coco
from hccvision.annotations.formats import read_folder
from hccvision.annotations.writing import write_folder
from hccvision.annotations.yolo import write_yolo_folder
from hccvision.curation.checks import check
from hccvision.curation.expansion import expand_dataset
from hccvision.curation.repair import repair
from hccvision.annotations.masks import write_slices
from hccvision.contracts import Detections, Prediction
from hccvision.data.manifest import save_split
from hccvision.export.exporter import export_model
from hccvision.model.build import build_model
from hccvision.phantom import write_dataset
from hccvision.plots.curves import training_curves
from hccvision.plots.saving import save
from hccvision.scoring import score

torch.set_num_threads(1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
data = read_folder(Path(sys.argv[1]), patient=r"^(P\d+)_")
volume, mask = (Path(sys.argv[1]).parent / f"{name}.nii.gz" for name in ("volume", "mask"))
values = np.zeros((40, 40, 6), np.uint8)
values[5:20, 5:20] = 1
for path in (volume, mask):
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
small = {"classes": ["a", "b"], "image_size": 64, "backbone_options": {"width": 0.1}}
models = {v: build_model("mobilenet_v1", "linear", seed=ord(v[0]), **small).eval() for v in ("old", "new")}

def report(version):
    part = data if version == "new" else data[:4]
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    return score([Prediction(str(s.path), None, nothing) for s in part], part, task="detection", classes=["hcc"])

def curves(target, version):
    save(training_curves([{"train_loss": n ** (2 if version == "new" else 1)} for n in range(1, 4)]), target)

WRITERS = {
    "slices": lambda target, version: write_slices(volume, mask, target, labels={1: "hcc"}),
    "phantom": lambda target, version: write_dataset(target, patients=2, slices=2),
    "report": lambda target, version: report(version).save(target, overwrite=True, pictures=1),
    "model": lambda target, version: models[version].save(target),
    "export": lambda target, version: export_model(models[version], target),
    "curves": curves,
    "expand": lambda target, version: expand_dataset(data, target, to=len(data) + 4, augmentation="none"),
    "repair": lambda target, version: repair(data, target),
    "voc": lambda target, version: write_folder(data, target),
    "yolo": lambda target, version: write_yolo_folder(data, target),
    "coco": lambda target, version: write_coco(data if version == "new" else data[:4], target, overwrite=True),
    "split": lambda target, version: save_split((data[:4], data[4:]), target, seed=ord(version[0])),
    "check": lambda target, version: check(data if version == "new" else data[:4]).save(target, overwrite=True),
}
for line in sys.stdin:  # each job in a process of its own, as cheap as a fork
    name, target, version, limit = line.split("|")
    child = os.fork()
    if child == 0:
        try:
            if int(limit):
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit),) * 2)
            WRITERS[name](Path(target), version)
            os._exit(0)
        except OSError:
            os._exit(3)
        except BaseException:
            traceback.print_exc()
            os._exit(4)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Worker:
    """Runs writers in processes that can be killed."""

    def __init__(self, data):
        command = [sys.executable, "-c", WORKER, str(data)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, name, target, version="new", *, kill_after=None, limit=0):
        """Return the status of a writer, which is killed after so many seconds."""
        self.process.stdin.write(f"{name}|{target}|{version}|{limit}\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        start = time.monotonic()  # a fork takes its time too
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):  # it is done
                os.kill(child, signal.SIGKILL)
        status = int(self.process.stdout.readline())
        self.seconds = time.monotonic() - start
        return status


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills") / "liver"
    return phantom.write_dataset(folder, patients=4, slices=2, cancer_share=0.5, level="mild")


@pytest.fixture(scope="module")
def worker(data):
    worker = Worker(data)
    yield worker
    worker.process.stdin.close()
    worker.process.wait(timeout=60)
    worker.process.stdout.close()


def contents(path):
    """Hash of every file of a target that a reader would open, by name; None if there is no target."""
    if path.is_file():
        return {"": hashlib.sha256(path.read_bytes()).hexdigest()}
    if not path.is_dir():
        return None
    files = (f for f in sorted(path.rglob("*")) if f.is_file() and ".tmp" not in str(f.relative_to(path)))
    return {str(f.relative_to(path)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files} or None


def whole(worker, name, target, version):
    """What a writer leaves that nobody stops, and the seconds that it takes."""
    assert worker.run(name, target, version) == 0
    return contents(target), worker.seconds


FOLDERS = ["expand", "repair", "voc", "yolo", "slices", "phantom"]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("report", "curves", "export")]
FILES = ["coco", "split", "check", "model", *SLOW]
ENDS = {"model": "safetensors", "curves": "png", "export": "pt2"}
KILLS = [pytest.param(3, id="3"), pytest.param(15, marks=pytest.mark.slow, id="15")]


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("name", FOLDERS)
def test_a_killed_writer_of_a_new_folder_leaves_nothing_or_all(name, kills, worker, tmp_path):
    expected, seconds = whole(worker, name, tmp_path / "whole", "new")
    place, rng = tmp_path / "killed", random.Random(0)
    place.mkdir()
    for number in range(kills):
        target = place / str(number)
        worker.run(name, target, kill_after=rng.uniform(0, seconds))
        found = contents(target)
        assert found is None or set(found) == set(expected)
    for path in place.rglob("*"):
        os.utime(path, (1e9, 1e9))
    assert worker.run(name, place / "last") == 0
    assert not [path for path in place.iterdir() if path.name.startswith(".")]  # the drafts are swept


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("name", FILES)
def test_a_killed_writer_leaves_the_old_files_or_the_new_ones(name, kills, worker, tmp_path):
    target = tmp_path / "killed" / f"target.{ENDS.get(name, 'json')}"
    target.parent.mkdir()
    new, seconds = whole(worker, name, target, "new")
    old, _ = whole(worker, name, target, "old")
    assert new != old
    rng = random.Random(0)
    for _ in range(kills):
        worker.run(name, target, "new", kill_after=rng.uniform(0, seconds))
        found = contents(target)
        assert found in (old, new)
        if found == new:
            assert whole(worker, name, target, "old")[0] == old
    for path in target.parent.rglob("*"):
        os.utime(path, (1e9, 1e9))
    assert whole(worker, name, target, "new")[0] == new
    left = [*target.parent.iterdir(), *(target.iterdir() if target.is_dir() else ())]
    assert not [path for path in left if path.name.startswith(".")]


@pytest.mark.parametrize("name", FILES)
def test_on_a_full_disk_the_old_files_stay(name, worker, tmp_path):
    target = tmp_path / f"target.{ENDS.get(name, 'json')}"
    new, _ = whole(worker, name, target, "new")
    largest = max(path.stat().st_size for path in ([target] if target.is_file() else target.iterdir()))
    old, _ = whole(worker, name, target, "old")
    for limit in (largest - 1, largest // 2):
        assert worker.run(name, target, "new", limit=limit) == 3 << 8
        assert contents(target) == old
    assert not list(tmp_path.rglob(".*"))
    assert whole(worker, name, target, "new")[0] == new


@pytest.mark.parametrize("name", FOLDERS)
def test_on_a_full_disk_a_new_folder_does_not_appear(name, worker, tmp_path):
    whole(worker, name, tmp_path / "whole", "new")
    largest = max(path.stat().st_size for path in (tmp_path / "whole").rglob("*.png"))
    assert worker.run(name, tmp_path / "new", limit=largest - 1) == 3 << 8
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
