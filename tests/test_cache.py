"""The folder of decoded slices: same pixels, no file read twice, changes and damage noticed, bounded."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from hccvision import images
from hccvision.contracts import Annotation, Sample
from hccvision.data import cache as cache_module
from hccvision.data import dataset as dataset_module
from hccvision.data.cache import ImageCache, hash_file, key
from hccvision.data.dataset import SliceDataset, collate
from hccvision.model.build import build_model
from hccvision.recipes import Recipe
from hccvision.training.engine import fit

SLICE = 3 * 40 * 50 + cache_module._FOOTER  # bytes of one in the folder


def write(folder: Path, count: int = 4) -> list[Sample]:
    rng = np.random.default_rng(0)
    samples = []
    for i in range(count):
        path = folder / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (30 + i, 44), np.uint8)).save(path)
        annotation = Annotation(np.array([[4, 6, 20, 15]] * (i % 3), np.float32).reshape(-1, 4), ("hcc",) * (i % 3))
        samples.append(Sample(path, f"P{i}", "cancer", annotation))
    return samples


def dataset(samples: list[Sample], cache: object = None, **options: object) -> SliceDataset:
    options = {"image_size": (40, 50), "resize": "letterbox", **options}
    return SliceDataset(samples, task="detection", classes=["hcc"], cache=cache, **options)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("??/*"))


def same(a: SliceDataset, b: SliceDataset) -> bool:
    return all(
        torch.equal(x.image, y.image)
        and torch.equal(x.targets.boxes, y.targets.boxes)
        and a.placement(i) == b.placement(i)
        for i, (x, y) in enumerate(zip(a, b, strict=True))
    )


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    (tmp_path / "images").mkdir()
    return write(tmp_path / "images")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List the files that are decoded in this process."""
    names = []
    read = dataset_module.read_image

    def counted(path: Path, **options: object) -> np.ndarray:
        names.append(Path(path).name)
        return read(path, **options)

    monkeypatch.setattr(dataset_module, "read_image", counted)
    return names


# The same slices, and no file read twice


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize", images.POLICIES)
def test_slices_boxes_and_placements_are_those_of_memory(samples, folder, channels, resize):
    options = {"channels": channels, "resize": resize}
    in_memory = dataset(samples, **options)
    for _ in range(2):  # written, then read
        assert same(dataset(samples, folder, **options), in_memory)
    image = dataset(samples, folder, **options)[0].image
    assert (image.shape, image.dtype) == ((channels, 40, 50), torch.uint8)


def test_epochs_after_the_first_read_no_image_file(samples, folder, reads):
    data = dataset(samples, folder)
    before = [item.image.clone() for item in data]
    assert reads == [f"{i}.png" for i in range(4)]
    for sample in samples:
        sample.path.unlink()
    assert all(torch.equal(item.image, image) for item, image in zip(data, before, strict=True))
    assert [data.placement(i).original_size for i in range(4)] == [(30 + i, 44) for i in range(4)]
    assert len(reads) == 4


def test_workers_read_what_an_epoch_wrote_without_the_images(samples, folder):
    data = pickle.loads(pickle.dumps(dataset(samples, folder)))  # as it reaches a worker that is not forked

    def epoch() -> list:
        return list(DataLoader(data, 2, collate_fn=collate, num_workers=2))

    first = epoch()
    assert len(entries(folder)) == 4  # the workers wrote them
    for sample in samples:
        sample.path.unlink()
    for a, b in zip(first, epoch(), strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets.boxes, b.targets.boxes)


def test_another_data_set_and_a_copy_of_the_files_share_the_slices(samples, folder, tmp_path, reads):
    list(dataset(samples, folder))
    (tmp_path / "elsewhere").mkdir()
    copies = [Sample(tmp_path / "elsewhere" / f"x{s.path.name}", annotation=s.annotation) for s in samples[1:3]]
    for sample, copy in zip(samples[1:3], copies, strict=True):
        copy.path.write_bytes(sample.path.read_bytes())
    assert same(dataset(copies, folder), dataset(samples[1:3]))
    assert reads[4:] == ["1.png", "2.png"]  # of the data set in memory
    assert len(entries(folder)) == 4


def test_each_setting_has_its_own_slices(samples, folder):
    sets = [{}, {"image_size": (50, 40)}, {"resize": "stretch"}, {"channels": 1}]
    for options in [*sets, *sets]:
        assert same(dataset(samples, folder, **options), dataset(samples, **options))
    assert len(entries(folder)) == 16


def test_what_is_done_to_a_slice_stays_with_the_one_who_does_it(samples, folder):
    data = dataset(samples, folder)
    list(data)
    data[0].image.fill_(9)
    assert same(data, dataset(samples))


def test_training_with_a_folder_is_training_without(samples, folder, reads):
    recipe = Recipe(epochs=2, batch=2)
    rows = []
    for cache in (None, folder, folder):
        model = build_model("mobilenet_v1", "ssd", classes=["hcc"], image_size=64, backbone_options={"width": 0.1})
        rows.append(fit(model, samples, samples[:2], recipe=recipe, device="cpu", metrics=[], cache=cache).rows)
    assert rows[0] == rows[1] == rows[2]
    assert len(reads) == 6 + 4  # in memory each set reads its own; in the folder they share


# Changes


def test_a_file_that_changed_is_read_again_and_no_other(samples, folder, reads):
    list(dataset(samples, folder))
    changed = samples[2].path
    stat = changed.stat()
    Image.fromarray(np.full((32, 44), 99, np.uint8)).save(changed)
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as some copying programs do
    list(dataset(samples, folder))
    assert reads[4:] == ["2.png"]
    assert same(dataset(samples, folder), dataset(samples))


def test_a_change_of_one_pixel_that_keeps_size_and_time_is_noticed(tmp_path, folder):
    sample = Sample(tmp_path / "a.bmp", annotation=Annotation(np.zeros((0, 4), np.float32), ()))
    for level in (10, 11):
        Image.fromarray(np.full((40, 50), level, np.uint8)).save(sample.path)
        os.utime(sample.path, (10**9, 10**9))
        assert dataset([sample], folder)[0].image.unique().tolist() == [level]


def test_known_files_are_not_hashed_again(samples, folder, monkeypatch):
    monkeypatch.setattr(cache_module, "_SETTLED", 0.0)  # the files were written just now
    cache = ImageCache(folder)
    hashes = cache.hashes(s.path for s in samples)
    hashed = []
    real = hash_file
    monkeypatch.setattr(cache_module, "hash_file", lambda path: (hashed.append(path.name), real(path))[1])
    assert ImageCache(folder).hashes(s.path for s in samples) == hashes
    assert hashed == []
    samples[1].path.touch()
    assert ImageCache(folder).hashes(s.path for s in samples) == hashes  # the same content
    assert hashed == ["1.png"]


def test_a_file_written_just_now_is_not_trusted_by_its_times(samples, folder):
    ImageCache(folder).hashes(s.path for s in samples)
    assert not (folder / "hashes.json").exists()


def test_the_folder_tells_no_path(samples, folder, monkeypatch):
    monkeypatch.setattr(cache_module, "_SETTLED", 0.0)
    list(dataset(samples, folder))
    text = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert (folder / "hashes.json").exists()
    assert not any(word in text for word in (b".png", samples[0].path.parent.name.encode(), b"P0"))


def test_a_file_that_changes_while_it_is_read_is_refused(samples, folder, monkeypatch):
    data = dataset(samples, folder)
    read = dataset_module.read_image

    def meanwhile(path, **options):
        image = read(path, **options)
        Path(path).write_bytes(samples[1].path.read_bytes())
        return image

    monkeypatch.setattr(dataset_module, "read_image", meanwhile)
    with pytest.raises(OSError, match=r"0.png: it changed while it was read: wait"):
        data[0]
    assert entries(folder) == []


def test_a_file_that_changed_after_the_data_set_was_made_is_refused_with_both_hashes(samples, folder):
    data = dataset(samples, folder)
    before = hash_file(samples[0].path)[1]
    Image.fromarray(np.full((30, 44), 77, np.uint8)).save(samples[0].path)
    after = hash_file(samples[0].path)[1]
    with pytest.raises(ValueError, match=rf"has changed since it was read: its SHA-256 was {before}, and is {after}"):
        data[0]
    assert entries(folder) == []
    assert same(dataset(samples, folder), dataset(samples))


def test_a_missing_file_is_named(samples, folder):
    samples[3].path.unlink()
    with pytest.raises(FileNotFoundError, match=r"3.png: there is no such image file"):
        dataset(samples, folder)


def test_a_reader_that_gives_other_pixels_needs_another_version(tmp_path):
    """If this fails on purpose, raise READER_VERSION and write the new digest."""
    ramp = np.arange(60 * 70).reshape(60, 70)
    digests = []
    for name, pixels in (("a.png", (ramp % 256).astype(np.uint8)), ("b.png", (ramp * 7).astype(np.uint16))):
        Image.fromarray(pixels).save(tmp_path / name)
        small, _ = images.resize(images.read_image(tmp_path / name), (30, 30), "letterbox")
        digests.append(int(small.astype(np.int64).ravel() @ np.arange(small.size) % 999_983))
    assert (cache_module.READER_VERSION, digests) == (2, DIGESTS)


DIGESTS = [71530, 917949]


# Damage


@pytest.mark.parametrize("content", [b"[" * 10**6, b"{}", b"[1, 2]", b"\xff", b'{"a": [[[]]]}', b"9" * 10**5])
def test_an_index_of_hashes_that_is_something_else_is_made_again(samples, folder, content):
    assert same(dataset(samples, folder), dataset(samples))
    (folder / "hashes.json").write_bytes(content)
    assert same(dataset(samples, folder), dataset(samples))


@pytest.mark.parametrize("method", ["mkdir", "write_bytes"])
@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_is_full_or_read_only_costs_a_warning_and_nothing_else(
    samples, folder, monkeypatch, method, reason
):
    expected = dataset(samples)
    real = getattr(Path, method)

    def refuse(path, *args, **options):
        if path.is_relative_to(folder):
            raise OSError(reason, os.strerror(reason), str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(Path, method, refuse)
    with pytest.warns(UserWarning, match=rf"can't be kept in this cache \({os.strerror(reason)}\)"):
        assert same(dataset(samples, folder), expected)


def test_a_slice_that_can_not_be_opened_is_made_again(samples, folder):
    expected = dataset(samples)
    assert same(dataset(samples, folder), expected)
    for path in entries(folder):
        path.unlink()
        path.mkdir()
    with pytest.warns(UserWarning, match="can't be kept in this cache"):
        assert same(dataset(samples, folder), expected)


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-1],
        lambda b: b[:100],
        lambda b: b"",
        lambda b: b + b"\0",
        lambda b: bytes([b[0] ^ 1]) + b[1:],
        lambda b: b[:3000] + bytes(100) + b[3100:],
        lambda b: b[:-512] + bytes(512),
        lambda b: b[:-512] + b"{}".ljust(512),
        lambda b: b[:-512] + b"[]".ljust(512),
        lambda b: b[:-512] + b[-512:].replace(b'"pad_x"', b'"pad_w"'),
    ],
)
def test_a_damaged_slice_is_made_again(samples, folder, damage):
    list(dataset(samples, folder))
    whole = {path: path.read_bytes() for path in entries(folder)}
    for path, content in whole.items():
        path.write_bytes(damage(content))
    assert same(dataset(samples, folder), dataset(samples))
    assert {path: path.read_bytes() for path in entries(folder)} == whole


@settings(max_examples=40, deadline=None)
@given(st.integers(0, SLICE - 1), st.integers(1, 255))
def test_no_byte_of_a_slice_can_change_unseen(tmp_path_factory, position, change):
    cache = ImageCache(tmp_path_factory.mktemp("cache"))
    pixels = torch.arange(6000).to(torch.uint8).view(3, 40, 50)
    placement = images.place((30, 44), (40, 50), "letterbox")
    cache.store("ab", pixels, placement)
    path = cache._path("ab")
    content = bytearray(path.read_bytes())
    content[position] ^= change
    path.write_bytes(content)
    found = ImageCache(cache.folder).load("ab", (3, 40, 50))
    assert found is None or (torch.equal(found[0], pixels) and found[1] == placement)
    assert found is not None or not path.exists()


def test_a_slice_put_in_anothers_place_is_not_taken_for_it(samples, folder):
    list(dataset(samples, folder))
    first, second, *_ = entries(folder)
    second.write_bytes(first.read_bytes())
    assert same(dataset(samples, folder), dataset(samples))


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"a": 1}', "\0"])
def test_a_damaged_list_of_hashes_is_made_again(samples, folder, text, monkeypatch):
    monkeypatch.setattr(cache_module, "_SETTLED", 0.0)
    folder.mkdir()
    (folder / "hashes.json").write_text(text)
    assert same(dataset(samples, folder), dataset(samples))
    assert len(json.loads((folder / "hashes.json").read_text())) >= 4


# Several at a time


def _fill(samples: list[Sample], folder: Path) -> None:
    for _ in range(3):
        assert same(dataset(samples, folder), dataset(samples))


def test_processes_that_fill_it_at_the_same_time_leave_one_valid_file_each(samples, folder):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_fill, args=(samples, folder)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert [path.stat().st_size for path in entries(folder)] == [SLICE] * 4
    for sample in samples:
        sample.path.unlink()
    cache = ImageCache(folder)
    assert all(cache.load(path.name, (3, 40, 50)) is not None for path in entries(folder))
    assert not list(folder.rglob("*.tmp"))


def test_a_slice_read_stays_readable_when_the_cache_is_emptied(samples, folder):
    data = dataset(samples, folder)
    items = [data[i] for i in range(4)]
    ImageCache(folder).trim()
    assert entries(folder) == []
    in_memory = dataset(samples)
    assert all(torch.equal(item.image, in_memory[i].image) for i, item in enumerate(items))
    assert same(data, in_memory)  # made again
    assert len(entries(folder)) == 4


def test_a_write_that_fails_leaves_nothing_and_the_image_is_read_all_the_same(samples, folder, monkeypatch):
    def full(*paths):
        raise OSError(28, "No space left on device")

    data = dataset(samples, folder)
    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(UserWarning, match="can't be kept in this cache .No space left"):
        found = data[0]
    assert torch.equal(found.image, dataset(samples)[0].image)
    assert entries(folder) == []


def test_a_cache_that_can_not_be_made_or_written_is_done_without(samples, folder, tmp_path, monkeypatch):
    real = Path.mkdir

    def read_only(self, *args, **options):
        if self.name == "locked" or self.parent.name == "later":
            raise OSError(30, "Read-only file system", str(self))
        real(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", read_only)
    for name in ("locked", "later"):
        with pytest.warns(UserWarning, match="can't be kept in this cache .Read-only file system.; going on without"):
            items = list(data := dataset(samples, tmp_path / name))
        with monkeypatch.context() as broken:
            broken.setattr("hccvision.data.dataset.read_image", None)  # they are in memory now
            assert all(torch.equal(data[i].image, item.image) for i, item in enumerate(items))
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        dataset(samples, tmp_path / "file")


# Bounds


def test_slices_used_longest_ago_go_first(samples, folder):
    for i, sample in enumerate(samples):
        list(dataset([sample], folder))
        for path in entries(folder):
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
        assert len(entries(folder)) == i + 1
    list(dataset(samples[:1], folder))  # used again
    cache = ImageCache(folder)
    cache.trim(2 * SLICE)
    settings = dataset(samples)._settings()
    kept = {key(hash_file(samples[i].path)[1], settings) for i in (0, 3)}
    assert {path.name for path in entries(folder)} == kept
    cache.trim(2 * SLICE - 1)
    assert len(entries(folder)) == 1


def test_the_folder_keeps_to_its_limit(samples, folder):
    cache = ImageCache(folder, limit=3 * SLICE)
    for part in (samples[:2], samples[2:], samples[1:]):
        list(dataset(part, cache))
        assert len(entries(folder)) <= 3
    assert len(entries(folder)) == 3


def test_a_data_set_beyond_the_limit_is_refused(samples, folder):
    with pytest.raises(ValueError, match=rf"takes {4 * SLICE:,} bytes, .* may take {4 * SLICE - 1:,}: raise"):
        dataset(samples, ImageCache(folder, limit=4 * SLICE - 1))
    assert len(dataset(samples, ImageCache(folder, limit=4 * SLICE))) == 4
    with pytest.raises(ValueError, match="limit is a number of bytes from 1, got 0"):
        ImageCache(folder, limit=0)


def test_what_a_process_that_died_left_half_written_is_swept_up(samples, folder):
    list(dataset(samples, folder))
    old, new = (entries(folder)[0].with_name(f"{name}.tmp") for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    dataset(samples, folder)
    assert (old.exists(), new.exists()) == (False, True)


def test_no_samples_need_no_slices(folder):
    assert len(dataset([], folder)) == 0
    assert entries(folder) == []
