import io
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hccvision import phantom
from hccvision.annotations.image_folder import read_image_folder
from hccvision.annotations.voc_folder import read_voc_folder
from hccvision.contracts import Sample
from hccvision.curation.duplicates import near_duplicates, same_content
from hccvision.curation.facts import Facts, facts_of
from hccvision.curation.thumbnails import hamming, perceptual_hash, thumbnail


def names(groups: list[list[Sample]]) -> list[list[str]]:
    return [[s.path.name for s in group] for group in groups]


def brightened(image: Image.Image, gain: float, shift: float) -> Image.Image:
    return Image.fromarray(np.clip(np.asarray(image, float) * gain + shift, 0, 255).astype(np.uint8))


def resized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.convert("L").save(stream, "JPEG", quality=quality)
    return Image.open(stream)


CHANGES = {
    "jpeg": lambda image: jpeg(image, 60),
    "half": lambda image: resized(image, 0.5),
    "larger": lambda image: resized(image, 1.4),
    "squeezed": lambda image: image.resize((224, 224), Image.Resampling.BILINEAR),
    "brighter": lambda image: brightened(image, 1.0, 20),
    "darker": lambda image: brightened(image, 0.8, 0),
    "all": lambda image: jpeg(brightened(resized(image, 0.6), 1.1, 8), 70),
}
TURNS = tuple(Image.Transpose)


@pytest.fixture(scope="module")
def slices(tmp_path_factory) -> list[Path]:
    root = phantom.write_dataset(tmp_path_factory.mktemp("liver") / "data", patients=2, slices=5, seed=3)
    return sorted((root / "JPEGImages").iterdir())


def test_unreadable_files_are_groups_of_their_own(tmp_path):
    for name, content in (("a.png", b"not an image"), ("b.png", b"not an image"), ("c.png", b"nor this")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.png").mkdir()
    order = ("a.png", "gone.png", "b.png", "folder.png", "c.png", "gone.png")
    data = [Sample(tmp_path / name) for name in order]
    expected = [["a.png", "b.png"], ["gone.png"], ["folder.png"], ["c.png"], ["gone.png"]]
    assert names(same_content(data)) == names(near_duplicates(data)) == expected
    assert near_duplicates([]) == same_content([]) == []


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_among_the_slices_of_its_patient(slices, tmp_path, change):
    source = slices[2]
    CHANGES[change](Image.open(source)).convert("L").save(tmp_path / "copy.png")
    data = [Sample(path) for path in (*slices, tmp_path / "copy.png")]
    groups = near_duplicates(data)
    assert [g for g in names(groups) if len(g) > 1] == [[source.name, "copy.png"]]
    assert len(groups) == len(slices)
    assert names(same_content(data)) == [[s.path.name] for s in data]


@pytest.mark.parametrize("turn", TURNS, ids=lambda t: t.name)
def test_a_turned_copy_is_found_only_if_asked_for(slices, tmp_path, turn):
    jpeg(Image.open(slices[0]).transpose(turn), 80).save(tmp_path / "turned.png")
    data = [Sample(path) for path in (tmp_path / "turned.png", *slices)]
    assert max(map(len, near_duplicates(data))) == 1
    assert names(near_duplicates(data, mirrored=True))[0] == ["turned.png", slices[0].name]
    assert len(near_duplicates(data, mirrored=True)) == len(slices)


def test_copies_of_copies_are_one_group_in_the_order_given(slices, tmp_path):
    first = Image.open(slices[0])
    first.save(tmp_path / "b.bmp")
    jpeg(first, 70).save(tmp_path / "a.jpg", quality=70)
    data = [Sample(p) for p in (slices[1], tmp_path / "b.bmp", slices[2], tmp_path / "a.jpg", slices[0])]
    assert names(near_duplicates(data)) == [[slices[1].name], ["b.bmp", "a.jpg", slices[0].name], [slices[2].name]]
    assert near_duplicates(data) == near_duplicates(data, facts=facts_of(data))
    with pytest.raises(ValueError, match=r"facts about each of 5 samples, got 0"):
        near_duplicates(data, facts=[])


def test_flat_images_are_not_copies_of_one_another(tmp_path):
    for name, grey in (("a.png", 0), ("b.png", 9), ("c.png", 0)):
        Image.new("L", (30, 20), grey).save(tmp_path / name)
    data = [Sample(tmp_path / f"{stem}.png") for stem in "abc"]
    assert names(near_duplicates(data, mirrored=True)) == [["a.png", "c.png"], ["b.png"]]


def test_groups_do_not_depend_on_the_block_size(slices, tmp_path):
    from hccvision.curation import duplicates

    jpeg(Image.open(slices[4]), 60).save(tmp_path / "copy.jpg", quality=60)
    pictures = [thumbnail(p) for p in (tmp_path / "copy.jpg", *slices)]
    for turns in (duplicates._ORIENTATIONS, duplicates._ORIENTATIONS[:1]):
        for block in (1, 3, 100):
            found = duplicates._copies(pictures, 150, 0.955, turns, block)
            assert {pair for pairs in found for pair in zip(*(p.tolist() for p in pairs), strict=True)} == {(0, 5)}


@pytest.mark.parametrize("alike", [True, False])
def test_thousands_of_alike_images_are_compared_in_seconds(alike):
    rng = np.random.default_rng(0)
    base = np.arange(80)[:, None] + np.arange(80)
    grain = rng.normal(0, 3, (80, 80))
    pictures = [
        np.clip(base + (grain + i % 7 if alike else rng.normal(0, 1, (80, 80))), 0, 255).astype(np.uint8)
        for i in range(2000)
    ]
    facts = [Facts(sha256=str(i), decoded=True, thumbnail=p) for i, p in enumerate(pictures)]
    data = [Sample(Path(f"{i}.png")) for i in range(2000)]
    started = time.monotonic()
    assert len(near_duplicates(data, facts=facts)) == (1 if alike else 2000)
    assert time.monotonic() - started < 30


def test_a_thumbnail_is_read_as_the_image_is(slices, tmp_path):
    picture = np.asarray(Image.open(slices[0]))
    colour = np.stack([picture, picture, picture], axis=2)
    Image.fromarray(colour).save(tmp_path / "a.jpg", quality=95)
    turned = Image.fromarray(np.ascontiguousarray(colour[:, ::-1]))
    exif = Image.Exif()
    exif[0x0112] = 2  # mirrored
    turned.save(tmp_path / "b.jpg", quality=95, exif=exif)
    plain = thumbnail(slices[0]).astype(int)
    for name in ("a.jpg", "b.jpg"):
        small = thumbnail(tmp_path / name)
        assert (small.shape, small.dtype) == ((80, 80), np.uint8)
        assert np.abs(small - plain).mean() < 2


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_image_has_no_thumbnail(slices, tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.open(slices[0]).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"a\.{suffix}: can't be read as an image"):
        thumbnail(path)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        thumbnail(tmp_path / "gone.png")


@given(
    seed=st.integers(0, 2**16), height=st.integers(1, 40), width=st.integers(1, 40), channels=st.sampled_from([1, 3])
)
def test_a_hash_has_512_bits_and_is_at_no_distance_from_itself(seed, height, width, channels):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    one = perceptual_hash(image)
    assert (one.shape, one.dtype) == ((64,), np.uint8)
    assert hamming(one, one) == 0
    assert hamming(one, ~one) == 512
    assert hamming(one, perceptual_hash(image[:, ::-1])) == hamming(perceptual_hash(image[:, ::-1]), one)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 2), (0, 8, 1)])
def test_a_hash_is_only_of_images(shape):
    with pytest.raises(ValueError, match=r"expected an image \(H, W, 1 or 3\) uint8, got"):
        perceptual_hash(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="float64"):
        perceptual_hash(np.zeros((8, 8, 1)))


@pytest.mark.shared_data
def test_near_copies_among_the_brain_slices(shared):
    data = read_image_folder(shared / "data/brain_mri_253", {"no": "no", "yes": "yes"})
    groups = [group for group in near_duplicates(data) if len(group) > 1]
    together = {s.path.name: number for number, group in enumerate(groups) for s in group}
    for group in same_content(data):
        assert len({together.get(s.path.name, s.path.name) for s in group}) == 1
    for one, other in (("Y35.jpg", "Y8.jpg"), ("no 923.jpg", "no.jpg"), ("Y156.JPG", "Y60.jpg")):  # seen by eye
        assert together[one] == together[other]
    assert "Y113.JPG" not in together or together["Y113.JPG"] != together.get("Y59.JPG")  # another slice of the head


@pytest.mark.shared_data
def test_near_copies_among_the_blood_cells(shared):
    data = read_voc_folder(shared / "data/bccd", subset="val")
    assert max(map(len, near_duplicates(data))) == 1
