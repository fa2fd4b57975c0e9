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
from hccvision.annotations.formats import read_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL and no RLIMIT_FSIZE on Windows")

WORKER = r"""
import os, resource, signal, sys, traceback
from pathlib import Path
import torch
from hccvision.annotations.coco import write_coco
from hccvision.annotations.formats import read_folder
from hccvision.annotations.writing import write_folder
from hccvision.annotations.yolo import write_yolo_folder
from hccvision.curation.checks import check
from hccvision.curation.expansion import expand_dataset
from hccvision.curation.repair import repair
from hccvision.data.manifest import save_split

torch.set_num_threads(1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
data = read_folder(Path(sys.argv[1]), patient=r"^(P\d+)_")

WRITERS = {
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


@pytest.mark.parametrize("name", ["expand", "repair", "voc", "yolo"])
def test_a_killed_writer_of_a_new_folder_leaves_nothing_or_all(name, worker, tmp_path):
    expected, seconds = whole(worker, name, tmp_path / "whole", "new")
    place, rng = tmp_path / "killed", random.Random(0)
    place.mkdir()
    for number in range(8):
        target = place / str(number)
        worker.run(name, target, kill_after=rng.uniform(0, seconds))
        found = contents(target)
        assert found is None or set(found) == set(expected)
    for path in place.rglob("*"):
        os.utime(path, (1e9, 1e9))
    assert worker.run(name, place / "last") == 0
    assert not [path for path in place.iterdir() if path.name.startswith(".")]  # the drafts are swept


@pytest.mark.parametrize("name", ["coco", "split", "check"])
def test_a_killed_writer_leaves_the_old_files_or_the_new_ones(name, worker, tmp_path):
    target = tmp_path / "killed" / "target.json"
    target.parent.mkdir()
    new, seconds = whole(worker, name, target, "new")
    old, _ = whole(worker, name, target, "old")
    assert new != old
    rng = random.Random(0)
    for _ in range(8):
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


@pytest.mark.parametrize("name", ["coco", "split", "check"])
def test_on_a_full_disk_the_old_files_stay(name, worker, tmp_path):
    target = tmp_path / "target.json"
    new, _ = whole(worker, name, target, "new")
    largest = max(path.stat().st_size for path in ([target] if target.is_file() else target.iterdir()))
    old, _ = whole(worker, name, target, "old")
    assert worker.run(name, target, "new", limit=largest - 1) == 3 << 8
    assert contents(target) == old
    assert not list(tmp_path.rglob(".*"))
    assert whole(worker, name, target, "new")[0] == new


@pytest.mark.parametrize("name", ["expand", "repair", "voc", "yolo"])
def test_on_a_full_disk_a_new_folder_does_not_appear(name, worker, data, tmp_path):
    largest = max(sample.path.stat().st_size for sample in read_folder(data))
    assert worker.run(name, tmp_path / "new", limit=largest - 1) == 3 << 8
    assert list(tmp_path.iterdir()) == []
