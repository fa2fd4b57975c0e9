"""One preparation of the ground truth for training and evaluation, by the rules of the formats it came from."""

import contextlib
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import hccvision as hv
from hccvision.annotations.coco import read_coco
from hccvision.annotations.voc_folder import read_voc_folder
from hccvision.contracts.batches import Targets
from hccvision.contracts.outputs import Detections, Prediction, SSDOutput
from hccvision.contracts.samples import Annotation, Sample
from hccvision.curation.class_checks import check_balance
from hccvision.data.splits import split
from hccvision.images.placement import place
from hccvision.model.build import build_model
from hccvision.recipes import Recipe
from hccvision.registry import LOSSES

CLASSES = ("hcc", "cyst", "scar")
SIZE = (90, 120)


def annotated(*boxes, names=None, size=(40, 60), path="a.png", **flags):
    names = ("hcc",) * len(boxes) if names is None else names
    return Sample(Path(path), annotation=Annotation(np.array(boxes, np.float32), names, size=size, **flags))


def detector(**options):
    small = {"width": 0.25}
    return build_model("mobilenet_v1", "ssd", classes=["hcc"], image_size=96, backbone_options=small, **options)


# crowds in training


@pytest.fixture(scope="module")
def model():
    return detector()


def loss_and_gradient(model, targets, name):
    torch.manual_seed(0)
    output = model.eval()(torch.rand(len(targets), 3, 96, 96))
    logits = output.logits.detach().requires_grad_()
    loss = model.loss(SSDOutput(logits, output.offsets), targets, name=name)
    loss["loss"].backward()
    return loss, logits.grad


@pytest.mark.parametrize("name", LOSSES.names(task="detection"))
def test_a_crowd_is_neither_lesion_nor_background_to_any_loss(model, name):
    region = torch.tensor([[[0.0, 0.0, 48.0, 96.0]]])
    none = Targets(torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64))
    loss, gradient = loss_and_gradient(model, replace(none, crowds=region), name)
    centre, width = model.head.default_boxes[:, 0], model.head.default_boxes[:, 2]
    inside = centre + width / 2 <= 0.5
    assert float(gradient[0, inside].abs().max()) == 0.0 < float(gradient.abs().max())
    whole = replace(none, crowds=torch.tensor([[[0.0, 0.0, 96.0, 96.0]]]))
    loss, gradient = loss_and_gradient(model, whole, name)
    assert loss["loss"].item() == 0.0 == float(gradient.abs().max())


@pytest.mark.parametrize("name", LOSSES.names(task="detection"))
def test_a_lesion_inside_a_crowd_is_learned_all_the_same(model, name):
    lesion = Targets(torch.tensor([[[10.0, 10.0, 40.0, 40.0]]]), torch.zeros(1, 1, dtype=torch.int64))
    crowded = replace(lesion, crowds=torch.tensor([[[0.0, 0.0, 96.0, 96.0]]]))
    (loss, _), (plain, _) = (loss_and_gradient(model, targets, name) for targets in (crowded, lesion))
    assert float(loss.count) == float(plain.count) > 0
    assert loss.sums["regression"] == plain.sums["regression"]
    assert 0 < float(loss.sums["classification"]) < float(plain.sums["classification"])


def test_a_crowd_of_no_area_and_no_crowd_are_the_same(model):
    lesion = Targets(torch.tensor([[[10.0, 10.0, 40.0, 40.0]]]), torch.zeros(1, 1, dtype=torch.int64))
    one, other = (loss_and_gradient(model, t, None) for t in (lesion, replace(lesion, crowds=torch.zeros(1, 2, 4))))
    assert one[0].sums == other[0].sums
    assert one[1].equal(other[1])


def test_crowds_go_with_their_images_through_batches_and_augmentation():
    crowd = torch.tensor([[[8.0, 8.0, 40.0, 30.0]]])
    lesion = Targets(crowd.clone(), torch.zeros(1, 1, dtype=torch.int64))
    both = Targets.cat([lesion, replace(lesion, crowds=crowd)])
    assert both.crowds.tolist() == [[[0.0] * 4], crowd[0].tolist()]
    assert both.take(torch.tensor([1])).crowds.equal(crowd)
    assert Targets.cat([lesion, lesion]).crowds is None
    one = replace(lesion, crowds=crowd)
    for name in ("light", "paper"):
        augment = hv.AUGMENTATIONS.build(name)
        for seed in range(20):
            _, moved = augment(torch.rand(1, 3, 48, 48), one, torch.Generator().manual_seed(seed))
            if moved.valid.any():  # a lesion and a crowd of the same place stay in the same place
                torch.testing.assert_close(moved.crowds, moved.boxes)


def test_kornia_moves_crowds_too():
    from kornia.augmentation import RandomHorizontalFlip

    none = Targets(torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64), crowds=torch.tensor([[[2.0, 2, 4, 4]]]))
    mirrored = hv.augment.adapt(RandomHorizontalFlip(p=1.0))(torch.zeros(1, 1, 8, 8), none, torch.Generator())[1]
    assert mirrored.crowds.tolist() == [[[4, 2, 6, 4]]]
    assert mirrored.boxes.shape == (1, 0, 4)


def test_an_image_of_a_crowd_only_does_not_train_as_free_of_lesions(tmp_path, capsys):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60), np.uint8)).save(path)
    whole = [annotated([0, 0, 60, 40], crowd=(True,), path=path) for path in paths]
    empty = [annotated(path=path) for path in paths]
    recipe = Recipe(epochs=1, batch=2, augmentation="none")
    for data, learns in ((whole, False), (empty, True)):
        torch.manual_seed(0)
        model = detector()
        before = {name: p.detach().clone() for name, p in model.named_parameters() if "class_convs" in name}
        with pytest.warns(UserWarning, match="expected boxes to train a detector"):
            hv.fit(model, data, recipe=replace(recipe, weight_decay=0.0), device="cpu")
        changed = any(not p.equal(before[name]) for name, p in model.named_parameters() if name in before)
        assert changed == learns


# what counts as a class


def test_crowds_are_no_lesions_to_learn_or_to_split_by():
    crowd, lesion = annotated([1, 1, 9, 9], crowd=(True,)), annotated([1, 1, 9, 9])
    both = annotated([1, 1, 9, 9], [2, 2, 5, 5], names=("cyst", "hcc"), crowd=(True, False))
    task = hv.TASKS.build("detection", ["cyst", "hcc"])
    assert [task.stratum(s) for s in (crowd, lesion, both)] == [False, True, True]
    assert [s.object_names for s in (crowd, lesion, both)] == [(), ("hcc",), ("hcc",)]
    with pytest.raises(ValueError, match="no training sample shows 'cyst'"):
        task.balanced_weights([lesion, both])
    with pytest.warns(UserWarning, match="got none in 1 samples"):
        task.check_training([crowd])
    assert not list(check_balance([lesion, both]))
    data = [replace(both, path=Path(f"{i}.png"), patient=f"P{i}") for i in range(3)]
    data += [replace(crowd, path=Path(f"{i}.png"), patient=f"P{i}") for i in range(3, 8)]
    data[0] = replace(data[0], annotation=replace(data[0].annotation, crowd=(False, False)))
    with pytest.warns(UserWarning, match="no 'cyst'"):
        split(data, (0.5, 0.5), group="none")
    multilabel = hv.TASKS.build("multilabel", ["cyst", "hcc"])
    assert multilabel.truth(both) == [1, 1]  # the image shows both


# boxes that mark no part of the image


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([1, 2, math.nan, 4], "boxes of finite numbers"),
        ([1, 2, math.inf, 4], "boxes of finite numbers"),
        ([5, 5, 5, 9], "boxes with an area inside the image"),
        ([9, 5, 5, 9], "boxes with an area inside the image"),
        ([70, 5, 80, 9], "boxes with an area inside the image"),
    ],
)
def test_boxes_that_mark_nothing_never_make_a_negative(tmp_path, box, message):
    sample = annotated(box, path=tmp_path / "a.png")
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(sample.path)
    model = detector()
    for use in (model.dataset, lambda data: hv.evaluate(model, data, device="cpu")):
        with pytest.raises(ValueError, match=rf"a\.png: expected {message}"):
            use([sample])


def test_the_annotation_of_another_version_of_an_image_is_refused(tmp_path):
    sample = annotated([1, 2, 3, 4], path=tmp_path / "a.png", size=(80, 120))
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(sample.path)
    with pytest.raises(ValueError, match=r"a\.png: is 60×40 pixels, and was 120×80 when its annotation was read"):
        detector().dataset([sample])[0]


@given(st.integers(0, 10_000))
def test_truths_are_the_targets_of_training(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 6))
    corners = rng.integers(-10, 50, (n, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 40, (n, 2))], 1)
    flags = {name: tuple((rng.random(n) < 0.3).tolist()) for name in ("difficult", "crowd")}
    sample = annotated(*boxes.tolist(), names=tuple(rng.choice(CLASSES, n).tolist()), **flags)
    task = hv.TASKS.build("detection", CLASSES)
    assume(n == 0 or (np.minimum(boxes[:, 2:], [60, 40]) > np.maximum(boxes[:, :2], 0)).all(1).any())
    truth = task.truth(sample)
    target = task.target(sample, place((40, 60), (40, 60), "stretch"))
    crowds = target.crowds[0] if target.crowds is not None else torch.zeros(0, 4)
    assert target.boxes[0].equal(truth["boxes"][~truth["crowd"]])
    assert target.labels[0].equal(truth["labels"][~truth["crowd"]])
    assert crowds.equal(truth["boxes"][truth["crowd"]])


# from files to figures


def random_boxes(rng, n, beyond=0):
    height, width = SIZE
    corner = np.stack([rng.integers(-beyond, width - 12, n), rng.integers(-beyond, height - 12, n)], 1)
    return np.concatenate([corner, corner + rng.integers(beyond + 2, 60, (n, 2))], 1).astype(np.float32)


def clipped(boxes):
    return np.clip(boxes, 0, [SIZE[1], SIZE[0]] * 2)


def random_detections(rng, truths):
    near = truths[rng.integers(0, len(truths), len(truths) * 2)] if len(truths) else np.zeros((0, 4))
    boxes = np.concatenate([near + rng.integers(-6, 7, near.shape), random_boxes(rng, int(rng.integers(0, 4)))])
    boxes = clipped(boxes)
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    scores = torch.from_numpy(rng.integers(1, 8, len(boxes)) / 8).float()
    order = scores.argsort(descending=True, stable=True)
    labels = torch.from_numpy(rng.integers(0, len(CLASSES), len(boxes)))
    return Detections(torch.from_numpy(boxes).float()[order], scores[order], labels[order])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for i in range(5):
        Image.fromarray(np.full(SIZE, 40 * i, np.uint8)).save(folder / f"{i}.png")
    return folder


def coco_equals(folder, seed):
    """Read a COCO file with crowds, ignored and clipped boxes, and compare all figures with pycocotools'."""
    rng = np.random.default_rng(seed)
    annotations, found, document_images = [], [], []
    for i in range(5):
        document_images.append({"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]})
        boxes = random_boxes(rng, int(rng.integers(0, 5)), beyond=8 * (seed % 2))
        boxes = boxes[(clipped(boxes)[:, 2:] > clipped(boxes)[:, :2]).all(1)]
        for x1, y1, x2, y2 in boxes.tolist():
            entry = {"id": len(annotations) + 1, "image_id": i, "category_id": int(rng.integers(1, 4))}
            flags = {"iscrowd": int(rng.random() < 0.25), "ignore": int(rng.random() < 0.25)}
            annotations.append({**entry, **flags, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
        found.append(random_detections(rng, clipped(boxes)))
    document = {
        "images": document_images,
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)],
    }
    file = folder / "annotations.json"
    file.write_text(json.dumps(document))
    with contextlib.redirect_stdout(io.StringIO()):
        samples = read_coco(file, folder)
        predictions = [Prediction(str(folder / f"{i}.png"), detections=d) for i, d in enumerate(found)]
        metrics = ["coco_summary", "coco_map"]
        report = hv.score(
            predictions, samples, classes=CLASSES, task="detection", metrics=metrics, on_problem="skip", resamples=0
        )
        coco = COCO()
        coco.dataset = document
        for entry in annotations:  # by our rule boxes are clipped to the image
            x1, y1, x2, y2 = clipped(np.add(entry["bbox"], [0, 0, *entry["bbox"][:2]])).tolist()
            entry |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        coco.createIndex()
        results = [
            {"image_id": i, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            for i, d in enumerate(found)
            for (x1, y1, x2, y2), score, label in zip(
                d.boxes.tolist(), d.scores.tolist(), d.labels.tolist(), strict=True
            )
        ]
        evaluation = COCOeval(coco, coco.loadRes(results) if results else COCO(), "bbox")
        if results:
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
    if results:
        figures = [report[name] for name in list(report.figures)[:12]]
        assert [-1.0 if math.isnan(x) else float(x) for x in figures] == pytest.approx(evaluation.stats, abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_a_coco_file_scores_as_pycocotools_scores_it(images, seed):
    coco_equals(images, seed)


def voc_evaldet(found, truths, label, *, eleven, extra):
    """VOCevaldet.m and VOCap.m of the development kits, line by line; difficult objects are neither hit nor miss."""
    npos = sum(int(((t["labels"] == label) & ~t["difficult"]).sum()) for t in truths)
    det = [np.zeros(len(t["labels"]), bool) for t in truths]
    rows = [
        (i, b, s)
        for i, d in enumerate(found)
        for b, s, k in zip(d.boxes.tolist(), d.scores.tolist(), d.labels.tolist(), strict=True)
        if k == label
    ]
    rows.sort(key=lambda row: -row[2])
    tp, fp = np.zeros(len(rows)), np.zeros(len(rows))
    for d, (i, bb, _) in enumerate(rows):
        ovmax, jmax = -math.inf, -1
        for j, bbgt in enumerate(truths[i]["boxes"].tolist()):
            if truths[i]["labels"][j] != label:
                continue
            bi = max(bb[0], bbgt[0]), max(bb[1], bbgt[1]), min(bb[2], bbgt[2]), min(bb[3], bbgt[3])
            iw, ih = bi[2] - bi[0] + extra, bi[3] - bi[1] + extra
            if iw > 0 and ih > 0:
                ua = (bb[2] - bb[0] + extra) * (bb[3] - bb[1] + extra)
                ua += (bbgt[2] - bbgt[0] + extra) * (bbgt[3] - bbgt[1] + extra) - iw * ih
                if iw * ih / ua > ovmax:
                    ovmax, jmax = iw * ih / ua, j
        if ovmax >= 0.5:
            if not truths[i]["difficult"][jmax]:
                tp[d], fp[d] = not det[i][jmax], det[i][jmax]
                det[i][jmax] = True
        else:
            fp[d] = 1
    if not npos:
        return math.nan
    fp, tp = fp.cumsum(), tp.cumsum()
    rec = tp / npos
    prec = np.divide(tp, fp + tp, out=np.zeros(len(tp)), where=fp + tp > 0)
    if eleven:
        return sum(max(prec[rec >= t], default=0.0) / 11 for t in np.arange(0.0, 1.1, 0.1))
    mrec, mpre = np.concatenate([[0], rec, [1]]), np.concatenate([[0], prec, [0]])
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return float(((mrec[1:] - mrec[:-1]) * mpre[1:]).sum())


def voc_equals(folder, seed):
    """Read LabelImg files with difficult and clipped boxes, and compare both average precisions with the kit's."""
    rng = np.random.default_rng(seed)
    found, truths = [], []
    for i in range(5):
        boxes = random_boxes(rng, int(rng.integers(0, 5)), beyond=8 * (seed % 2))
        boxes = boxes[(clipped(boxes)[:, 2:] > clipped(boxes)[:, :2]).all(1)]
        labels, difficult = rng.integers(0, 3, len(boxes)), rng.random(len(boxes)) < 0.3
        objects = "".join(
            f"<object><name>{CLASSES[k]}</name><difficult>{int(hard)}</difficult><bndbox><xmin>{x1 + 1:.0f}</xmin>"
            f"<ymin>{y1 + 1:.0f}</ymin><xmax>{x2:.0f}</xmax><ymax>{y2:.0f}</ymax></bndbox></object>"
            for (x1, y1, x2, y2), k, hard in zip(boxes.tolist(), labels.tolist(), difficult.tolist(), strict=True)
        )
        size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>1</depth></size>"
        name = f"<filename>{i}.png</filename>"
        (folder / f"{i}.xml").write_text(f"<annotation>{name}{size}{objects}</annotation>")
        truths.append({"boxes": clipped(boxes), "labels": labels, "difficult": difficult})
        found.append(random_detections(rng, clipped(boxes)))
    with contextlib.redirect_stdout(io.StringIO()):
        samples = sorted(read_voc_folder(folder), key=lambda s: s.path.name)
        for extra in (False, True):
            metrics = {"voc_map": {"extra_pixel": extra}, "voc07_map": {"extra_pixel": extra}}
            report = hv.score(
                [Prediction(str(s.path), detections=d) for s, d in zip(samples, found, strict=True)],
                samples, classes=CLASSES, task="detection", metrics=metrics, on_problem="skip", resamples=0,
            )  # fmt: skip
            for name, eleven in (("voc_map", False), ("voc07_map", True)):
                expected = [voc_evaldet(found, truths, k, eleven=eleven, extra=int(extra)) for k in range(3)]
                for k, value in enumerate(expected):
                    own = report.figures.get(f"{name}/{CLASSES[k]}", math.nan)
                    assert float(own) == pytest.approx(value, abs=1e-9, nan_ok=True)
                defined = [value for value in expected if not math.isnan(value)]
                mean = float(np.mean(defined)) if defined else math.nan
                assert float(report[name]) == pytest.approx(mean, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("seed", range(20))
def test_labelimg_files_score_as_the_development_kit_scores_them(tmp_path, images, seed):
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes((images / f"{i}.png").read_bytes())
    voc_equals(tmp_path, seed)


# crowds in the other figures


@pytest.mark.parametrize("seed", range(20))
def test_detections_inside_a_crowd_change_no_figure(seed):
    rng = np.random.default_rng(seed)
    truths, plain, more = [], [], []
    for _ in range(4):
        boxes = random_boxes(rng, int(rng.integers(0, 4)))
        n = len(boxes)
        region = np.array([[200, 200, 300, 300]], np.float32)  # apart from all others
        truths.append(
            {
                "boxes": np.concatenate([boxes, region]),
                "labels": np.append(rng.integers(0, 3, n), 1),
                "difficult": np.append(rng.random(n) < 0.3, False),
                "crowd": np.append(np.zeros(n, bool), True),
                "size": (400, 400),
            }
        )
        d = random_detections(rng, boxes).as_dict()
        plain.append(d)
        inside = torch.from_numpy(200 + rng.integers(0, 40, (3, 2))).float()
        inside = torch.cat([inside, inside + 20], 1)
        more.append(
            {
                "boxes": torch.cat([inside, d["boxes"]]),
                "scores": torch.cat([torch.rand(3, generator=torch.Generator().manual_seed(seed)), d["scores"]]),
                "labels": torch.cat([torch.ones(3, dtype=torch.int64), d["labels"]]),
            }
        )
    metrics = hv.metrics.find_metrics([n for n in hv.METRICS.names(task="detection") if n != "coco_summary"])
    one, other = (
        hv.metrics.compute_metrics(metrics, hv.metrics.Comparison(p, truths, classes=CLASSES)) for p in (plain, more)
    )
    assert {k: str(v) for k, v in one.items()} == {k: str(v) for k, v in other.items()}
    one.pop("weighted_afroc")  # a patient with a crowd is not healthy
    without = [{k: v[:-1] if k != "size" else v for k, v in t.items()} for t in truths]
    fewer = hv.metrics.compute_metrics(metrics, hv.metrics.Comparison(plain, without, classes=CLASSES))
    fewer.pop("weighted_afroc")
    assert {k: str(v) for k, v in one.items()} == {k: str(v) for k, v in fewer.items()}
