"""Exports of annotation tools are read with every box right, and what is no box in them is a problem."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import hccvision as hv
from hccvision.annotations.shapes import box_of_ellipse, box_of_rectangle

TOOLS = Path(__file__).parent / "fixtures" / "tools"
SIZES = {"P1_01": (80, 60), "P1_02": (64, 64), "P2_01": (80, 60), "P2_02": (80, 60)}
HCC, CYST = ("hcc", [10, 12, 30, 42]), ("cyst", [40, 6, 64, 30])
TRIANGLE = ("hcc", [16, 16, 48, 48])
# a rectangle from (32, 12.8), 19.2 wide and 12.8 high, turned by 30 degrees about that corner
TURNED = ("hcc", [25.6, 12.8, 48.63, 33.49])


def picture(path: Path, size: tuple[int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, 99).save(path)
    return path


def export(name: str, root: Path, images: str, stems: tuple[str, ...] = ("P1_01", "P1_02", "P2_01")) -> Path:
    """Copy an export and write its images, named as the pattern says."""
    shutil.copytree(TOOLS / name, root, dirs_exist_ok=True)
    for stem in stems:
        picture(root / images.format(stem), SIZES[stem])
    return root


def stated(samples) -> dict[str, list]:
    return {
        s.path.name.split("-")[-1][:5]: [
            (n, b) for n, b in zip(s.annotation.names, s.annotation.boxes.astype(float).round(2).tolist(), strict=True)
        ]
        for s in samples
        if s.annotation is not None
    }


def kinds(samples) -> list[tuple[str, str, bool]]:
    return sorted((s.path.stem, p.kind, p.usable) for s in samples for p in s.problems)


EXPORTS = [
    ("cvat", "cvat", "images/{}.png", {}, [HCC, CYST], [TRIANGLE]),
    ("cvat_coco", "coco", "images/train/{}.png", {}, [HCC, CYST], [TRIANGLE]),
    ("cvat_yolo", "yolo", "obj_train_data/{}.png", {}, [HCC, CYST], []),
    ("label_studio", "label_studio", "images/0a1b2c3d-{}.png", {}, [HCC, CYST], [TURNED]),
    ("label_studio", "label_studio", "before the upload/{}.png", {}, [HCC, CYST], [TURNED]),
    ("label_studio_min", "label_studio", "images/0a1b2c3d-{}.png", {}, [HCC, CYST], [TURNED]),
    ("label_studio_coco", "coco", "images/0a1b2c3d-{}.png", {}, [HCC, CYST], [TURNED]),
    ("label_studio_yolo_obb", "yolo", "images/0a1b2c3d-{}.png", {}, [HCC, CYST], [TURNED]),
    ("label_studio_yolo", "yolo", "images/0a1b2c3d-{}.png", {}, [HCC, CYST], [("hcc", [32, 12.8, 51.2, 25.6])]),
]


@pytest.mark.parametrize(("name", "format", "images", "options", "first", "second"), EXPORTS)
def test_an_export_is_recognised_and_read_with_every_box_right(
    tmp_path, name, format, images, options, first, second, capsys
):
    root = export(name, tmp_path / "data", images)
    assert hv.annotations.detect(root) == format
    for samples in (hv.read_folder(root, **options), hv.read_folder(root, format=format, patient=r"(P\d)_", **options)):
        assert kinds(samples) == []
        assert stated(samples) == {"P1_01": first, "P1_02": second, "P2_01": []}
    assert [s.patient for s in samples] == ["P1", "P1", "P2"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["cvat_voc", "label_studio_voc"])
def test_exports_in_pascal_voc_state_corner_points(tmp_path, name):
    stem = "0a1b2c3d-{}" if name == "label_studio_voc" else "{}"
    root = export(name, tmp_path / "data", f"JPEGImages/{stem}.png", ("P1_01",))
    samples = hv.read_folder(root, base="corner")
    assert stated(samples)["P1_01"] == [HCC, CYST]


def test_roboflow_exports_each_split_in_a_folder_of_its_own(tmp_path, capsys):
    names = {"P1_01": "train/{}P1_01_png.rf.0f3a.jpg", "P1_02": "valid/{}P1_02_png.rf.1b2c.jpg"}
    names["P2_01"] = "valid/{}P2_01_png.rf.9d8e.jpg"
    for name, format, folder in (("roboflow_coco", "coco", ""), ("roboflow_yolo", "yolo", "images/")):
        root = tmp_path / name
        shutil.copytree(TOOLS / name, root)
        for stem, pattern in names.items():
            picture(root / pattern.format(folder), SIZES[stem])
        assert hv.annotations.detect(root) == format
        samples = hv.read_folder(root)
        cyst = ("cyst", [40, 6, 64.5 if name == "roboflow_coco" else 64, 30])
        assert kinds(samples) == []
        assert stated(samples) == {"P1_01": [HCC, cyst], "P1_02": [TRIANGLE], "P2_01": []}
    shutil.copytree(TOOLS / "roboflow_voc", tmp_path / "voc")
    picture(tmp_path / "voc" / names["P1_01"].format(""), SIZES["P1_01"])
    (sample,) = hv.read_folder(tmp_path / "voc")
    assert (sample.annotation.boxes.tolist(), sample.problems) == ([HCC[1]], ())


@pytest.mark.parametrize(
    ("name", "format"),
    [("via2_json", "via"), ("via2_csv", "via"), ("via3_json", "via"), ("via3_csv", "via"), ("labelme", "labelme")],
)
def test_shapes_become_boxes_and_those_that_enclose_nothing_are_problems(tmp_path, name, format):
    stems = {"via3_json": ("P1_01", "P1_02", "P2_02"), "via3_csv": ("P1_01", "P1_02")}.get(name, tuple(SIZES))
    root = export(name, tmp_path / "data", "{}.png", stems)
    assert hv.annotations.detect(root) == format
    samples = hv.read_folder(root)
    circle, ellipse = ("hcc", [22, 22, 42, 42]), ("hcc", [30, 0, 50, 40])
    expected = {"P1_01": [HCC, CYST], "P1_02": [circle], "P2_01": [], "P2_02": []}
    if name == "labelme":
        expected["P2_01"] = [("hcc", [10, 10, 34, 28]), ("hcc", [40, 30, 60, 44])]  # oriented; a group of two polygons
    elif name in ("via2_json", "via2_csv"):
        expected["P1_02"] = [circle, ellipse]
    assert stated(samples) == {stem: expected[stem] for stem in stems}
    unread = "P1_02" if name in ("labelme", "via3_json", "via3_csv") else "P2_01"
    assert kinds(samples) == [(unread, "unread_object", False)]
    assert "no box; left out: draw a box" in " ".join(p.message for s in samples for p in s.problems)


def test_shapes_of_cvat(tmp_path):
    root = export("cvat_shapes", tmp_path / "data", "images/{}.png")
    samples = hv.read_folder(root)
    assert stated(samples) == {
        "P1_01": [("hcc", [35, 15, 45, 35]), ("cyst", [30, 10, 50, 50]), ("cyst", [20, 20, 60, 40])],
        "P1_02": [HCC],
        "P2_01": [],
    }
    assert kinds(samples) == [("P1_02", "unread_object", False)] * 6
    told = " ".join(p.message for p in samples[1].problems)
    for tag in ("mask 1", "points 1", "polyline 1", "cuboid 1", "skeleton 1", "the class 'artefact' as a whole"):
        assert tag in told
    assert [s.path.stem for s in hv.annotations.usable(samples, "skip")] == ["P1_01", "P2_01"]
    assert [s.path.stem for s in hv.annotations.usable(samples, "keep")] == ["P1_01", "P1_02", "P2_01"]


# Label Studio


def region(kind: str, **value):
    return {"id": "r", "type": kind, "to_name": "i", "original_width": 80, "original_height": 60, "value": value}


def rectangle(**more):
    return region("rectanglelabels", x=50, y=20, width=30, height=20, rotation=0, rectanglelabels=["hcc"]) | more


def task(*results, image: str = "/data/upload/1/0a1b2c3d-a.png", **more):
    return {"id": 1, "data": {"image": image}, "annotations": [{"result": list(results)}], **more}


def label_studio(root: Path, *tasks):
    picture(root / "a.png", (80, 60))
    (root / "tasks.json").write_text(json.dumps(list(tasks)))
    return hv.read_folder(root, format="label_studio")


@pytest.mark.parametrize(
    ("degrees", "box"),  # as the tool's own convert_annotation_to_yolo_obb places the corners
    [(30, [34, 12, 60.785, 34.392]), (90, [28, 12, 40, 36]), (200, [17.447, -7.485, 44.104, 12])],
)
def test_a_turned_rectangle_is_turned_about_its_corner(tmp_path, degrees, box):
    turned = region("rectanglelabels", x=50, y=20, width=30, height=20, rotation=degrees, rectanglelabels=["hcc"])
    (sample,) = label_studio(tmp_path, task(turned))
    np.testing.assert_allclose(sample.annotation.boxes, [box], atol=1e-3)


@pytest.mark.parametrize(
    ("result", "box"),
    [
        (region("ellipselabels", x=50, y=50, radiusX=25, radiusY=10, ellipselabels=["hcc"]), [20, 24, 60, 36]),
        (region("polygonlabels", points=[[10, 10], [60, 20], [30, 50]], polygonlabels=["hcc"]), [8, 6, 48, 30]),
    ],
)  # fmt: skip
def test_other_regions_of_label_studio(tmp_path, result, box):
    (sample,) = label_studio(tmp_path, task(result))
    assert (sample.names, sample.annotation.boxes.tolist(), sample.problems) == (("hcc",), [box], ())


def test_percent_are_of_the_image_where_a_file_states_no_size(tmp_path):
    bare = {key: value for key, value in rectangle().items() if not key.startswith("original")}
    (sample,) = label_studio(tmp_path, task(bare))
    assert (sample.annotation.boxes.tolist(), sample.problems) == ([[40, 12, 64, 24]], ())


def test_labels_apart_from_their_region_and_attributes_of_regions(tmp_path):
    shape = region("rectangle", x=50, y=20, width=30, height=20)
    label = region("labels", x=50, y=20, width=30, height=20, labels=["hcc"])
    grade = region("choices", choices=["high"])
    (sample,) = label_studio(tmp_path, task(shape, label, grade))
    assert (sample.names, sample.annotation.boxes.tolist(), sample.problems) == (("hcc",), [[40, 12, 64, 24]], ())


@pytest.mark.parametrize(
    "result",
    [
        region("brushlabels", format="rle", rle=[1, 2, 3], brushlabels=["hcc"]) | {"id": "b"},
        region("keypointlabels", x=5, y=5, width=0.5, keypointlabels=["hcc"]) | {"id": "b"},
        region("textarea", text=["two lesions"]) | {"id": "b"},
        {"type": "relation", "from_id": "r", "to_id": "q", "direction": "right"},
        region("videorectangle", sequence=[]) | {"id": "b"},
        region("choices", choices=["cancer"]) | {"id": "b"},
        region("rectanglelabels", x=1, y=1, width=9, height=9, rectanglelabels=["hcc", "cyst"]) | {"id": "b"},
        region("rectanglelabels", x=1, y=1, width=9, height=9, rectanglelabels=["hcc"]) | {"image_rotation": 90},
    ],
)
def test_what_is_no_box_is_never_left_aside_in_silence(tmp_path, result):
    for results in ((rectangle(), result), (result, rectangle())):
        (sample,) = label_studio(tmp_path, task(*results))
        assert {(p.kind, p.usable) for p in sample.problems} == {("unread_object", False)}
        assert len(sample.annotation) >= 1


def test_tasks_without_annotation_are_not_lesion_free(tmp_path):
    skipped = task() | {"annotations": [{"was_cancelled": True, "result": []}]}
    for one in (skipped, task() | {"annotations": []}):
        (sample,) = label_studio(tmp_path, one)
        assert [p.kind for p in sample.problems] == ["missing_annotation"]
    two = task() | {"annotations": [{"result": []}, {"result": [rectangle()]}]}
    (sample,) = label_studio(tmp_path, two)
    assert [p.kind for p in sample.problems] == ["duplicate_annotation"]
    two["annotations"][1]["ground_truth"] = True
    (sample,) = label_studio(tmp_path, two)
    assert (sample.names, sample.problems) == (("hcc",), ())


def test_choices_alone_are_classes_of_images(tmp_path):
    (sample,) = label_studio(tmp_path, task(region("choices", choices=["cancer"])))
    assert (sample.class_name, sample.annotation, sample.problems) == ("cancer", None, ())
    (sample,) = label_studio(
        tmp_path, {"image": "/data/local-files/?d=liver/a.png", "annotation_id": 1, "choice": "cancer"}
    )
    assert (sample.path.name, sample.class_name, sample.problems) == ("a.png", "cancer", ())


# Layouts


def test_images_are_found_by_the_ends_of_their_paths_and_two_that_fit_are_ambiguous(tmp_path):
    for patient in ("P1", "P2"):
        picture(tmp_path / patient / "a.png", (80, 60))
    (tmp_path / "t.json").write_text(json.dumps([task(rectangle(), image="s3://bucket/P2/a.png")]))
    found, other = hv.read_folder(tmp_path)
    assert (found.path, found.names, found.problems) == (tmp_path / "P2" / "a.png", ("hcc",), ())
    assert [p.kind for p in other.problems] == ["missing_annotation"]
    (tmp_path / "t.json").write_text(json.dumps([task(rectangle(), image="a.png")]))
    (sample,) = hv.read_folder(tmp_path)
    assert [p.kind for p in sample.problems] == ["ambiguous_image"]


def test_a_file_that_can_not_be_read_leaves_no_image_normal(tmp_path):
    root = export("labelme", tmp_path / "data", "{}.png", tuple(SIZES))
    broken = root / "P1_01.json"
    broken.write_text(broken.read_text()[:-40])
    samples = hv.read_folder(root, unannotated="normal")
    assert [k for k in kinds(samples) if k[0] == "P1_01"] == [
        ("P1_01", "missing_annotation", False), ("P1_01", "unreadable_annotation", False)
    ]  # fmt: skip


def test_several_attributes_of_via_need_a_choice(tmp_path):
    root = export("via2_json", tmp_path / "data", "{}.png", tuple(SIZES))
    path = root / "via_region_data.json"
    path.write_text(path.read_text().replace('"lesion":"hcc"', '"lesion":"hcc","grade":"2"'))
    assert "pass attribute=" in next(p.message for s in hv.read_folder(root) for p in s.problems)
    assert stated(hv.read_folder(root, attribute="lesion"))["P1_01"] == [HCC, CYST]


def test_labels_of_a_video_are_refused(tmp_path):
    picture(tmp_path / "frame_000000.png", (80, 60))
    track = '<track id="0" label="hcc"><box frame="0" xtl="1" ytl="1" xbr="9" ybr="9"/></track>'
    (tmp_path / "annotations.xml").write_text(f"<annotations><version>1.1</version>{track}</annotations>")
    samples = hv.read_folder(tmp_path, unannotated="normal")
    assert [kind for _, kind, _ in kinds(samples)] == ["unreadable_annotation", "missing_annotation"]
    assert "a video" in samples[0].problems[0].message


# Geometry

sizes = st.floats(0.5, 200)


@settings(max_examples=100, deadline=None)
@given(x=sizes, y=sizes, width=sizes, height=sizes, degrees=st.floats(-720, 720), centred=st.booleans())
def test_the_box_of_a_turned_shape_holds_its_points_and_no_more(x, y, width, height, degrees, centred):
    turn = np.exp(1j * np.radians(degrees))
    pivot = (width + 1j * height) / 2 if centred else 0
    corners = x + 1j * y + pivot + (np.array([0, width, width + 1j * height, 1j * height]) - pivot) * turn
    expected = [corners.real.min(), corners.imag.min(), corners.real.max(), corners.imag.max()]
    np.testing.assert_allclose(
        box_of_rectangle((x, y), (width, height), degrees, about_centre=centred), expected, atol=1e-6
    )
    outline = np.exp(1j * np.linspace(0, 2 * np.pi, 20_001))
    points = x + 1j * y + (width * outline.real + 1j * height * outline.imag) * turn
    expected = [points.real.min(), points.imag.min(), points.real.max(), points.imag.max()]
    np.testing.assert_allclose(box_of_ellipse((x, y), (width, height), degrees), expected, atol=1e-4)


# Odd content

DOCUMENTS = ("label_studio/result.json", "label_studio_min/result.json", "via2_json/via_region_data.json")
DOCUMENTS += ("via3_json/project.json", "labelme/P1_02.json")
ODD = [None, True, -1, 1e308, float("nan"), "", "x", [], {}, [[]], {"a": 1}, [1, [2]], "9" * 400, 10**400, "../a", "\0"]


def places(value, above=()):
    """Return the place of each value in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above, *(place for key, item in inner for place in places(item, (*above, key)))]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(DOCUMENTS), data=st.data())
@pytest.mark.filterwarnings("error")
def test_odd_values_in_a_document_are_problems_at_most(tmp_path_factory, name, data):
    root, path = tmp_path_factory.mktemp("odd"), TOOLS / name
    document = json.loads(path.read_text())
    *above, last = data.draw(st.sampled_from(places(document)[1:]))
    holder = document
    for key in above:
        holder = holder[key]
    holder[last] = data.draw(st.sampled_from(ODD))
    (root / path.name).write_text(json.dumps(document))
    for stem, size in SIZES.items():
        picture(root / f"{stem}.png", size)
    format = {"label_studio_min": "label_studio", "via2_json": "via", "via3_json": "via"}.get(Path(name).parts[0])
    reader = hv.ANNOTATION_FORMATS.build(format or Path(name).parts[0])
    if not reader.matches(root):  # the word that it is recognised by is gone
        return
    samples = reader.read(root)
    assert all(s.annotation is not None or s.class_name or s.problems for s in samples)
    assert {s.path for s in samples} >= {root / f"{stem}.png" for stem in SIZES} or any(s.problems for s in samples)
