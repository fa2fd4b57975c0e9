import string
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from hccvision.annotations import voc
from hccvision.contracts import Annotation

BASES = ("voc", "corner")
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy


def save(folder: Path, body: str, name: str = "a.xml") -> Path:
    path = folder / name
    path.write_text(f"<annotation>{body}</annotation>", encoding="utf-8")
    return path


def object_xml(xmin="11", ymin="21", xmax="30", ymax="40", name="<name>tumor</name>", more=""):
    corners = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return f"<object>{name}{more}<bndbox>{corners}</bndbox></object>"


SIZE = "<size><width>484</width><height>300</height><depth>1</depth></size>"


def kinds(annotation: Annotation) -> list[str]:
    return [problem.kind for problem in annotation.problems]


def test_reads_everything_labelimg_states(tmp_path):
    flags = "<pose>Left</pose><truncated>1</truncated><difficult>1</difficult>"
    path = tmp_path / "a.xml"
    path.write_text(
        f'<annotation verified="yes"><folder>liver</folder><filename>P007_03.png</filename>{SIZE}'
        f"{object_xml(more=flags)}{object_xml('1', '1', '484', '300')}</annotation>"
    )
    a = voc.read(path)
    assert a.boxes.dtype == np.float32
    assert a.boxes.tolist() == [[10, 20, 30, 40], [0, 0, 484, 300]]
    assert (a.names, a.size, a.filename, a.verified) == (("tumor", "tumor"), (300, 484), "P007_03.png", True)
    assert (a.difficult, a.truncated, a.poses) == ((True, False), (True, False), ("Left", "Unspecified"))
    assert (a.path, a.problems) == (path, ())


def test_corner_base_takes_numbers_as_they_stand(tmp_path):
    a = voc.read(save(tmp_path, SIZE + object_xml("0", "0", "484", "300")), base="corner")
    assert a.boxes.tolist() == [[0, 0, 484, 300]]
    assert a.problems == ()


@pytest.mark.parametrize(
    "body", ["", "\n", "<filename/>", "<size/>", "<size><width>0</width><height>0</height></size>"]
)
def test_a_file_without_objects_has_no_boxes(tmp_path, body):
    a = voc.read(save(tmp_path, body))
    assert a.boxes.shape == (0, 4)
    assert (a.names, a.size, a.filename, a.verified, a.problems) == ((), None, "", False, ())


def test_an_empty_root_element_is_an_annotation_without_boxes(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text("<annotation/>")
    assert len(voc.read(path)) == 0


@pytest.mark.parametrize("size", ["-3", "wide", "inf", "nan"])
def test_an_impossible_size_is_unknown(tmp_path, size):
    assert voc.read(save(tmp_path, f"<size><width>{size}</width><height>9</height></size>")).size is None


def test_fractions_unicode_spaces_and_parts_are_read(tmp_path):
    part = "<part><name>capsule</name><bndbox><xmin>9</xmin></bndbox></part>"
    name = '<name lang="de">\n  Läsion 肝癌 &lt;&amp;&gt;  </name>'
    a = voc.read(save(tmp_path, object_xml(" 10.5 ", "20.25", "30.75", "4e1", name=name, more=part)))
    assert a.boxes.tolist() == [[9.5, 19.25, 30.75, 40]]
    assert a.names == ("Läsion 肝癌 <&>",)
    assert a.problems == ()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_are_read(tmp_path, encoding):
    path = tmp_path / "a.xml"
    path.write_text(f"<annotation>{object_xml(name='<name>Läsion</name>')}</annotation>", encoding=encoding)
    assert voc.read(path).names == ("Läsion",)


@pytest.mark.parametrize("corners", [("30", "21", "30", "40"), ("11", "40", "30", "40"), ("31", "21", "30", "40")])
@pytest.mark.parametrize("base", BASES)
def test_degenerate_boxes_are_reported_and_left_out(tmp_path, corners, base):
    path = save(tmp_path, object_xml() + object_xml(*corners))
    a = voc.read(path, base=base)
    assert len(a) == 1
    (problem,) = a.problems
    assert (problem.kind, problem.path, problem.usable) == ("degenerate_box", str(path), True)
    for stated in ("object 2", "'tumor'", f"xmin={corners[0]}", f"ymax={corners[3]}", "left out", "LabelImg"):
        assert stated in problem.message


def test_a_box_too_thin_for_float32_is_degenerate(tmp_path):
    a = voc.read(save(tmp_path, object_xml("16777216", "1", "16777216.4", "5")), base="corner")
    assert (len(a), kinds(a)) == (0, ["degenerate_box"])


@pytest.mark.parametrize("bad", ["", "ten", "nan", "inf", "-inf", "1e39", "<b>1</b>"])
def test_bad_coordinates_are_reported_and_left_out(tmp_path, bad):
    a = voc.read(save(tmp_path, object_xml(xmax=bad) + object_xml()))
    assert len(a) == 1
    assert kinds(a) == ["bad_box"]
    assert "object 1" in a.problems[0].message


@pytest.mark.parametrize(
    "body",
    [
        "<object><name>tumor</name></object>",
        "<object><name>tumor</name><bndbox/></object>",
        "<object><name>tumor</name><bndbox>1 2 3 4</bndbox></object>",
        "<object><name>tumor</name><bndbox><xmin>1</xmin><xmin>2</xmin></bndbox></object>",
    ],
)
def test_a_missing_box_is_reported(tmp_path, body):
    a = voc.read(save(tmp_path, body))
    assert (len(a), kinds(a)) == (0, ["bad_box"])


@pytest.mark.parametrize("name", ["", "<name/>", "<name> </name>", "<name>a</name><name>b</name>"])
def test_a_missing_name_is_reported(tmp_path, name):
    a = voc.read(save(tmp_path, object_xml(name=name)))
    assert (len(a), kinds(a)) == (0, ["missing_name"])


def test_a_class_name_of_a_megabyte_is_reported_in_a_few_words(tmp_path):
    a = voc.read(save(tmp_path, object_xml(name=f"<name>{'hcc' * 400_000}</name>")))
    assert (len(a), kinds(a)) == (0, ["missing_name"])
    assert len(str(a.problems[0])) < 400
    assert voc.read(save(tmp_path, object_xml(name=f"<name>{'h' * 1000}</name>"))).names == ("h" * 1000,)


@pytest.mark.parametrize("body", ["<object/>", "<object>tumor</object>"])
def test_an_empty_object_is_reported(tmp_path, body):
    assert kinds(voc.read(save(tmp_path, body))) == ["missing_name"]


@pytest.mark.parametrize(
    ("corners", "box"),
    [
        (("401", "201", "485", "250"), [400, 200, 485, 250]),
        (("401", "201", "450", "301"), [400, 200, 450, 301]),
        (("-4", "1", "9", "9"), [-5, 0, 9, 9]),
    ],
)
def test_a_box_over_the_edge_is_reported_and_kept(tmp_path, corners, box):
    a = voc.read(save(tmp_path, SIZE + object_xml(*corners)))
    assert a.boxes.tolist() == [box]
    assert kinds(a) == ["box_outside"]
    assert a.problems[0].usable
    assert "width 484, height 300" in a.problems[0].message


@pytest.mark.parametrize("corners", [("485", "1", "490", "9"), ("1", "301", "9", "310"), ("-9", "1", "0", "9")])
def test_a_box_with_no_part_inside_is_left_out(tmp_path, corners):
    a = voc.read(save(tmp_path, SIZE + object_xml(*corners)))
    assert (len(a), kinds(a)) == (0, ["box_off_image"])
    assert "left out" in a.problems[0].message


def test_a_zero_coordinate_points_to_the_other_base(tmp_path):
    path = save(tmp_path, object_xml("0", "21"))
    assert 'base="corner"' in voc.read(path).problems[0].message
    assert voc.read(path, base="corner").problems == ()
    (problem,) = voc.read(save(tmp_path, SIZE + object_xml("0", "21", "485")), base="corner").problems
    assert 'base="corner"' not in problem.message


@pytest.mark.parametrize("text", ["1", "true", "Yes"])
def test_flags_in_other_spellings(tmp_path, text):
    assert voc.read(save(tmp_path, object_xml(more=f"<difficult>{text}</difficult>"))).difficult == (True,)


@pytest.mark.parametrize("text", ["0", "", "Unspecified", "no"])
def test_flags_that_are_not_set(tmp_path, text):
    assert voc.read(save(tmp_path, object_xml(more=f"<difficult>{text}</difficult>"))).difficult == (False,)


def test_verified_no(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text('<annotation verified="no"/>')
    assert not voc.read(path).verified


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.xml: .* check the path"):
        voc.read(tmp_path / "gone.xml")
    with pytest.raises(FileNotFoundError, match="check the path"):
        voc.read(tmp_path)


LAUGHS = '<!DOCTYPE annotation [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><annotation><filename>&b;</filename></annotation>'


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"not xml",
        b"\x89PNG\r\n\x1a\n",
        b"<annotation><object></annotation>",
        b"<annotation>&undefined;</annotation>",
        b'<?xml version="1.0" encoding="none-such"?><annotation/>',
        b"<html/>",
        b"<annotation>tumor 1 2 3 4</annotation>",
        b'<!DOCTYPE annotation SYSTEM "file:///etc/passwd"><annotation/>',
        LAUGHS.encode(),
        LAUGHS.encode("utf-16"),
    ],
)
def test_what_is_not_an_annotation_is_refused_by_name(tmp_path, source):
    path = tmp_path / "a.xml"
    path.write_bytes(source)
    with pytest.raises(ValueError, match=r"a\.xml: .*(save it again|delete it)"):
        voc.read(path)


@pytest.mark.parametrize("call", [voc.read, lambda path, base: voc.write(path, annotation(), base=base)])
def test_an_unknown_base_is_refused(tmp_path, call):
    with pytest.raises(ValueError, match=r"'coco'.*\"voc\".*\"corner\""):
        call(save(tmp_path, ""), base="coco")


def annotation(boxes=((10, 20, 30, 40),), size=(300, 484), **fields) -> Annotation:
    fields.setdefault("names", ("tumor",) * len(boxes))
    return Annotation(np.array(boxes, np.float32), size=size, **fields)


def test_writes_labelimgs_fields(tmp_path):
    image = tmp_path / "liver" / "P007_03.png"
    path = voc.write(tmp_path / "a.xml", annotation(verified=True, difficult=(True,)), image_path=image)
    assert path == tmp_path / "a.xml"
    expected = f"""<annotation verified="yes">
\t<folder>liver</folder>
\t<filename>P007_03.png</filename>
\t<path>{image}</path>
\t<source>
\t\t<database>Unknown</database>
\t</source>
\t<size>
\t\t<width>484</width>
\t\t<height>300</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
\t<object>
\t\t<name>tumor</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>1</difficult>
\t\t<bndbox>
\t\t\t<xmin>11</xmin>
\t\t\t<ymin>21</ymin>
\t\t\t<xmax>30</xmax>
\t\t\t<ymax>40</ymax>
\t\t</bndbox>
\t</object>
</annotation>
"""
    assert path.read_text() == expected


def test_without_an_image_the_annotation_names_it(tmp_path):
    assert voc.read(voc.write(tmp_path / "a.xml", annotation(filename="b.png"))).filename == "b.png"
    assert voc.read(voc.write(tmp_path / "c.xml", annotation())).filename == "c"
    assert "<path>" not in (tmp_path / "c.xml").read_text()


def test_unverified_is_said(tmp_path):
    assert '<annotation verified="no">' in voc.write(tmp_path / "a.xml", annotation()).read_text()


def test_never_over_an_existing_file(tmp_path):
    path = save(tmp_path, "")
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"a\.xml.*overwrite=True"):
        voc.write(path, annotation())
    assert path.read_bytes() == before
    voc.write(path, annotation(), overwrite=True)
    assert len(voc.read(path)) == 1


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = save(tmp_path, "")
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        voc.write(path, annotation(), overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (annotation(size=None), "size=.height, width"),
        (annotation([[1, 2, np.nan, 4]]), "finite"),
        (annotation([[1, 2, np.inf, 4]]), "finite"),
        (annotation([[5, 2, 5, 4]]), "x1 < x2"),
        (annotation([[1, 4, 2, 3]]), "y1 < y2"),
        (annotation(names=("",)), "class name"),
        (annotation(names=(" tumor",)), "class name"),
        (annotation(names=("tu\x00mor",)), "XML"),
        (annotation(names=("tu\nmor",)), "XML"),
        (annotation(names=("tu\ud800mor",)), "XML"),
        (annotation(poses=("\x1b",)), "XML"),
    ],
)
def test_what_can_not_be_written_is_refused(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=rf"a\.xml: .*{message}"):
        voc.write(tmp_path / "a.xml", wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_path_labelimg_would_not_open_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.xml"):
        voc.write(tmp_path / "a.txt", annotation())
    with pytest.raises(FileNotFoundError, match="create it first"):
        voc.write(tmp_path / "none" / "a.xml", annotation())


@pytest.mark.parametrize(
    ("base", "box", "written"),
    [
        ("voc", [10.4, 20.6, 29.6, 40.4], [10, 21, 30, 40]),
        ("corner", [10.4, 20.6, 29.6, 40.4], [10, 21, 30, 40]),
        ("corner", [10.1, 20, 10.4, 40], [10, 20, 11, 40]),
        ("corner", [483.6, 299.7, 483.9, 299.9], [483, 299, 484, 300]),
        ("voc", [10, 20, 11, 40], [10, 20, 12, 40]),
        ("voc", [483, 299, 484, 300], [482, 298, 484, 300]),
        ("voc", [0, 0, 1, 1], [0, 0, 2, 2]),
    ],
)
def test_rounding_never_makes_a_box_degenerate(tmp_path, base, box, written):
    a = voc.read(voc.write(tmp_path / "a.xml", annotation([box]), base=base), base=base)
    assert a.boxes.tolist() == [written]
    assert a.problems == ()


texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[*map(chr, range(32)), "\ufffe", "\uffff"]),
    min_size=1,
    max_size=12,
).filter(lambda text: text == text.strip())
file_names = st.text(string.ascii_letters + "äß肝&<>'\"", min_size=1).map(lambda stem: f"{stem}.png")


@st.composite
def annotations(draw, thinnest: int, fractions: bool = False):
    height, width = draw(st.integers(thinnest, 5000)), draw(st.integers(thinnest, 5000))
    boxes = []
    for _ in range(draw(st.integers(0, 6))):
        corners = []
        for side in (width, height):
            low = draw(st.integers(0, side - thinnest))
            corners.append((low, draw(st.integers(low + thinnest, side))))
        (x1, x2), (y1, y2) = corners
        boxes.append([x1, y1, x2, y2])
    n = len(boxes)
    array = np.array(boxes, np.float32).reshape(n, 4)
    if fractions:
        array[:, :2] += np.float32(draw(st.floats(0, 0.25, width=16)))
        array[:, 2:] -= np.float32(draw(st.floats(0, 0.25, width=16)))

    def of_each(strategy):
        return tuple(draw(st.lists(strategy, min_size=n, max_size=n)))

    return Annotation(
        array,
        of_each(texts),
        size=(height, width),
        difficult=of_each(st.booleans()),
        truncated=of_each(st.booleans()),
        poses=of_each(texts),
        filename=draw(file_names),
        verified=draw(st.booleans()),
    )


FIELDS = ("names", "size", "difficult", "truncated", "poses", "filename", "verified")


def assert_same(a: Annotation, b: Annotation, fields=FIELDS) -> None:
    np.testing.assert_array_equal(a.boxes, b.boxes)
    assert {field: getattr(a, field) for field in fields} == {field: getattr(b, field) for field in fields}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("voc")


@pytest.mark.parametrize("base", BASES)
@calm
@given(data=st.data())
def test_whole_pixel_boxes_survive_exactly(folder, base, data):
    a = data.draw(annotations(thinnest=2 if base == "voc" else 1))
    b = voc.read(voc.write(folder / "a.xml", a, base=base, overwrite=True), base=base)
    assert_same(a, b)
    assert b.problems == ()


@pytest.mark.parametrize("base", BASES)
@calm
@given(data=st.data())
def test_fractions_survive_when_asked_and_round_otherwise(folder, base, data):
    a = data.draw(annotations(thinnest=3, fractions=True))
    exact = voc.write(folder / "a.xml", a, base=base, overwrite=True, whole_pixels=False)
    np.testing.assert_array_equal(voc.read(exact, base=base).boxes, a.boxes)
    rounded = voc.write(folder / "a.xml", a, base=base, overwrite=True)
    assert np.abs(voc.read(rounded, base=base).boxes - a.boxes).max(initial=0) <= 0.5


@pytest.fixture(scope="module")
def labelimg():
    return pytest.importorskip("libs.pascal_voc_io", reason="needs LabelImg: pip install --no-deps labelImg==1.8.6")


@calm
@given(a=annotations(thinnest=2))
@example(annotation(names=("Läsion 肝癌 <&>\"'",), difficult=(True,), verified=True, filename="a.png"))
@example(annotation([], filename="a.png"))
def test_labelimg_reads_what_we_write(labelimg, folder, a):
    path = voc.write(folder / "ours.xml", a, base="corner", overwrite=True)
    reader = labelimg.PascalVocReader(str(path))
    assert reader.verified == a.verified
    shapes = reader.get_shapes()
    assert [(label, difficult) for label, _, _, _, difficult in shapes] == list(zip(a.names, a.difficult, strict=True))
    assert [[*points[0], *points[2]] for _, points, *_ in shapes] == a.boxes.tolist()


@calm
@given(a=annotations(thinnest=2))
@example(annotation(names=("Läsion 肝癌 <&>\"'",), difficult=(True,), verified=True, filename="a.png"))
@example(annotation([], filename="a.png"))
def test_we_read_what_labelimg_writes_and_give_it_back(labelimg, folder, a):
    height, width = a.size
    writer = labelimg.PascalVocWriter("liver", a.filename, (height, width, 3), local_img_path=f"liver/{a.filename}")
    writer.verified = a.verified
    for box, name, difficult in zip(a.boxes.astype(int).tolist(), a.names, a.difficult, strict=True):
        writer.add_bnd_box(*box, name, difficult)
    theirs = folder / "theirs.xml"
    writer.save(str(theirs))
    read = voc.read(theirs, base="corner")
    assert_same(a, read, fields=("names", "size", "difficult", "filename", "verified"))
    assert read.problems == ()
    for base in BASES:
        first = voc.read(theirs, base=base)
        again = voc.read(voc.write(folder / "again.xml", first, base=base, overwrite=True), base=base)
        assert_same(first, again)


def test_labelimg_opens_fractional_detections_on_the_nearest_pixels(labelimg, tmp_path):
    a = annotation([[10.9, 20.9, 29.9, 39.9]])
    (shape,) = labelimg.PascalVocReader(str(voc.write(tmp_path / "a.xml", a, base="corner"))).get_shapes()
    assert (shape[1][0], shape[1][2]) == ((11, 21), (30, 40))


@pytest.mark.shared_data
def test_all_blood_cell_files_are_read_and_come_back(shared, tmp_path):
    files = sorted((shared / "data/bccd/Annotations").glob("*.xml"))
    read = [voc.read(file) for file in files]
    assert len(read) == 364
    assert sum(map(len, read)) == 4886
    problems = [problem for a in read for problem in a.problems]
    assert [(Path(p.path).stem, p.kind) for p in problems] == [
        ("BloodImage_00338", "degenerate_box"),
        ("BloodImage_00343", "degenerate_box"),
    ]
    assert {name for a in read for name in a.names} == {"RBC", "WBC", "Platelets"}
    for file, a in list(zip(files, read, strict=True))[::10]:
        assert_same(a, voc.read(voc.write(tmp_path / file.name, a)))


@pytest.mark.shared_data
def test_labelimg_and_we_agree_on_real_files(shared, labelimg):
    for file in sorted((shared / "data/brain_mri_boxes/Annotations").glob("*.xml")):
        shapes = labelimg.PascalVocReader(str(file)).get_shapes()
        a = voc.read(file, base="corner")
        assert [[*points[0], *points[2]] for _, points, *_ in shapes] == a.boxes.tolist()


# What a file says beside boxes

few = settings(calm, max_examples=40)
words = st.text(string.ascii_letters + "äß肝 &<>'\"", min_size=1, max_size=8).map(str.strip).filter(bool)
tags = st.sampled_from(["owner", "occluded", "attributes", "part", "polygon", "sequence", "_x.y"])
trees = st.recursive(
    words | st.none(),
    lambda inner: st.dictionaries(tags, inner | st.lists(inner, min_size=2, max_size=3), min_size=1, max_size=3),
    max_leaves=8,
)
fractions = st.decimals(0, 4, places=9, allow_nan=False).map("{:.9f}".format)


def build(parent: ElementTree.Element, tag: str, content) -> None:
    for item in content if isinstance(content, list) else [content]:
        child = ElementTree.SubElement(parent, tag)
        if isinstance(item, dict):
            for key, value in item.items():
                build(child, key, value)
        else:
            child.text = item


@st.composite
def documents(draw):
    """Files as other programs write them: optional fields, unknown ones in between, fractions."""
    root = ElementTree.Element("annotation")
    for key in draw(st.lists(st.sampled_from(["verified", "tool"]), unique=True)):
        root.set(key, draw(st.sampled_from(["yes", "no", "Läsion <1>"])))
    fields = {
        "folder": draw(words),
        "filename": draw(words),
        "path": f"/somewhere else/{draw(words)}",
        "source": {"database": draw(words), "annotation": draw(trees)},
        "size": {"width": "100", "height": "90", "depth": draw(st.sampled_from(["1", "3"]))},
        "segmented": "1",
        **draw(st.dictionaries(tags, trees, max_size=3)),
    }
    for key in draw(st.permutations(sorted(fields)).flatmap(lambda keys: st.just(keys[: draw(st.integers(0, 9))]))):
        build(root, key, fields[key])
    for _ in range(draw(st.integers(0, 3))):
        item = ElementTree.SubElement(root, "object")
        corners = {"xmin": "1" + draw(fractions)[1:], "ymin": "2", "xmax": "3" + draw(fractions), "ymax": "40"}
        parts = {
            "name": draw(words),
            "bndbox": {key: corners[key] for key in draw(st.permutations(sorted(corners)))},
            "pose": draw(words),
            "difficult": draw(st.sampled_from(["0", "1", "true", "Unspecified"])),
            "truncated": draw(st.sampled_from(["0", "1"])),
            **draw(st.dictionaries(tags, trees, max_size=2)),
        }
        optional = draw(st.sets(st.sampled_from(["pose", "difficult", "truncated"])))
        for key in draw(st.permutations(sorted(parts))):
            if key not in optional:
                build(item, key, parts[key])
    if draw(st.booleans()):
        build(root, "tail", draw(trees))
    return root


def plain(element: ElementTree.Element):
    """An element as it stands, without the white space around texts."""
    return element.tag, element.attrib, (element.text or "").strip(), [plain(child) for child in element]


def without(element: ElementTree.Element, *tags: str):
    return [plain(child) for child in element if child.tag not in tags]


@pytest.mark.parametrize("base", BASES)
@few
@given(root=documents())
def test_what_is_read_and_written_is_the_same_tree(folder, base, root):
    (folder / "in.xml").write_bytes(ElementTree.tostring(root, "utf-8"))
    a = voc.read(folder / "in.xml", base=base)
    assert [p for p in a.problems if p.kind != "box_outside"] == []
    assume(len(root) > 0 or root.attrib)  # an empty one says nothing
    out = voc.write(folder / "out.xml", a, base=base, overwrite=True)
    again = ElementTree.parse(out).getroot()
    if root.find("filename") is None:
        (added,) = again.findall("filename")  # LabelImg can't do without
        again.remove(added)
    assert plain(again) == plain(root)
    assert_same(a, voc.read(out, base=base), fields=("names", "size", "difficult", "truncated", "poses", "verified"))


@few
@given(root=documents(), base=st.sampled_from(BASES))
def test_changed_boxes_leave_the_rest_alone(folder, root, base):
    ElementTree.SubElement(root, "size").text = None  # two sizes: none that is known
    (folder / "in.xml").write_bytes(ElementTree.tostring(root, "utf-8"))
    a = voc.read(folder / "in.xml", base=base)
    moved = replace(a, boxes=np.floor(a.boxes) + 7, names=("new",) * len(a))
    again = ElementTree.parse(voc.write(folder / "out.xml", moved, base=base, overwrite=True)).getroot()
    ours, theirs = without(again, "object", "filename"), without(root, "object", "filename")
    assert sorted(map(repr, ours)) == sorted(map(repr, theirs))  # a second <size> may come beside the first
    for old, new in zip(root.findall("object"), again.findall("object"), strict=True):
        assert [child.tag for child in new] == [child.tag for child in old]
        assert without(new, "name", "bndbox") == without(old, "name", "bndbox")
        assert new.findtext("name") == "new"
    np.testing.assert_array_equal(voc.read(folder / "out.xml", base=base).boxes, moved.boxes)


RICH = (
    "<owner><name>Müller &amp; Co</name></owner><filename>P 肝.png</filename><path>/else where/P 肝.png</path>"
    + SIZE
    + object_xml(more='<occluded lang="x">1</occluded>')
    + object_xml("10.125", "20", "30", "40", more="<depth>2</depth>")
    + "<tail/>"
)


def test_one_object_can_be_taken_out_and_one_put_in(tmp_path):
    a = voc.read(save(tmp_path, RICH))
    assert a.extra["owner"] == {"name": "Müller & Co"}
    assert [extra.get("depth") for extra in a.object_extras] == [None, "2"]
    b = Annotation(
        np.array([a.boxes[1], [1, 2, 3, 4]]), ("tumor", "cyst"), size=a.size, filename=a.filename, extra=a.extra,
        object_extras=(a.object_extras[1], {}),
    )  # fmt: skip
    root = ElementTree.parse(voc.write(tmp_path / "b.xml", b)).getroot()
    assert [child.tag for child in root] == ["owner", "filename", "path", "size", "object", "object", "tail"]
    first, second = root.findall("object")
    assert (first.findtext("bndbox/xmin"), first.findtext("depth"), second.findtext("depth")) == ("10.125", "2", None)
    assert second.findtext("pose") == "Unspecified"


def test_what_is_changed_is_written(tmp_path):
    a = voc.read(save(tmp_path, RICH))
    changed = replace(
        a, verified=True, size=(30, 48), filename="b.png", difficult=(True, False), truncated=(False, True),
        poses=("Left", "Unspecified"),
    )  # fmt: skip
    b = voc.read(voc.write(tmp_path / "b.xml", changed))
    assert_same(b, changed)
    root = ElementTree.parse(tmp_path / "b.xml").getroot()
    assert root.find("path") is None  # that of another image
    assert root.findtext("size/depth") == "1"
    image = tmp_path / "x y" / "c.png"
    root = ElementTree.parse(voc.write(tmp_path / "c.xml", a, image_path=image)).getroot()
    assert [root.findtext(tag) for tag in ("folder", "filename", "path")] == ["x y", "c.png", str(image)]
    exact = voc.write(tmp_path / "d.xml", a, base="corner")  # counted anew, the fraction rounded
    assert ElementTree.parse(exact).findtext("object/bndbox/xmin") == "10"


def test_objects_that_were_left_out_are_not_written(tmp_path):
    a = voc.read(save(tmp_path, SIZE + object_xml(xmax="1") + object_xml()))
    assert kinds(a) == ["degenerate_box"]
    b = voc.read(voc.write(tmp_path / "b.xml", a))
    assert (len(b), b.problems) == (1, ())


def test_usual_files_carry_no_extras_of_objects(tmp_path):
    a = voc.read(voc.write(tmp_path / "a.xml", annotation([[1, 2, 3, 4], [5, 6, 9, 9]])))
    assert a.object_extras == ({}, {})
    with pytest.raises(ValueError, match="needs 2 object_extras, got 1"):
        replace(a, object_extras=({},))


# Files made to do harm


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("<a>" * 65 + "</a>" * 65, "at most 64 levels"),
        ("<a>x</a>" * 600_000, "at most 4 MiB"),
    ],
)
def test_deep_and_huge_files_are_refused(tmp_path, body, message):
    with pytest.raises(ValueError, match=rf"a\.xml: .*{message}.*delete it"):
        voc.read(save(tmp_path, body))
    deepest = voc.read(save(tmp_path, SIZE + "<a>" * 63 + "</a>" * 63))
    assert voc.read(voc.write(tmp_path / "b.xml", deepest)).extra["a"] == deepest.extra["a"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("where", ["SYSTEM 'file:///etc/passwd'", "[<!ENTITY x SYSTEM 'file:///etc/passwd'>]"])
def test_nothing_outside_is_fetched(tmp_path, where, encoding):
    path = tmp_path / "a.xml"
    path.write_bytes(f"<!DOCTYPE annotation {where}><annotation><filename>&x;</filename></annotation>".encode(encoding))
    with pytest.raises(ValueError, match=r"a\.xml: a Pascal VOC annotation has no document type"):
        voc.read(path)


def test_a_file_nested_as_deep_as_its_size_allows_is_refused_at_once(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text("<annotation>" + "<a>" * 500_000 + "</a>" * 500_000 + "</annotation>")
    with pytest.raises(ValueError, match=r"a.xml: not a readable XML file .*at most 64 levels"):
        voc.read(path)  # quadratic in the depth, it would take hours


def test_ten_levels_of_laughs_do_not_expand(tmp_path):
    entities = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(10))
    path = tmp_path / "a.xml"
    path.write_text(f'<!DOCTYPE annotation [<!ENTITY l0 "lol">{entities}]><annotation>&l10;</annotation>')
    tracemalloc.start()
    with pytest.raises(ValueError, match="document type"):
        voc.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24  # expanded, it has 30 GB


RIVAL = """
import sys
from pathlib import Path
folder = Path(sys.argv[1])
for number in range(300):  # a human who saves in LabelImg, where there is no file yet
    try:
        with (folder / f"{number}.xml").open("x") as file:
            file.write("a human's")
        print(number)
    except FileExistsError:
        pass
"""


def test_in_a_race_no_file_of_another_process_is_replaced(tmp_path):
    annotation = Annotation(np.array([[1, 2, 3, 4]]), ("hcc",), size=(50, 60))
    rival = subprocess.Popen([sys.executable, "-c", RIVAL, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    lost = set()
    for number in reversed(range(300)):
        try:
            voc.write(tmp_path / f"{number}.xml", annotation)
        except FileExistsError:
            lost.add(number)
    theirs = set(map(int, rival.communicate(timeout=60)[0].split()))
    assert lost == theirs
    assert all((tmp_path / f"{number}.xml").read_text() == "a human's" for number in theirs)
    assert len(list(tmp_path.iterdir())) == 300
