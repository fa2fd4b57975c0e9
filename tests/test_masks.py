import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from image_files import dicom
from PIL import Image

from hccvision import images
from hccvision.annotations import masks
from hccvision.annotations.mask_folder import read_mask_folder
from hccvision.annotations.names import annotation_stem
from hccvision.annotations.voc_folder import read_voc_folder
from hccvision.registry import IMAGE_FORMATS

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def expected(mask, value, connectivity, min_area):
    """Boxes by SciPy."""
    ndimage = pytest.importorskip("scipy.ndimage")
    places, count = ndimage.label(mask == value, np.ones((3, 3)) if connectivity == 8 else None)
    areas = np.bincount(places.ravel(), minlength=count + 1)[1:]
    found = [s for s, area in zip(ndimage.find_objects(places), areas, strict=True) if area >= min_area]
    return [[x.start, y.start, x.stop, y.stop] for y, x in found]


@calm
@given(
    mask=arrays.arrays(np.int16, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(-1, 2)),
    connectivity=st.sampled_from([4, 8]),
    min_area=st.integers(1, 4),
)
def test_components_are_scipys(mask, connectivity, min_area):
    a = masks.boxes(mask, connectivity=connectivity, min_area=min_area)
    assert a.size == mask.shape
    for value in (-1, 1, 2):
        found = [box for box, name in zip(a.boxes.tolist(), a.names, strict=True) if name == str(value)]
        assert sorted(found) == sorted(expected(mask, value, connectivity, min_area))


def test_a_noisy_mask_of_full_size_has_scipys_components():
    mask = np.random.default_rng(0).random((256, 300)) < 0.45
    for connectivity in (4, 8):
        found = masks.boxes(mask, connectivity=connectivity).boxes.tolist()
        assert sorted(found) == sorted(expected(mask, 1, connectivity, 1))


def test_order_labels_and_kinds_of_numbers():
    mask = np.zeros((6, 8))
    mask[0:2, 5:8], mask[3:5, 0:2], mask[5, 7] = 2, 2, 1
    a = masks.boxes(mask)
    assert a.boxes.tolist() == [[7, 5, 8, 6], [5, 0, 8, 2], [0, 3, 2, 5]]
    assert a.names == ("1", "2", "2")
    assert masks.boxes(mask, labels={2: "hcc", 9: "cyst"}).names == ("hcc", "hcc")
    assert masks.boxes(mask == 1).names == ("1",)
    assert len(masks.boxes(np.zeros((3, 4), bool))) == 0
    assert len(masks.boxes(np.zeros((0, 4), bool))) == 0


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (np.zeros((2, 2, 1)), {}, r"\(H, W\)"),
        (np.full((2, 2), 0.5), {}, "whole numbers"),
        (np.full((2, 2), np.nan), {}, "whole numbers"),
        (np.full((2, 2), "a"), {}, "whole numbers"),
        (np.zeros((2, 2)), {"connectivity": 6}, "4 or 8"),
        (np.zeros((2, 2)), {"labels": {0: "liver"}}, "background"),
    ],
)
def test_what_is_no_mask_is_refused(mask, options, message):
    with pytest.raises(ValueError, match=message):
        masks.boxes(mask, **options)


VALUES = np.array([[0, 3, 3], [0, 0, 200]], np.uint8)


def test_values_of_pictures_are_those_stored(tmp_path):
    grey = Image.fromarray(VALUES)
    palette = Image.new("P", (3, 2))
    palette.putdata(VALUES.ravel().tolist())
    palette.putpalette(list(range(256)) * 3)
    for name, image in (("a.png", grey), ("b.png", palette), ("c.tif", grey), ("d.png", grey.convert("RGB"))):
        image.save(tmp_path / name)
        np.testing.assert_array_equal(masks.read(tmp_path / name), VALUES)
    Image.fromarray(VALUES.astype(np.uint16) * 300).save(tmp_path / "e.png")
    np.testing.assert_array_equal(masks.read(tmp_path / "e.png"), VALUES.astype(int) * 300)
    Image.fromarray(VALUES > 0).save(tmp_path / "f.png")
    np.testing.assert_array_equal(masks.read(tmp_path / "f.png"), VALUES > 0)


def test_pictures_that_are_no_masks_are_refused(tmp_path):
    Image.fromarray(VALUES).save(tmp_path / "a.jpg")
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"no picture")
    for name, message in (("a.jpg", "JPEG blurs"), ("b.png", "coloured"), ("c.png", "can't be read")):
        with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
            masks.read(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="gone"):
        masks.read(tmp_path / "gone.png")


def test_pages_and_registered_formats_are_read_as_masks(tmp_path):
    pages = [Image.fromarray(VALUES)] * 2
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"a\.tif: has 2 slices"):
        masks.read(tmp_path / "a.tif")

    class NumPyFormat(images.ImageFormat):
        suffixes = (".mask.npy",)

        def read(self, file, frame, axis):
            return images.Slice(np.load(file.path))

    IMAGE_FORMATS.register("numpy masks")(NumPyFormat)
    try:
        np.save(tmp_path / "b.mask.npy", VALUES)
        np.testing.assert_array_equal(masks.read(tmp_path / "b.mask.npy"), VALUES)
        assert annotation_stem(tmp_path / "b.mask.npy") == "b"
    finally:
        IMAGE_FORMATS.remove("numpy masks")
    assert annotation_stem(tmp_path / "b.mask.npy") == "b.mask"


def test_folders_are_paired_by_name(tmp_path):
    (tmp_path / "i").mkdir()
    (tmp_path / "m").mkdir()
    for stem in ("P1", "P2", "P3", "P4", "P5"):
        Image.new("L", (3, 2)).save(tmp_path / "i" / f"{stem}.jpg")
    Image.fromarray(VALUES).save(tmp_path / "m" / "P1.png")
    Image.new("L", (3, 2)).save(tmp_path / "m" / "P2.png")
    Image.new("L", (2, 3)).save(tmp_path / "m" / "P4.png")
    (tmp_path / "m" / "P5.png").write_bytes(b"no picture")
    Image.fromarray(VALUES).save(tmp_path / "m" / "P6.png")
    samples = read_mask_folder(tmp_path / "i", tmp_path / "m", labels={3: "hcc", 200: None}, patient=r"P\d")
    assert [[p.kind for p in s.problems] for s in samples] == [
        [], [], ["missing_annotation"], ["size_mismatch"], ["unreadable_annotation"], ["missing_image"],
    ]  # fmt: skip
    assert samples[0].annotation.boxes.tolist() == [[1, 0, 3, 1]]
    assert (samples[0].names, samples[0].patient, samples[0].path.name) == (("hcc",), "P1", "P1.jpg")
    assert (len(samples[1].annotation), samples[1].annotation.filename) == (0, "P2.jpg")
    Image.fromarray(VALUES).save(tmp_path / "m" / "P1.tif")
    assert [p.kind for p in read_mask_folder(tmp_path / "i", tmp_path / "m")[0].problems] == ["ambiguous_image"]
    with pytest.raises(ValueError, match="folders of their own"):
        read_mask_folder(tmp_path, tmp_path)
    (tmp_path / "none").mkdir()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="no images found"):
        read_mask_folder(tmp_path / "none", tmp_path / "nothing")


def volume(path, values, affine=None):
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1, -1, 1, 1]) if affine is None else affine), path)
    return path


@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize("swapped", [False, True])
def test_boxes_lie_where_the_image_shows_the_object(tmp_path, signs, swapped):
    """The object alone is bright: its box bounds the bright pixels of the slice as it is read."""
    values = np.zeros((12, 9, 3), np.int16)
    values[2:5, 1:7, 1] = 700
    affine = np.diag([*signs, 1, 1]).astype(float)
    if swapped:
        affine[:2] = affine[[1, 0]]
    image = volume(tmp_path / "P1.nii.gz", values, affine)
    mask = volume(tmp_path / "mask.nii", values, affine)
    samples = read_voc_folder(masks.write_slices(image, mask, tmp_path / "out", labels={700: "hcc"}))
    assert [(s.path.name, s.names, s.problems) for s in samples] == [
        ("P1_000.png", (), ()), ("P1_001.png", ("hcc",), ()), ("P1_002.png", (), ()),
    ]  # fmt: skip
    rows, columns = np.nonzero(images.read_image(samples[1].path)[..., 0])
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert samples[1].annotation.boxes.tolist() == [box]


def test_volumes_that_do_not_fit_are_refused(tmp_path):
    values = np.zeros((4, 3, 2), np.int16)
    image = volume(tmp_path / "a.nii", values)
    moved = volume(tmp_path / "b.nii", values, np.diag([1, 1, 1, 1]))
    short = volume(tmp_path / "c.nii", values[..., :1])
    halves = volume(tmp_path / "d.nii", values + np.float32(0.5))
    many = volume(tmp_path / "e.nii", np.arange(600, dtype=np.int16).reshape(20, 30))
    for mask, message in ((moved, "not on the grid"), (short, "not on the grid"), (halves, "whole numbers")):
        with pytest.raises(ValueError, match=message):
            masks.write_slices(image, mask, tmp_path / "out")
    with pytest.raises(ValueError, match="at most 256 label values"):
        masks.read(many)
    with pytest.raises(ValueError, match=r"has 2 slices: use masks.write_slices"):
        masks.read(image)
    assert masks.read(short).shape == (3, 4)
    with pytest.raises(FileExistsError, match="new or empty folder"):
        masks.write_slices(image, image, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.shared_data
def test_the_liver_lies_where_the_volume_has_it(shared, tmp_path):
    """Label 5 is the liver: its box is that of the raw labels, turned as the affine says."""
    nibabel = pytest.importorskip("nibabel")
    where = shared / "data/liver_mr"
    source = nibabel.load(where / "example_seg_mr.nii.gz")
    raw = np.asarray(source.dataobj)
    made = masks.write_slices(
        where / "example_mr_sm.nii.gz", where / "example_seg_mr.nii.gz", tmp_path / "liver", labels={5: "liver"},
        min_area=20,
    )  # fmt: skip
    samples = read_voc_folder(made, patient=r"^(\w+)_\d+")
    assert len(samples) == raw.shape[2]
    assert {s.patient for s in samples} == {"example_mr_sm"}
    middle = int(np.argmax((raw == 5).sum(axis=(0, 1))))
    codes = nibabel.aff2axcodes(source.affine)
    plane = raw[..., middle] == 5
    wanted = [("L", "R"), ("P", "A"), ("S", "I")]
    axes = [next(i for i, pair in enumerate(wanted) if code in pair) for code in codes[:2]]
    for axis, (code, kind) in enumerate(zip(codes[:2], axes, strict=True)):
        if code != ("L", "P", "I")[kind]:
            plane = np.flip(plane, axis)
    plane = plane.T if axes[0] < axes[1] else plane
    rows, columns = np.nonzero(plane)
    boxes = samples[middle].annotation.boxes
    assert samples[middle].annotation.size == plane.shape
    assert [*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)] == pytest.approx(
        [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1],
        abs=2,  # specks below min_area
    )


def test_a_picture_may_number_more_instances_than_a_byte_holds(tmp_path):
    mask = np.kron(np.arange(400, dtype=np.uint16).reshape(20, 20), np.ones((3, 3), np.uint16))
    Image.fromarray(mask).save(tmp_path / "instances.png")
    assert len(np.unique(masks.read(tmp_path / "instances.png"))) == 400


def pair(root, mask, suffix=".png"):
    for folder in ("i", "m"):
        (root / folder).mkdir()
    Image.new("L", (mask.width, mask.height)).save(root / "i" / "a.png")
    mask.save(root / "m" / f"a{suffix}")
    return root / "i", root / "m"


def test_values_without_a_stated_meaning_are_reported_and_the_sample_is_not_used(tmp_path):
    folders = pair(tmp_path, Image.fromarray(VALUES))
    (sample,) = read_mask_folder(*folders, labels={3: "hcc"})
    assert [(p.kind, p.usable) for p in sample.problems] == [("unnamed_value", False)]
    assert "does not name (200)" in sample.problems[0].message
    (sample,) = read_mask_folder(*folders, labels={3: "hcc", 200: None})
    assert (sample.names, sample.problems) == (("hcc",), ())


def test_soft_edges_are_reported_and_numbered_lesions_are_not(tmp_path):
    ramp = np.arange(30, dtype=np.uint8)[np.newaxis]
    for number, (factor, expected) in enumerate(((8, ["unnamed_value"]), (1, []))):
        (tmp_path / str(number)).mkdir()
        (sample,) = read_mask_folder(*pair(tmp_path / str(number), Image.fromarray(ramp * np.uint8(factor))))
        assert [p.kind for p in sample.problems] == expected


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_mask_that_is_drawn_in_the_alpha_channel_is_not_empty(tmp_path, mode):
    mask = Image.new(mode, (6, 6))
    mask.putpixel((2, 2), (0,) * (len(mode) - 1) + (255,))
    (sample,) = read_mask_folder(*pair(tmp_path, mask))
    assert [(p.kind, p.usable) for p in sample.problems] == [("unreadable_annotation", False)]
    assert "alpha" in sample.problems[0].message


def test_masks_in_dicom_and_in_folders_of_patients_are_read(tmp_path):
    for patient in ("P1", "P2"):
        (tmp_path / "images" / patient).mkdir(parents=True)
        (tmp_path / "masks" / patient).mkdir(parents=True)
        Image.new("L", (8, 6)).save(tmp_path / "images" / patient / "001.png")
    drawn = np.zeros((6, 8), np.uint8)
    drawn[1:3, 2:5] = 255
    dicom(drawn, tmp_path / "masks" / "P1" / "001.dcm")
    dicom(np.zeros((6, 8), np.uint8), tmp_path / "masks" / "P2" / "001.dcm")
    samples = read_mask_folder(tmp_path / "images", tmp_path / "masks", labels={255: "hcc"})
    assert [(s.path.parent.name, s.annotation.boxes.tolist(), s.problems) for s in samples] == [
        ("P1", [[2, 1, 5, 3]], ()),
        ("P2", [], ()),
    ]
