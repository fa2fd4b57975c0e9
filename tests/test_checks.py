import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hccvision.annotations import voc
from hccvision.annotations.image_folder import read_image_folder
from hccvision.annotations.problem_kinds import KINDS
from hccvision.annotations.problems import usable
from hccvision.annotations.voc_folder import read_voc_folder
from hccvision.boxes.overlap import iou
from hccvision.contracts import Annotation, Problem, Sample
from hccvision.curation import checks
from hccvision.curation.box_checks import MOST, agree, check_boxes, duplicate_boxes
from hccvision.curation.checks import check
from hccvision.curation.class_checks import MOST_NAMES, check_classes
from hccvision.curation.report import LEVELS


def file(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def boxes(*names: str) -> Annotation:
    return Annotation(np.tile(np.array([[1, 2, 9, 8]], np.float32), (len(names), 1)), names, size=(10, 10))


def problem(name: str, *, spoils: bool = True, kind: str = "unreadable_image") -> Problem:
    return Problem(kind, name, "not an image", usable=not spoils)


@pytest.fixture
def data(tmp_path) -> list[Sample]:
    return [
        Sample(file(tmp_path, "a.png", b"one"), annotation=boxes("hcc", "cyst", "hcc")),
        Sample(file(tmp_path, "b.png", b"two"), annotation=boxes()),
        Sample(file(tmp_path, "c.png", b"one"), annotation=boxes("hcc"), problems=(problem("c.xml", spoils=False),)),
        Sample(tmp_path / "gone.png", problems=(problem("d.xml"), problem("d.png", kind="missing_image"))),
        Sample(tmp_path / "gone.png"),
    ]


def test_check_counts_what_is_there(data):
    report = check(data)
    assert (report.images, report.without_objects) == (5, 1)
    assert list(report.objects.items()) == [("cyst", 1), ("hcc", 3)]
    assert [p.path for p in report.problems] == ["c.xml", "d.xml", "d.png"]
    assert report.duplicates == ((str(data[0].path), str(data[2].path)),)


def test_check_counts_class_names(tmp_path):
    report = check([Sample(tmp_path / f"{i}.png", class_name="yes" if i else "no") for i in range(3)])
    assert (report.objects, report.without_objects, report.duplicates) == ({"no": 1, "yes": 2}, 0, ())


def test_check_can_be_printed_and_stored(data):
    report = check(data)
    lines = str(report).splitlines()
    assert lines[:4] == [
        "5 images, 1 of them without objects",
        "classes: cyst 1, hcc 3",
        "identical files: 1 surplus copies in 1 groups",
        "found: 7 errors, 3 warnings, 2 info",
    ]
    assert "error    unreadable_image         5" in lines
    assert lines[5] == "    c.xml: not an image"
    assert "    … and 2 more: report.save(folder) lists them all" in lines
    assert "warning  identical_images         1" in lines
    assert "    a.png, c.png: 2 files are the same file byte for byte: keep one of them" in lines
    stored = json.loads(json.dumps(report.to_dict()))
    assert stored["problems"][0] == {
        "kind": "unreadable_image",
        "path": "c.xml",
        "message": "not an image",
        "usable": True,
    }
    assert stored["duplicates"] == [[str(data[0].path), str(data[2].path)]]
    assert (stored["images"], stored["objects"], stored["without_objects"]) == (5, {"cyst": 1, "hcc": 3}, 1)
    assert stored["findings"][0] == {
        "kind": "unreadable_image",
        "level": "error",
        "files": ["c.xml"],
        "message": "not an image",
    }
    assert [len(report.level(name)) for name in LEVELS] == [7, 3, 2]
    with pytest.raises(ValueError, match=r"unknown level 'fatal'; known: 'error', 'warning', 'info'"):
        report.level("fatal")


def test_check_never_raises(tmp_path):
    (tmp_path / "folder.png").mkdir()
    report = check([Sample(tmp_path / "folder.png"), Sample(Path("")), Sample(tmp_path / "gone.png")])
    assert (report.images, report.duplicates) == (3, ())
    assert {(f.kind, f.level) for f in report.findings} == {("unreadable_image", "error")}
    assert len(report.findings) == 3


def test_usable_lets_good_data_through(data, capsys):
    good = [data[0], data[1]]
    for on_problem in ("raise", "skip"):
        assert usable(good, on_problem) == good
    assert capsys.readouterr().out == ""


def test_usable_names_all_files_it_stops_for(data):
    with pytest.raises(ValueError, match=r'^3 problems in 5 samples; correct them, .*on_problem="skip"') as error:
        usable(data)
    assert str(error.value).splitlines()[1:] == [
        "  c.xml: not an image",
        "  d.xml: not an image",
        "  d.png: not an image",
    ]


def test_usable_shows_ten_problems_and_counts_the_rest():
    many = [Sample(Path(f"{i}.png"), problems=(problem(f"{i}.png"),)) for i in range(13)]
    with pytest.raises(ValueError, match=r"13 problems in 13 samples") as error:
        usable(many)
    lines = str(error.value).splitlines()
    assert lines[10] == "  9.png: not an image"
    assert lines[11:] == ["  … and 3 more: hv.check(data) shows them all"]


def test_usable_prints_what_it_skips_and_keeps_what_it_can(data, capsys):
    kept = usable(data, "skip")
    assert [s.path for s in kept] == [data[i].path for i in (0, 1, 2, 4)]
    assert all(s is data[i] for s, i in zip(kept, (0, 1, 2, 4), strict=True) if not s.problems)
    assert usable(kept) == kept  # what was said once is accepted
    assert capsys.readouterr().out.splitlines() == [
        "skipped: c.xml: not an image",
        "skipped: d.xml: not an image",
        "skipped: d.png: not an image",
        "skipped: 1 of 5 samples: unreadable_image in 1, missing_image in 1",
    ]


def test_usable_refuses_to_give_nothing():
    with pytest.raises(ValueError, match=r"no usable sample: 1 given, all left out"):
        usable([Sample(Path("a.png"), problems=(problem("a.png"),))], "skip")
    with pytest.raises(ValueError, match=r"no usable sample: 0 given"):
        usable([])
    with pytest.raises(ValueError, match=r"unknown on_problem='ignore'; known: 'raise', 'skip'"):
        usable([], "ignore")


def picture(seed: int, size: tuple[int, int] = (160, 160)) -> Image.Image:
    grain = np.random.default_rng(seed).integers(0, 256, (40, 40), dtype=np.uint8)
    return Image.fromarray(grain).resize(size[::-1], Image.Resampling.BICUBIC)


def add(root: Path, number: int, *, names=("hcc",), boxes=((40, 40, 80, 90),)) -> None:
    """Image and annotation ``<number>``, its boxes moved a little so that no two files are alike."""
    path = root / "JPEGImages" / f"{number:02d}.png"
    picture(number).save(path)
    moved = np.array(boxes, np.float32).reshape(-1, 4) + number
    annotation = Annotation(moved, names[: len(moved)], size=(160, 160))
    voc.write(root / "Annotations" / f"{number:02d}.xml", annotation, image_path=path)


def edit(old: str, new: str) -> Callable[[Path, Path], None]:
    """Damage of an annotation: a regular expression replaced."""

    def damage(image: Path, xml: Path) -> None:
        text = xml.read_text()
        assert re.search(old, text, re.DOTALL)
        xml.write_text(re.sub(old, new, text, flags=re.DOTALL))

    return damage


def coordinates(xmin: object, ymin: object, xmax: object, ymax: object) -> Callable[[Path, Path], None]:
    box = f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>"
    return edit(r"<bndbox>.*</bndbox>", box)


def second(name: str, shift: int) -> Callable[[Path, Path], None]:
    """A second box in the place of the first."""

    def damage(image: Path, xml: Path) -> None:
        a = voc.read(xml)
        both = np.concatenate([a.boxes, a.boxes + shift])
        changed = Annotation(both, (*a.names, name), size=a.size, filename=a.filename)
        voc.write(xml, changed, overwrite=True)

    return damage


def copied(change: Callable[[Image.Image], Image.Image] | None, boxes: bool = True) -> Callable[[Path, Path], None]:
    """The image becomes a copy of its neighbour's, the annotation too."""

    def damage(image: Path, xml: Path) -> None:
        source = image.with_name(f"{int(image.stem) + 1:02d}.png")
        if change is None:
            image.write_bytes(source.read_bytes())
        else:
            change(Image.open(source)).save(image)
        size = Image.open(image).size
        a = voc.read(xml.with_name(f"{source.stem}.xml"))
        scale = np.array([*size, *size]) / 160 if boxes else 0.5
        voc.write(xml, Annotation(a.boxes * scale, a.names, size=size[::-1], filename=image.name), overwrite=True)

    return damage


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "unreadable_image": lambda image, xml: image.write_text("not an image"),
    "truncated_image": lambda image, xml: (
        image.unlink(),
        picture(98).save(image.with_suffix(".jpg")),
        image.with_suffix(".jpg").write_bytes(image.with_suffix(".jpg").read_bytes()[:-2000]),
    ),
    "missing_image": lambda image, xml: image.unlink(),
    "missing_annotation": lambda image, xml: xml.unlink(),
    "unreadable_annotation": lambda image, xml: xml.write_text("<annotation><object>"),
    "ambiguous_image": lambda image, xml: (
        image.rename(image.with_suffix(".tif")),
        picture(99).save(image.with_suffix(".bmp")),
    ),
    "size_mismatch": edit("<width>160</width>", "<width>200</width>"),
    "box_outside": coordinates(100, 100, 190, 150),
    "degenerate_box": coordinates(50, 50, 50, 80),
    "bad_box": coordinates(50, 50, "wide", 80),
    "tiny_box": coordinates(50, 50, 51, 80),
    "missing_name": edit("<name>hcc</name>", "<name></name>"),
    "duplicate_box": second("hcc", 1),
    "contradicting_box": second("cyst", 1),
    "similar_class": edit("<name>hcc</name>", "<name>HCC_</name>"),
    "identical_images": copied(None),
    "near_identical_images": copied(lambda image: image.resize((120, 100), Image.Resampling.BILINEAR)),
    "contradicting_copies": copied(None, boxes=False),
    "without_objects": edit("<object>.*</object>", ""),
}


@pytest.fixture
def sound(tmp_path) -> Path:
    root = tmp_path / "data"
    for name in ("JPEGImages", "Annotations"):
        (root / name).mkdir(parents=True)
    return root


def odd(report) -> list:
    """What is found in files, rather than in all of the data, and is more than a statement."""
    return [f for f in report.findings if f.files]


def test_nothing_is_wrong_with_sound_data(sound):
    for number in range(8):
        add(sound, number)
    report = check(read_voc_folder(sound), classes=["hcc"])
    assert odd(report) == []
    assert {f.kind for f in report.findings} == {"image_sizes", "box_sizes", "default_boxes"}


def test_every_damage_is_found_where_it_is_and_nowhere_else(sound):
    assert len(DAMAGES) >= 15
    for number in range(3 * len(DAMAGES)):
        add(sound, number)
    where = {}
    for number, (kind, damage) in enumerate(DAMAGES.items()):
        where[kind] = f"{3 * number:02d}"
        damage(sound / f"JPEGImages/{where[kind]}.png", sound / f"Annotations/{where[kind]}.xml")
    report = check(read_voc_folder(sound))
    found = {}
    for f in odd(report):
        for file in f.files:
            found.setdefault(f.kind, set()).add(Path(file).stem)
    pairs = {kind: {stem, f"{int(stem) + 1:02d}"} for kind, stem in where.items() if "identical" in kind}
    both = {where["contradicting_copies"], f"{int(where['contradicting_copies']) + 1:02d}"}
    expected = {kind: {stem} for kind, stem in where.items()} | pairs | {"contradicting_copies": both}
    expected["identical_images"] |= both
    # what the damage leaves without any box is, besides, an image without objects
    emptied = ("degenerate_box", "bad_box", "missing_name")
    expected["without_objects"] |= {where[kind] for kind in emptied}
    assert found == expected
    assert "box_outside" not in [f.kind for f in report.level("warning")]
    assert [f.level for f in report.findings] == sorted((f.level for f in report.findings), key=LEVELS.index)


@pytest.mark.parametrize(("name", "kind"), [("tumour", "unknown_class"), ("cyst", "unknown_class"), ("Tumor ", None)])
def test_unknown_classes_are_errors_with_the_likely_name(tmp_path, name, kind):
    data = [Sample(tmp_path / f"{i}.png", class_name="tumor") for i in range(4)]
    data.append(Sample(tmp_path / "odd.png", class_name=name))
    (found,) = (f for f in check(data, classes=["tumor", "normal"]).level("error") if f.kind == "unknown_class")
    assert found.files == (str(tmp_path / "odd.png"),)
    assert ("perhaps 'tumor'" in found.message) == (name != "cyst")
    without = [f for f in check(data).findings if f.kind == "similar_class"]
    assert len(without) == (name == "Tumor ")  # once in five is not rare enough for another spelling


def test_rare_spellings_of_a_frequent_class_are_found(tmp_path):
    counts = {"tumor": 30, "tumour": 2, "Tumor ": 20, "normal": 9, "abnormal": 9, "S1": 30, "S2": 30}
    data = [Sample(tmp_path / f"{n}{i}.png", class_name=n) for n, count in counts.items() for i in range(count)]
    found = {f.message.split(" may be")[0] for f in check(data).findings if f.kind == "similar_class"}
    assert found == {"class 'tumour' (2×)", "class 'Tumor ' (20×)"}


def test_copies_in_two_classes_contradict(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        picture(seed).save(tmp_path / f"{name}.png")
    picture(2).resize((100, 90)).save(tmp_path / "d.png")
    labels = {"a": "yes", "b": "no", "c": "yes", "d": "no"}
    report = check([Sample(tmp_path / f"{n}.png", class_name=c) for n, c in labels.items()])
    found = [(f.level, [Path(p).stem for p in f.files]) for f in report.findings if f.kind == "contradicting_copies"]
    assert found == [("error", ["a", "b"]), ("warning", ["c", "d"])]


def test_annotations_agree_by_class_and_place():
    def sample(box, name="hcc", size=(100, 100)):
        return Sample(Path("a.png"), annotation=Annotation(np.array([box], np.float32), (name,), size=size))

    one = sample((10, 10, 50, 50))
    assert agree(one, one)
    assert agree(one, sample((20, 20, 100, 100), size=(200, 200)))
    assert agree(one, Sample(Path("b.png")))
    assert agree(Sample(Path("a.png"), annotation=boxes()), Sample(Path("a.png"), annotation=boxes()))
    assert not agree(one, sample((50, 50, 90, 90)))
    assert not agree(one, sample((10, 10, 50, 50), "cyst"))
    assert not agree(one, Sample(Path("a.png"), annotation=boxes()))


def test_duplicate_boxes_are_of_one_class():
    assert duplicate_boxes(Sample(Path("a.png"), annotation=boxes("a", "b", "a", "b"))) == [(0, 2), (1, 3)]
    assert duplicate_boxes(Sample(Path("a.png"), annotation=boxes("a"))) == duplicate_boxes(Sample(Path("a.png"))) == []


def test_a_size_that_gives_the_class_away_is_a_shortcut(tmp_path):
    data = []
    for number in range(60):
        name = "yes" if number % 2 else "no"
        side = 64 if (number % 2) != (number % 20 == 0) else 48
        picture(number, (side, side)).save(tmp_path / f"{number}.png")
        data.append(Sample(tmp_path / f"{number}.png", class_name=name))
    found = [f for f in check(data).findings if f.kind == "shortcut"]
    assert [f.message.split(" alone")[0] for f in found] == ["image size", "image size, in steps of √2"]
    assert "chance 50%" in found[0].message
    assert "95% of 60 images" in found[0].message
    scanner = {"scanner of the table": lambda s: int(s.path.stem) % 2}
    told = [f.message.split(" alone")[0] for f in check(data, attributes=scanner).findings if f.kind == "shortcut"]
    assert told[2:] == ["scanner of the table"]


def test_boxes_that_no_default_box_reaches_are_told_by_size(sound):
    for number in range(6):
        add(sound, number, names=("hcc", "hcc"), boxes=((20, 20, 30, 30), (40, 40, 110, 120)))
    found = [f for f in check(read_voc_folder(sound)).findings if f.kind == "default_boxes"]
    assert [f.level for f in found] == ["warning", "info"]
    assert "'ssd300_mobilenet': 50.0 % of 12 truths" in found[0].message
    assert "5-10 %: 0 of 6" in found[0].message
    assert "hv.default_boxes.suggest" in found[0].message


def test_the_report_is_saved_as_text_json_and_page(sound, tmp_path):
    for number in range(4):
        add(sound, number)
    name = sound / "JPEGImages" / "<b>&.png"
    name.write_text("not an image")
    DAMAGES["tiny_box"](sound / "JPEGImages/00.png", sound / "Annotations/00.xml")
    report = check(read_voc_folder(sound))
    folder = report.save(tmp_path / "report")
    assert sorted(p.name for p in folder.iterdir()) == ["check.html", "check.json", "check.txt"]
    assert json.loads((folder / "check.json").read_text(encoding="utf-8")) == report.to_dict()
    page, text = ((folder / f"check.{end}").read_text(encoding="utf-8") for end in ("html", "txt"))
    assert "&lt;b&gt;&amp;.png" in page
    assert "<b>&" not in page
    assert "data:image/jpeg;base64," in page
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    for shown in (page, text, str(report)):
        assert str(tmp_path) not in shown
        assert "tiny_box" in shown
    with pytest.raises(FileExistsError, match="there is a report here already"):
        report.save(folder)
    assert report.save(folder, overwrite=True) == folder


def test_all_findings_are_explained():
    package = Path(checks.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in package.glob("*.py"))
    kinds = set(re.findall(r'Finding\(\s*"(\w+)"|kind = "(\w+)"|else "(\w+_image)"', source))
    kinds = {k for found in kinds for k in found if k} | set(DAMAGES)
    assert {"truncated_image", "near_identical_images", "default_boxes", "shortcut"} <= kinds
    page = (package.parents[2] / "docs" / "check.rst").read_text(encoding="utf-8")
    assert kinds - set(re.findall(r"\* - ``(\w+)``", page)) - set(KINDS) == set()


@pytest.mark.parametrize("jitter", [0, 0.2])
def test_thousands_of_boxes_in_one_place_are_found_at_bounded_cost(jitter):
    rng = np.random.default_rng(0)
    many = np.array([10, 10, 60, 60]) + rng.uniform(0, jitter, (4000, 4))
    annotation = Annotation(many, ("hcc",) * 2000 + ("cyst",) * 2000, size=(100, 100))
    started = time.monotonic()
    found = list(check_boxes(Sample(Path("a.png"), annotation=annotation), (100, 100)))
    counts = Counter(f.kind for f in found)
    assert counts == {"duplicate_box": MOST + 1, "contradicting_box": MOST + 1 if jitter else 1}
    assert found[-1].message.startswith(f"and {1980 if jitter else 3978} more of this kind in the image")
    assert found[0].message == "boxes 1 and 2 are both 'hcc' in the same place: delete one"
    assert agree(*[Sample(Path("a.png"), annotation=annotation)] * 2)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("names", [("hcc",) * 20_000, tuple(f"class {n}" for n in range(20_000))])
def test_a_report_on_twenty_thousand_boxes_in_one_place_is_short_and_soon_done(tmp_path, names):
    path = tmp_path / "a.png"
    picture(3).save(path)
    annotation = Annotation(np.float32([[10, 10, 30, 25]] * 20_000), names, size=Image.open(path).size[::-1])
    started = time.monotonic()
    report = check([Sample(path, annotation=annotation)])
    assert len(report.findings) < 100
    assert len(str(report)) < 10_000
    assert re.search(r"and 19979 more|only 5000 of 20000 boxes are compared", "\n".join(map(str, report.findings)))
    assert time.monotonic() - started < 30


def test_long_names_are_cut_in_the_report(tmp_path):
    picture(3).save(tmp_path / "a.png")
    names = tuple(f"{n}{'x' * 990}" for n in range(40))
    annotation = Annotation(np.float32([[n, 1, n + 9, 9] for n in range(40)]), names)
    for classes in (None, ["hcc"]):
        report = check([Sample(tmp_path / "a.png", annotation=annotation)], classes=classes)
        assert len(str(report)) + sum(len(f.message) for f in report.findings) < 50_000


@pytest.mark.parametrize("seed", range(10))
def test_boxes_drawn_twice_are_those_that_a_comparison_of_all_finds(seed):
    rng = np.random.default_rng(seed)
    first = rng.uniform(0, 50, (200, 2))
    one = np.concatenate([first, first + rng.uniform(1, 40, (200, 2))], 1)
    every = np.concatenate([one, one + rng.uniform(-2, 2, one.shape)])[rng.permutation(400)].astype(np.float32)
    every[:, 2:] = np.maximum(every[:, :2], every[:, 2:])
    names = tuple(rng.choice(["hcc", "cyst"], 400).tolist())
    sample = Sample(Path("a.png"), annotation=Annotation(every, names))
    near = (iou(torch.from_numpy(every), torch.from_numpy(every)) > 0.9).triu(1).numpy()
    same = near & (np.array(names)[:, None] == np.array(names))
    assert duplicate_boxes(sample) == sorted((int(same[:, j].argmax()), j) for j in range(400) if same[:, j].any())


def test_thousands_of_class_names_are_counted_and_some_of_them_named():
    data = [Sample(Path(f"{i}.png"), class_name=f"tumor {i:05d}" + "x" * 200) for i in range(3000)]
    started = time.monotonic()
    for classes, kind in ((["tumor"], "unknown_class"), (None, "similar_class")):
        found = list(check_classes(data, classes))
        assert found[-1].kind == kind
        assert found[-1].message.startswith(f"and {3000 - MOST_NAMES} more ")
        assert len(found) <= MOST_NAMES + 1
        assert sum(len(f.files) for f in found) <= 3000
    assert time.monotonic() - started < 30


def test_an_image_of_one_grey_is_blank(tmp_path):
    Image.new("L", (40, 30), 7).save(tmp_path / "a.png")
    picture(3).save(tmp_path / "b.png")
    found = [f for f in check([Sample(tmp_path / n) for n in ("a.png", "b.png")]).findings if f.kind == "blank_image"]
    assert [str(f) for f in found] == ["a.png: it shows nothing but the grey 7: export it again, or leave it out"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_that_turns_a_boxed_image_is_named(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(3).save(tmp_path / "a.jpg", exif=exif)
    picture(3).save(tmp_path / "b.jpg", exif=exif)
    samples = [Sample(tmp_path / "a.jpg", annotation=boxes("hcc")), Sample(tmp_path / "b.jpg", annotation=boxes())]
    found = [f for f in check(samples).findings if f.kind == "exif_orientation"]
    assert [f.files for f in found] == ([(str(tmp_path / "a.jpg"),)] if orientation > 1 else [])


def test_an_image_too_large_for_the_memory_does_not_end_the_check(tmp_path, monkeypatch):
    for name in "ab":
        picture(3).save(tmp_path / f"{name}.png")

    def thumbnail(path, **options):
        raise MemoryError

    monkeypatch.setattr("hccvision.curation.facts.grey_picture", thumbnail)
    found = check([Sample(tmp_path / "a.png"), Sample(tmp_path / "b.png")])
    assert [str(f).partition(" (")[0] for f in found.level("error")] == [
        f"{n}.png: reading it needs more memory than there is" for n in "ab"
    ]


def test_control_characters_of_names_are_escaped_in_text_and_page(tmp_path):
    nasty = "a\n\x1b[2Jhcc\x07"
    path = tmp_path / f"{nasty}.png"
    sample = Sample(path, class_name=nasty, problems=(problem(str(path)),))
    report = check([sample, Sample(tmp_path / "b.png", class_name="b")], classes=["b"])
    folder = report.save(tmp_path / "report")
    for text in (str(report), str(sample.problems[0]), *((folder / f"check.{x}").read_text() for x in ("txt", "html"))):
        assert not set(text) & set("\x1b\x07")
        assert "a\\n\\x1b[2Jhcc\\x07.png" in text


@pytest.mark.shared_data
def test_the_copies_among_the_brain_slices(shared):
    data = read_image_folder(shared / "data/brain_mri_253", {"no": "no", "yes": "yes"})
    report = check(data)
    assert report.objects == {"no": 98, "yes": 155}
    assert report.problems == report.level("error") == ()
    assert len(report.duplicates) == 22
    assert sum(f.kind == "identical_images" for f in report.findings) == 22
    assert sum(len(group) - 1 for group in report.duplicates) == 25
    class_of = {str(s.path): s.class_name for s in data}
    for group in report.duplicates:
        assert len({Path(path).read_bytes() for path in group}) == 1
        assert len({class_of[path] for path in group}) == 1


@pytest.mark.shared_data
def test_the_degenerate_boxes_among_the_blood_cells(shared, capsys):
    data = read_voc_folder(shared / "data/bccd")
    errors = check(data).level("error")
    assert [(f.kind, Path(f.files[0]).name) for f in errors] == [
        ("degenerate_box", "BloodImage_00338.xml"),
        ("degenerate_box", "BloodImage_00343.xml"),
    ]
    with pytest.raises(ValueError, match=r"problems in 364 samples") as error:
        usable(data)
    assert "BloodImage_00338.xml" in str(error.value) or "more: hv.check" in str(error.value)
    assert len(usable(data, "skip")) == 364
    printed = capsys.readouterr().out
    for name in ("BloodImage_00338.xml", "BloodImage_00343.xml"):
        assert sum(name in line and "needs xmax > xmin" in line for line in printed.splitlines()) == 1
