"""Whatever lies in a folder, each image, each label and each object in it is used or reported, in every format."""

import contextlib
import io
import json
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import hccvision as hv
from hccvision.annotations.finding import mask_name
from hccvision.annotations.problems import usable
from hccvision.contracts.samples import Problem

few = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

FORMATS = ("class_folders", "coco", "cvat", "label_studio", "labelme", "masks", "via", "voc", "yolo")
FOLDERS = (
    *("", "images", "labels", "Annotations", "JPEGImages", "masks", "P1", "P2", "yes", "no"),
    *("P1/images", "P1/Masks", "images/P1", "train/labels"),
)
STEMS = ("a", "b", "A", "a_mask", "a.b")
IMAGES = (".png", ".JPG", ".pgm", "")
LABELS = (".xml", ".XML", ".txt", ".json", ".csv")
entries = st.dictionaries(
    st.tuples(st.sampled_from(FOLDERS), st.sampled_from(STEMS), st.sampled_from(IMAGES + LABELS)),
    st.sampled_from(["good"] * 6 + ["empty", "junk", "folder", "gone"]),
    min_size=1,
    max_size=9,
)


def dicom() -> bytes:
    """Return the least that is DICOM: without a suffix it is recognised by the preamble."""
    pydicom = pytest.importorskip("pydicom")
    file = io.BytesIO()
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = 30, 40, 8, 8, 7
    data.PixelRepresentation, data.SamplesPerPixel, data.PhotometricInterpretation = 0, 1, "MONOCHROME2"
    data.PixelData = struct.pack("1200B", *([1] * 1200))
    pydicom.dcmwrite(file, data, enforce_file_format=True)
    return file.getvalue()


def label(stem: str, suffix: str) -> str:
    box = "<xmin>11</xmin><ymin>6</ymin><xmax>20</xmax><ymax>15</ymax>"
    if suffix.lower() == ".xml" and stem == "b":
        shape = '<box label="tumor" xtl="10" ytl="5" xbr="20" ybr="15"/>'
        return f'<annotations><version>1.1</version><image name="{stem}.png">{shape}</image></annotations>'
    if suffix.lower() == ".xml":
        return f"<annotation><object><name>tumor</name><bndbox>{box}</bndbox></object></annotation>"
    if suffix == ".txt":
        return "0 0.375 0.3333333 0.25 0.3333333\n"
    if suffix == ".csv":
        header = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
        shape = json.dumps({"name": "rect", "x": 10, "y": 5, "width": 10, "height": 10}).replace('"', '""')
        return f'{header}\n{stem}.png,1,"{{}}",1,0,"{shape}","{{""t"":""tumor""}}"\n'
    if stem == "b":
        images = [{"id": 1, "file_name": "a.png"}]
        objects = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 10, 10]}]
        return json.dumps({"images": images, "annotations": objects, "categories": [{"id": 1, "name": "tumor"}]})
    if stem == "a.b":
        value = {"x": 25, "y": 16.66667, "width": 25, "height": 33.33333, "rectanglelabels": ["tumor"]}
        result = {"id": "r", "type": "rectanglelabels", "original_width": 40, "original_height": 30, "value": value}
        return json.dumps([{"data": {"image": "a.png"}, "annotations": [{"result": [result]}]}])
    shape = {"label": "tumor", "shape_type": "rectangle", "points": [[10, 5], [20, 15]]}
    return json.dumps({"shapes": [shape], "imagePath": f"{stem}.png"})


def plant(root: Path, entries, picture: bytes, dicom: bytes) -> dict[Path, str]:
    """Write the entries; return what must be used or reported, and as what: an image, a label, or an odd entry."""
    expected = {}
    for (folder, stem, suffix), kind in sorted(entries.items()):
        path = root / folder / f"{stem}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() or path.is_symlink():  # a folder of that name
            continue
        is_image = suffix in IMAGES
        if kind == "folder":
            path.mkdir()
        elif kind == "gone":
            path.symlink_to(root / "nowhere")
        elif kind == "good" and not is_image:
            path.write_text(label(stem, suffix))
        else:
            path.write_bytes(
                {"good": picture if suffix else dicom, "empty": b"", "junk": b"not a file of its kind"}[kind]
            )
        # a link that leads nowhere is reported if its name may be that of an image
        is_told = {"good": True, "gone": bool(suffix) or "." not in stem, "folder": bool(suffix)}.get(kind, False)
        if is_told or (kind in ("empty", "junk") and suffix and (is_image or suffix.lower() == ".xml")):
            expected[path] = "image" if is_image else "label"
    return expected


@few
@given(entries=entries, format=st.sampled_from(FORMATS), unannotated=st.sampled_from(["problem", "normal"]))
def test_each_entry_of_any_tree_is_used_or_reported_and_not_both(tmp_path_factory, entries, format, unannotated):
    root = tmp_path_factory.mktemp("tree")
    buffer = io.BytesIO()
    Image.new("L", (40, 30), 1).save(buffer, "PNG")
    expected = plant(root, entries, buffer.getvalue(), dicom())
    options = {"yolo": {"classes": ["tumor"]}}.get(format, {})
    if format not in ("class_folders", "coco", "masks"):
        options = options | {"unannotated": unannotated}
    printed = io.StringIO()
    refused = ""
    with contextlib.redirect_stdout(printed):
        try:
            samples = hv.read_folder(root, format=format, **options)
        except (ValueError, FileNotFoundError) as error:  # said about the folder as a whole
            refused = str(error)
    if refused:
        assert str(root) in refused
        return
    used = [s for s in samples if all(p.usable for p in s.problems)]
    assert all(s.annotation is not None or s.class_name is not None for s in used)
    bad = [s for s in samples if s not in used]
    told = {text for s in bad for p in s.problems for text in (p.path, str(s.path))}
    told |= {str(s.annotation.path) for s in bad if s.annotation is not None}
    words = " ".join([printed.getvalue(), *(p.message for s in bad for p in s.problems)])
    images = [s.path for s in used]
    labels = {s.annotation.path for s in used if s.annotation is not None}
    names = {mask_name(path.stem)[0].casefold() for path in images}
    assert len(set(images)) == len(images)
    for path, kind in expected.items():
        is_reported = str(path) in told or path.name in words
        is_used = path in (images if kind == "image" else labels)
        # masks of one image are joined
        is_mask = format == "masks" and (path in labels or mask_name(path.stem)[0].casefold() in names)
        assert is_used or is_mask or is_reported, (path, format)
        assert not (is_used and str(path) in {str(s.path) for s in bad}), (path, format)
    if unannotated == "normal" and format in ("voc", "yolo"):
        lesion_free = [s.path for s in used if s.annotation is not None and not len(s.annotation)]
        suffix = {"voc": ".xml", "yolo": ".txt"}[format]
        assert not [p for p in lesion_free if p.with_suffix(suffix).is_file()]


# Objects

odd_objects = st.lists(
    st.sampled_from(
        [
            ("box", 1), ("flat", 0), ("outside", 0), ("no number", 0), ("no name", 0), ("brush", 0), ("beyond", 1),
        ]
    ),
    max_size=6,
)  # fmt: skip


def shape_of(kind: str) -> tuple[str, list[float], str]:
    corners = {"flat": [5, 5, 5, 9], "outside": [60, 5, 70, 9], "beyond": [35, 5, 50, 9]}.get(kind, [10, 5, 20, 15])
    return ("" if kind == "no name" else "tumor"), corners, "brush" if kind == "brush" else "rectangle"


@few
@given(objects=odd_objects, format=st.sampled_from(["cvat", "label_studio", "labelme", "via", "coco", "yolo", "voc"]))
def test_each_object_of_a_label_is_a_box_or_a_problem(tmp_path_factory, objects, format):
    root = tmp_path_factory.mktemp("objects")
    Image.new("L", (40, 30), 1).save(root / "a.png")
    kinds = [kind for kind, _ in objects if kind != "brush" or format not in ("coco", "yolo", "voc")]
    shapes = [(kind, *shape_of(kind)) for kind in kinds]
    write_objects(root, format, shapes)
    (sample,) = hv.read_folder(root, format=format, **({"classes": ["tumor"]} if format == "yolo" else {}))
    kept = sum(kind in ("box", "beyond") for kind in kinds)
    assert (sample.path.name, len(sample.annotation)) == ("a.png", kept)
    assert len(sample.problems) == len(kinds) - kinds.count("box")
    lost = [kind for kind in kinds if kind not in ("box", "beyond")]
    is_usable = all(p.usable for p in sample.problems)
    assert is_usable == (not lost or (kept > 0 and set(lost) <= {"flat", "outside"}))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        normal = hv.Sample(root / "b.png", annotation=hv.Annotation([], ()))
        assert len(usable([sample, normal], "skip")) == 1 + is_usable
        assert len(usable([sample, normal], "keep")) == 1 + (kept > 0 or not lost)
    if lost and kept and not is_usable:
        assert "kept with their readable boxes: 1 of 2 samples: " in printed.getvalue()


def write_objects(root: Path, format: str, shapes) -> None:
    """Write the label of the image a.png with shapes of ``(kind, class name, corners, tool)``."""
    if format in ("voc", "yolo", "cvat"):
        write = {"voc": voc_object, "yolo": yolo_line, "cvat": cvat_shape}[format]
        rows = "\n".join(write(*shape) for shape in shapes)
        image = f'<image name="a.png" width="40" height="30">{rows}</image>'
        text = {
            "voc": f"<annotation><size><width>40</width><height>30</height></size>{rows}</annotation>",
            "yolo": rows,
            "cvat": f"<annotations><version>1.1</version>{image}</annotations>",
        }[format]
        (root / ("a.txt" if format == "yolo" else "a.xml")).write_text(text)
    else:
        write = {"coco": coco, "labelme": labelme, "via": via, "label_studio": label_studio}[format]
        (root / "a.json").write_text(json.dumps(write(shapes)))


def voc_object(kind, name, box, tool) -> str:
    x1, y1, x2, y2 = box
    left = "x" if kind == "no number" else x1 + 1
    corners = f"<xmin>{left}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2 + (kind == 'flat')}</xmax><ymax>{y2}</ymax>"
    return f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>"


def yolo_line(kind, name, box, tool) -> str:
    x1, y1, x2, y2 = box
    centre = "x" if kind == "no number" else (x1 + x2) / 80
    return f"{0 if name else 7} {centre} {(y1 + y2) / 60} {(x2 - x1) / 40} {(y2 - y1) / 30}"


def cvat_shape(kind, name, box, tool) -> str:
    x1, y1, x2, y2 = box
    left = "x" if kind == "no number" else x1
    tag = "mask" if tool == "brush" else "box"
    return f'<{tag} label="{name}" xtl="{left}" ytl="{y1}" xbr="{x2}" ybr="{y2}"/>'


def left_of(kind, box):
    return None if kind == "no number" else box[0]


def coco(shapes):
    objects = []
    for kind, name, box, _ in shapes:
        sides = [left_of(kind, box), box[1], box[2] - box[0], box[3] - box[1]]
        objects.append({"id": len(objects), "image_id": 1, "category_id": 1 if name else 9, "bbox": sides})
    images, categories = [{"id": 1, "file_name": "a.png"}], [{"id": 1, "name": "tumor"}]
    return {"images": images, "annotations": objects, "categories": categories}


def labelme(shapes):
    found = [
        {"label": name, "shape_type": {"brush": "mask"}.get(tool, tool), "points": [[left_of(k, b), b[1]], b[2:]]}
        for k, name, b, tool in shapes
    ]
    return {"shapes": found, "imagePath": "a.png"}


def via(shapes):
    regions = []
    for kind, name, box, tool in shapes:
        shape = {"name": "polyline" if tool == "brush" else "rect", "x": left_of(kind, box), "y": box[1]}
        shape |= {"width": box[2] - box[0], "height": box[3] - box[1]}
        regions.append({"shape_attributes": shape, "region_attributes": {"t": name}})
    return {"a.png1": {"filename": "a.png", "size": 1, "regions": regions, "file_attributes": {}}}


def label_studio(shapes):
    results = []
    for kind, name, box, tool in shapes:
        left = left_of(kind, box)
        value = {"x": left if left is None else left / 0.4, "y": box[1] / 0.3, f"{tool}labels": [name] if name else []}
        value |= {"width": (box[2] - box[0]) / 0.4, "height": (box[3] - box[1]) / 0.3}
        size = {"original_width": 40, "original_height": 30}
        results.append({"id": str(len(results)), "type": f"{tool}labels", "to_name": "i", "value": value, **size})
    return [{"data": {"image": "a.png"}, "annotations": [{"result": results}]}]


# The explicit choice


def test_what_was_done_is_said_by_kind(capsys):
    data = [
        hv.Sample(
            Path("a.png"), annotation=hv.Annotation([[0, 0, 9, 9]], ("hcc",)), problems=(unread("a"), unread("a"))
        ),
        hv.Sample(Path("b.png"), annotation=hv.Annotation([], ()), problems=(unread("b"),)),
        hv.Sample(Path("c.png"), annotation=hv.Annotation([], ())),
        hv.Sample(Path("d.png"), problems=(Problem("missing_image", "d.xml", "is gone", False), unread("d"))),
    ]
    assert [s.path.stem for s in usable(data, "skip")] == ["c"]
    assert capsys.readouterr().out.splitlines()[-1] == "skipped: 3 of 4 samples: unread_object in 3, missing_image in 1"
    assert [s.path.stem for s in usable(data, "keep")] == ["a", "c"]
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "skipped: 2 of 4 samples: unread_object in 2, missing_image in 1",
        "kept with their readable boxes: 1 of 4 samples: unread_object in 1",
    ]


def unread(name: str) -> Problem:
    return Problem("unread_object", f"{name}.json", "is a mask", False)
