import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hccvision.annotations import voc
from hccvision.annotations.coco import COCOFormat, read_coco, write_coco
from hccvision.annotations.voc_folder import read_voc_folder
from hccvision.annotations.yolo import read_yolo_folder, write_yolo_folder
from hccvision.contracts import Annotation, Problem, Sample

calm = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def picture(path: Path, size=(60, 50)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, 9).save(path)
    return path


def document(**changes):
    """Two images with a box on the first."""
    images = [{"id": 7, "file_name": "a.png", "width": 60, "height": 50}, {"id": "x", "file_name": "b/ä 2.png"}]
    objects = [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 20, 20.5, 25], "iscrowd": 0}]
    return {"images": images, "annotations": objects, "categories": [{"id": 3, "name": "hcc"}], **changes}


@pytest.fixture
def root(tmp_path) -> Path:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b" / "ä 2.png", (40, 30))
    return tmp_path


def read(root: Path, **changes) -> list[Sample]:
    (root / "c.json").write_text(json.dumps(document(**changes)), encoding="utf-8")
    return read_coco(root / "c.json")


def objects(**changes):
    return {"annotations": [document()["annotations"][0] | changes]}


def kinds(samples) -> list[list[str]]:
    return [[p.kind for p in s.problems] for s in samples]


def test_reads_boxes_names_and_images_without_annotations(root):
    first, second = read(root)
    assert first.path == root / "a.png"
    assert first.annotation.boxes.tolist() == [[10, 20, 30.5, 45]]
    assert (first.annotation.names, first.annotation.size, first.annotation.difficult) == (("hcc",), (50, 60), (False,))
    assert (second.path, second.annotation.size, len(second.annotation)) == (root / "b" / "ä 2.png", (30, 40), 0)
    assert kinds([first, second]) == [[], []]


def test_crowds_and_ignored_objects_are_not_the_same(root):
    for entry, difficult, crowd in (({"iscrowd": 1}, False, True), ({"ignore": 1}, True, False)):
        samples = read(root, **objects(**entry))
        for annotation in (samples[0].annotation, read_coco(write_coco(samples, root / "again.json"))[0].annotation):
            assert (annotation.difficult, annotation.crowd) == ((difficult,), (crowd,))
        (root / "again.json").unlink()


def test_a_category_of_a_megabyte_is_refused_in_a_few_words(root):
    with pytest.raises(ValueError, match="a name of 1 to 1000 characters") as caught:
        read(root, categories=[{"id": 3, "name": "hcc" * 400_000}])
    assert len(str(caught.value)) < 500
    read(root, categories=[{"id": 3, "name": "h" * 1000}])


def test_patients_and_another_folder_of_images(root, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "c.json"
    path.write_text(json.dumps(document()))
    samples = read_coco(path, str(root), patient=r"^(a)")
    assert [s.patient for s in samples] == ["a", None]
    assert kinds(samples) == [[], ["no_patient"]]
    assert kinds(read_coco(path)) == [["missing_image"], ["missing_image"]]
    with pytest.raises(FileNotFoundError, match="gone: no such folder"):
        read_coco(path, root / "gone")


@pytest.mark.parametrize(
    ("change", "kind", "count"),
    [
        ({"bbox": [10, 20, 0, 5]}, "degenerate_box", 0),
        ({"bbox": [10, 20, 5, -5]}, "degenerate_box", 0),
        ({"bbox": [10, 20, float("nan"), 5]}, "bad_box", 0),
        ({"bbox": [10, 20, float("inf"), 5]}, "bad_box", 0),
        ({"bbox": [10, 20, 10**400, 5]}, "bad_box", 0),
        ({"bbox": [10, 20, "5", 5]}, "bad_box", 0),
        ({"bbox": [10, 20, True, 5]}, "bad_box", 0),
        ({"bbox": [10, 20, 5]}, "bad_box", 0),
        ({"bbox": None}, "bad_box", 0),
        ({"bbox": [50, 20, 20, 5]}, "box_outside", 1),
        ({"bbox": [-1, 20, 20, 5]}, "box_outside", 1),
        ({"bbox": [60, 20, 20, 5]}, "box_off_image", 0),
        ({"category_id": 4}, "unknown_category", 0),
        ({"category_id": None}, "unknown_category", 0),
        ({"category_id": [3]}, "unknown_category", 0),
    ],
)
def test_a_wrong_annotation_costs_only_itself(root, change, kind, count):
    first, second = read(root, **objects(**change))
    assert (kinds([first, second]), len(first.annotation)) == ([[kind], []], count)
    (problem,) = first.problems
    assert problem.usable == (count > 0)  # without its only box it is not an image without lesions
    assert problem.path == str(root / "c.json")
    assert "annotation 1 of 'a.png'" in problem.message


@pytest.mark.parametrize("names", [[(0, "hcc"), (3, "hcc")], [(3, "hcc"), (4, "hcc")], [(3, "other"), (3, "hcc")][:1]])
def test_an_unused_category_with_the_name_of_another_is_left_out_and_printed(root, names, capsys):
    first, _ = read(root, categories=[{"id": known, "name": name} for known, name in names])
    assert (first.names, first.problems) == ((dict(names)[3],), ())
    assert ("unused and named like another" in capsys.readouterr().out) == (len(names) > 1)


def test_ids_may_be_written_as_texts(root):
    first, _ = read(root, **objects(image_id="7", category_id="3"))
    assert (first.names, first.problems) == (("hcc",), ())


def test_images_of_a_folder_that_its_coco_file_does_not_list_are_problems(root):
    read(root)
    picture(root / "c" / "more.jfif")
    *listed, unread = COCOFormat().read(root)
    assert kinds([*listed, unread]) == [[], [], ["unread_image"]]
    assert unread.path == root / "c" / "more.jfif"


def test_rounding_over_the_edge_is_cut(root):
    (first, _) = read(root, **objects(bbox=[-0.01, 20, 60.02, 30.01]))
    assert first.annotation.boxes.tolist() == [[0, 20, 60, 50]]
    assert first.problems == ()


@pytest.mark.parametrize(
    "name", ["../a.png", "b/../../a.png", "/etc/passwd", "C:\\a.png", "\\\\host\\a.png", "..\\a.png", "a\0.png"]
)
def test_names_that_lead_out_of_the_folder_are_refused(root, name):
    samples = read(root, images=[{"id": 7, "file_name": name}])
    assert kinds(samples) == [["unsafe_path"], ["unread_image"], ["unread_image"]]
    (problem,) = samples[0].problems
    assert not problem.usable
    assert repr(name) in problem.message
    assert samples[0].path.parent == root


@pytest.mark.parametrize("entry", [{}, {"id": 1}, {"file_name": "a.png"}, {"id": 1, "file_name": 5}, None, "a.png"])
def test_entries_that_name_no_image_are_problems(root, entry):
    samples = read(root, images=[entry], annotations=[])
    assert kinds(samples) == [["missing_image"], ["unread_image"], ["unread_image"]]


def test_problems_of_images(root):
    gone = {"id": 7, "file_name": "gone.png"}
    assert kinds(read(root, images=[gone])) == [["missing_image"], ["unread_image"], ["unread_image"]]
    turned = {"id": 7, "file_name": "a.png", "width": 50, "height": 60}
    assert kinds(read(root, images=[turned])) == [["size_mismatch"], ["unread_image"]]
    one, two = document()["images"]
    assert kinds(read(root, images=[one, two | {"id": 7}], annotations=[])) == [["duplicate_image"]] * 2
    assert kinds(read(root, images=[one, one | {"id": 8}])) == [["duplicate_image"]] * 2 + [["unread_image"]]
    (root / "a.png").write_bytes(b"no picture")
    assert kinds(read(root)) == [["unreadable_image"], []]


@pytest.mark.parametrize("item", [{"image_id": 99, "category_id": 3, "bbox": [1, 1, 2, 2]}, {}, None, 5])
def test_annotations_of_no_image_are_a_problem(root, item):
    samples = read(root, annotations=[item])
    assert kinds(samples) == [[], [], ["missing_image"]]
    assert "annotations 1 of the list" in samples[2].problems[0].message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not a readable JSON"),
        (b"{", "not a readable JSON"),
        (b"\xff\xfe\xfd", "not a readable JSON"),
        (b"[" * 10**6, "not a readable JSON"),
        (b"[]", "with the lists images, annotations, categories"),
        (b'{"images": [], "annotations": {}, "categories": []}', "with the lists"),
        (json.dumps(document(categories=[{"id": 3}])).encode(), "needs an id and a name"),
        (json.dumps(document(categories=[None])).encode(), "needs an id and a name"),
        (json.dumps(document(categories=[{"id": 3, "name": "a"}] * 2)).encode(), "appears twice"),
        (
            json.dumps(
                document(
                    categories=[{"id": 3, "name": "a"}, {"id": 4, "name": "a"}],
                    annotations=[{"image_id": 7, "category_id": n, "bbox": [1, 2, 3, 4]} for n in (3, 4)],
                )
            ).encode(),
            "appears twice",
        ),
    ],
)
def test_what_is_not_a_coco_file_is_refused_by_name(tmp_path, text, message):
    (tmp_path / "c.json").write_bytes(text)
    with pytest.raises(ValueError, match=rf"c\.json: .*{message}"):
        read_coco(tmp_path / "c.json")
    with pytest.raises(FileNotFoundError, match=r"gone\.json.*check the path"):
        read_coco(tmp_path / "gone.json")


def test_what_can_not_be_written_is_refused(root):
    good = read(root)
    out = root / "out.json"
    bad = Sample(root / "a.png", annotation=Annotation(np.array([[1, 2, np.nan, 4]]), ("hcc",), size=(50, 60)))
    flat = Sample(root / "a.png", annotation=Annotation(np.array([[70, 2, 80, 4]]), ("hcc",), size=(50, 60)))
    marked = Sample(root / "a.png", annotation=good[0].annotation, problems=(Problem("k", "a", "it is wrong", False),))
    for samples, options, message in (
        ([Sample(root / "a.png")], {}, r"a\.png: has no annotation"),
        ([bad], {}, "finite"),
        ([flat], {}, "inside the image"),
        ([marked], {}, "it is wrong"),
        (good, {"classes": ["cyst"]}, "contain each of"),
        (good, {"classes": ["hcc", "hcc"]}, "once"),
        (good, {"images": root / "b"}, "outside the folder"),
    ):
        with pytest.raises(ValueError, match=message):
            write_coco(samples, out, **options)
    assert not out.exists()
    write_coco([marked, good[0]], out, on_problem="skip")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_coco(good, out)
    assert len(read_coco(write_coco(good, out, overwrite=True, classes=["cyst", "hcc"]), root)) == 2
    assert [p.name for p in root.glob(".*")] == []


def test_pycocotools_reads_the_same(root):
    coco = pytest.importorskip("pycocotools.coco")
    more = [{"id": n, "image_id": 7, "category_id": 3, "bbox": [n, 2, 3.25, 4], "iscrowd": n % 2} for n in (2, 3)]
    samples = read(root, annotations=document()["annotations"] + more)
    out = write_coco(samples, root / "out.json")
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = coco.COCO(str(out))
    for sample, key in zip(read_coco(out), theirs.getImgIds(), strict=True):
        entry = theirs.loadImgs([key])[0]
        assert (sample.path, sample.annotation.size) == (root / entry["file_name"], (entry["height"], entry["width"]))
        found = theirs.loadAnns(theirs.getAnnIds([key]))
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in found)]
        assert sample.annotation.boxes.tolist() == boxes
        assert [n for n in sample.names] == [theirs.cats[a["category_id"]]["name"] for a in found]
        assert list(sample.annotation.crowd) == [bool(a["iscrowd"]) for a in found]
        assert [a["area"] for a in found] == [a["bbox"][2] * a["bbox"][3] for a in found]


# From one format to the next


@st.composite
def drawn(draw, size):
    height, width = size
    boxes, n = [], draw(st.integers(0, 5))
    for _ in range(n):
        low = [draw(st.floats(0, side - 3, width=32)) for side in (width, height)]
        high = [  # of more than a pixel: VOC's base has no box of one, see voc.write
            draw(st.floats(at + 2, side, width=32)) for at, side in zip(map(np.ceil, low), (width, height), strict=True)
        ]
        boxes.append([*low, *high])
    names = draw(st.lists(st.sampled_from(["hcc", "Zyste 2", "肝"]), min_size=n, max_size=n))
    flags = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    return Annotation(np.array(boxes, np.float32), tuple(names), size=size, difficult=tuple(flags))


SIZES = [(50, 60), (4096, 3), (97, 5000)]


@pytest.fixture(scope="module")
def liver(tmp_path_factory):
    root = tmp_path_factory.mktemp("formats") / "ä b"
    for number, (height, width) in enumerate(SIZES):
        picture(root / f"P{number} ä.png", (width, height))
    return root


@calm
@given(data=st.data(), base=st.sampled_from(["voc", "corner"]))
def test_boxes_survive_from_voc_to_coco_to_yolo_to_voc(liver, tmp_path_factory, data, base):
    truths = [data.draw(drawn(size)) for size in SIZES]
    work = tmp_path_factory.mktemp("work")
    for path, truth in zip(sorted(liver.glob("*.png")), truths, strict=True):
        voc.write(liver / f"{path.stem}.xml", truth, base=base, image_path=path, overwrite=True, whole_pixels=False)
    first = read_voc_folder(liver, base=base)
    coco = read_coco(write_coco(first, work / "all.json"), liver)
    classes = sorted({name for truth in truths for name in truth.names}) or ["hcc"]
    yolo = read_yolo_folder(write_yolo_folder(coco, work / "yolo", classes=classes))
    for sample in yolo:
        voc.write(
            work / "yolo" / "images" / f"{sample.path.stem}.xml", sample.annotation, base=base, whole_pixels=False
        )
    last = read_voc_folder(work / "yolo" / "images", base=base)
    for stage, tolerance in ((first, 2e-4), (coco, 2e-4), (yolo, 1e-3), (last, 1e-3)):
        assert kinds(stage) == [[], [], []]
        for sample, truth in zip(stage, truths, strict=True):
            assert np.abs(sample.annotation.boxes - truth.boxes).max(initial=0) <= tolerance
            assert (sample.annotation.names, sample.annotation.size) == (truth.names, truth.size)
    for stage in (first, coco):  # YOLO has no place for it
        assert [s.annotation.difficult for s in stage] == [t.difficult for t in truths]


@pytest.mark.shared_data
def test_real_files_go_through_all_formats(shared, tmp_path):
    first = read_voc_folder(shared / "data/brain_mri_boxes")
    coco = read_coco(write_coco(first, tmp_path / "all.json"), first[0].path.parent)
    yolo = read_yolo_folder(write_yolo_folder(coco, tmp_path / "yolo"))
    assert kinds(coco) == kinds(yolo) == [[]] * 46
    for a, b, c in zip(first, coco, yolo, strict=True):
        np.testing.assert_array_equal(a.annotation.boxes, b.annotation.boxes)
        np.testing.assert_allclose(c.annotation.boxes, a.annotation.boxes, atol=1e-3)
        assert a.names == b.names == c.names


def test_names_that_no_file_can_have_and_sizes_beyond_count_are_problems(tmp_path):
    images = [
        {"id": 1, "file_name": "a" * 300, "width": 9, "height": 9},
        {"id": 2, "file_name": "/".join(["a" * 200] * 12), "width": 9, "height": 9},
        {"id": 3, "file_name": "\ud800.png", "width": 10**400, "height": 10**400},
    ]
    boxes = [{"id": 1, "image_id": 3, "category_id": 1, "bbox": [1, 1, 5, 5]}]
    document = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "hcc"}]}
    (tmp_path / "all.json").write_text(json.dumps(document))
    assert kinds(read_coco(tmp_path / "all.json")) == [["unsafe_path"], ["unsafe_path"], ["missing_image"]]
