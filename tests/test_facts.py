"""Each image file is opened once, whoever asks and how often; a file that changes is read again."""

import hashlib
import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hccvision as hv
from hccvision import images
from hccvision.contracts import Sample
from hccvision.curation import facts as facts_module
from hccvision.curation.facts import FACTS, FactCache, Facts, facts_of, stamp
from hccvision.curation.thumbnails import grey_picture, perceptual_hash, thumbnail
from hccvision.data.cache import ImageCache
from hccvision.data.manifest import split_document

_opened: Counter[str] = Counter()
_watched: set[str] = set()


def _count(event: str, args: tuple) -> None:
    if event == "open" and _watched and isinstance(args[0], (str, bytes, os.PathLike)):
        name = os.fsdecode(args[0])
        if name in _watched:
            _opened[name] += 1


sys.addaudithook(_count)  # can't be removed; it does nothing while no file is watched


class Opens:
    """Counts how often each of some files is opened, by any library, through Python's audit events."""

    def __init__(self, paths) -> None:
        self.paths = [str(path) for path in paths]

    def __call__(self, action) -> set[int]:
        _opened.clear()
        _watched.update(self.paths)
        try:
            action()
        finally:
            _watched.clear()
        return {_opened[path] for path in self.paths}


def write_dicom(path: Path, pixels: np.ndarray) -> None:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Manufacturer, dataset.ManufacturerModelName = "Maker", "One"
    dataset.PixelData = (pixels.astype(np.uint16) * 7).tobytes()
    dataset.save_as(path, enforce_file_format=True)


def write_nifti(path: Path, pixels: np.ndarray) -> None:
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(pixels[..., None].astype(np.int16), np.diag([-1, -1, 1, 1])), path)


WRITERS = {".dcm": write_dicom, ".nii": write_nifti, ".nii.gz": write_nifti}
SUFFIXES = (".png", ".jpg", ".tif", ".bmp", ".gif", ".webp", ".dcm", ".nii", ".nii.gz")


def write(folder: Path, suffix: str, count: int = 12) -> list[Path]:
    paths = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 200, (6, 6), dtype=np.uint8)).resize((64, 48))
        pixels = (np.asarray(coarse).astype(int) + rng.integers(0, 40, (48, 64))).astype(np.uint8)
        path = folder / f"{seed}{suffix}"
        if suffix in WRITERS:
            WRITERS[suffix](path, pixels)
        else:
            Image.fromarray(pixels).save(path)
        paths.append(path)
    return paths


@pytest.fixture(autouse=True)
def _no_facts_known():
    FACTS.clear()
    yield
    FACTS.clear()


def samples(paths: list[Path], patients: bool = False) -> list[Sample]:
    return [Sample(p, f"P{i}" if patients else None, class_name="ab"[i % 2]) for i, p in enumerate(paths)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_function_opens_each_file_once_and_no_more_when_the_facts_are_known(tmp_path, suffix):
    paths = write(tmp_path, suffix)
    data, opens = samples(paths), Opens(paths)
    actions = {
        "check": lambda: hv.check(data),
        "split": lambda: hv.split(data, group="duplicate"),
        "split by patient": lambda: hv.split(samples(paths, patients=True)),
        "folds": lambda: hv.folds(data, 3, group="duplicate"),
        "leakage": lambda: hv.leakage(data[:6], data[6:]),
        "manifest": lambda: split_document({"train": data}),
        "cache": lambda: ImageCache(tmp_path / "cache").hashes(paths),
    }
    cold = {}
    for name, action in actions.items():
        FACTS.clear()
        cold[name] = opens(action)
    assert cold == {name: {1} for name in actions}
    FACTS.clear()
    opens(actions["check"])
    assert {name: opens(action) for name, action in actions.items()} == {name: {0} for name in actions}


def test_repair_opens_a_file_once_more_to_copy_it(tmp_path):
    (tmp_path / "data").mkdir()
    paths = write(tmp_path / "data", ".png")
    assert Opens(paths)(lambda: hv.repair(samples(paths), tmp_path / "one")) == {2}
    assert Opens(paths)(lambda: hv.repair(samples(paths), tmp_path / "two")) == {1}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_facts_from_one_read_are_those_of_separate_ones(tmp_path, suffix):
    for path in write(tmp_path, suffix, count=2):
        known = FactCache().facts(path)
        assert known.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert known.size == images.image_size(path) == ((64, 48) if suffix.startswith(".nii") else (48, 64))
        assert np.array_equal(known.thumbnail, thumbnail(path))
        assert (
            known.scanner == (images.read_provenance(path).scanner or "") == ("Maker One" if suffix == ".dcm" else "")
        )
        assert known.error == ""
        assert np.array_equal(known.perceptual_hash, perceptual_hash(known.thumbnail[..., None]))
        assert known.mode == ("" if suffix in WRITERS else Image.open(path).mode)
        with path.open("rb") as stream:
            assert np.array_equal(images.read_image(path, source=stream), images.read_image(path))
            assert images.read_provenance(path, source=stream) == images.read_provenance(path)
            assert not stream.closed


def test_a_hash_alone_decodes_nothing_and_a_picture_asked_for_later_is_decoded(tmp_path, monkeypatch):
    (path,) = write(tmp_path, ".png", count=1)
    monkeypatch.setattr(facts_module, "grey_picture", lambda *a, **k: pytest.fail("decoded"))
    cache = FactCache()
    known = cache.facts(path, decode=False)
    assert (known.decoded, known.size, known.thumbnail, known.perceptual_hash) == (False, None, None, None)
    monkeypatch.undo()
    assert cache.facts(path).thumbnail is not None
    assert cache.facts(path, decode=False).decoded
    assert cache.sha256(path) == known.sha256


@pytest.mark.parametrize("keep_times", [True, False])
def test_a_file_that_changes_is_read_again(tmp_path, keep_times):
    path = tmp_path / "a.bmp"
    for level in (10, 11):
        Image.new("L", (8, 8), level).save(path)
        if keep_times:
            os.utime(path, ns=(10**18, 10**18))
        assert (FACTS.facts(path).thumbnail == level).all()
    Image.new("L", (9, 8)).save(tmp_path / "b.bmp")
    (tmp_path / "b.bmp").replace(path)
    assert FACTS.facts(path).size == (8, 9)
    path.unlink()
    assert FACTS.facts(path) is not None
    assert FACTS.facts(path).sha256 is None


def test_a_file_is_not_trusted_while_its_clock_may_stand_still(tmp_path, monkeypatch):
    (path,) = write(tmp_path, ".png", count=1)
    seen = list(stamp(path))
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    for now, newest, kept in ((5, 4, True), (10**9, 0, False), (3 * 10**9, 0, True), (0, 5, False)):
        monkeypatch.setattr(time, "time_ns", lambda now=now: 10**18 + now)
        seen[1:3] = [10**18 + newest] * 2
        assert facts_module._settle(tuple(seen)) == kept
    assert len(waits) == 1
    assert 0 < waits[0] <= 0.02


def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path, monkeypatch):
    (path,) = write(tmp_path, ".png", count=1)

    def meanwhile(*args, **options):
        path.touch()
        return grey_picture(*args, **options)

    monkeypatch.setattr(facts_module, "grey_picture", meanwhile)
    cache = FactCache()
    assert cache.facts(path).thumbnail is not None
    assert len(cache) == 0


def test_files_that_cannot_be_read_are_facts_too(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "folder.png").mkdir()
    (good,) = write(tmp_path, ".jpg", count=1)
    (tmp_path / "cut.jpg").write_bytes(good.read_bytes()[:-300])
    os.mkfifo(tmp_path / "pipe.png")
    names = ("text.png", "cut.jpg", "folder.png", "gone.png", "pipe.png", "null\0.png")
    known = dict(zip(names, facts_of([Sample(tmp_path / name) for name in names]), strict=True))
    assert all(f.decoded and f.thumbnail is None and not f.error.startswith(str(tmp_path)) for f in known.values())
    assert known["text.png"].sha256 == hashlib.sha256(b"not an image").hexdigest()
    assert (known["text.png"].size, known["cut.jpg"].size) == (None, (48, 64))
    with pytest.raises(ValueError, match="can't be read as an image") as error:
        images.read_image(tmp_path / "text.png")
    assert str(error.value) == f"{tmp_path / 'text.png'}: {known['text.png'].error}"
    for name in names[2:]:
        assert (known[name].sha256, known[name].error) == (None, "there is no such image file: check the path")
    with pytest.raises(FileNotFoundError):
        FACTS.sha256(tmp_path / "gone.png")


def test_what_a_missing_library_hides_is_not_remembered(tmp_path, monkeypatch):
    (path,) = write(tmp_path, ".dcm", count=1)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pydicom", None)
        assert "hccvision[medical]" in FACTS.facts(path).error
    assert FACTS.facts(path).size == (48, 64)


def test_files_used_longest_ago_are_forgotten_first(tmp_path):
    paths = write(tmp_path, ".png", count=4)
    cache = FactCache(limit=2)
    for number in (0, 1, 0, 2):
        cache.facts(paths[number])
    assert len(cache) == 2
    assert Opens(paths)(lambda: [cache.facts(paths[i]) for i in (0, 2)]) == {0}
    cache.clear()
    assert len(cache) == 0
    with pytest.raises(ValueError, match="limit is a number of files from 1, got 0"):
        FactCache(0)


def test_a_cache_of_ones_own_is_used_alone(tmp_path):
    paths = write(tmp_path, ".png")
    cache, data = FactCache(), samples(paths)
    hv.check(data, facts=cache)
    assert (len(cache), len(FACTS)) == (12, 0)
    assert Opens(paths)(lambda: hv.leakage(data[:6], data[6:], facts=cache)) == {0}
    assert Opens(paths)(lambda: hv.split(data, group="duplicate", facts=cache)) == {0}
    assert len(FACTS) == 0


def test_facts_default_to_nothing_known():
    assert Facts() is not Facts()
    assert (Facts().sha256, Facts().decoded) == (None, False)
