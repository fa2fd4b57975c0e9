"""The page of a report, and whether its figures follow from what was saved with it."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import hccvision as hv
from hccvision.metrics.threshold_curves import threshold_curve
from hccvision.plots import evaluation_curves

CLASSES = ["normal", "cancer"]


def classified(folder, metrics=None, patients=True, n=30):
    rng = np.random.default_rng(0)
    samples = [
        hv.Sample(folder / f"{i}<b>.png", f"P{i // 3}" if patients else None, class_name=CLASSES[i % 2])
        for i in range(n)
    ]
    predictions = []
    for sample in samples:
        p = float(np.clip(0.5 + 0.3 * (sample.class_name == "cancer") - 0.15 + rng.normal(0, 0.2), 0.01, 0.99))
        predictions.append(hv.Prediction(str(sample.path), torch.tensor([1 - p, p])))
    return hv.score(
        predictions, samples, classes=CLASSES, task="classification", resamples=20, metrics=metrics
    )  # fmt: skip


@pytest.fixture(scope="module")
def detected(tmp_path_factory):
    data = hv.read_voc_folder(
        hv.phantom.write_dataset(tmp_path_factory.mktemp("d") / "liver", patients=4, slices=2, seed=0),
        patient=r"^(P\d+)_",
    )
    model = hv.build_model(
        "mobilenet_v1", "ssd", classes=["hcc"], image_size=96, backbone_options={"width": 0.25}, seed=0
    )
    return hv.evaluate(model, data, device="cpu", resamples=10, score_threshold=0.4)


class Page(HTMLParser):
    """Collects tags that are left open, and all addresses."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(tmp_path, detected):
    for report, pictures in ((classified(tmp_path), 5), (detected, 4)):
        folder = report.save(tmp_path / report.task, pictures=0)
        text = (folder / "index.html").read_text("utf-8")
        page = Page(text)
        assert page.open == []
        assert len(page.addresses) == pictures
        assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
        assert not re.search(r"https?://|@import|url\(|<script", text)
        for name, figure in report.figures.items():
            assert f'<td>{name}</td><td class="n">{figure}</td>' in text
        assert "<b>.png" not in text  # names are not shown, let alone as markup


def test_files_and_patients_are_not_named(tmp_path):
    report = classified(tmp_path / "secret_folder")
    folder = report.save(tmp_path / "report", pictures=0)
    for name in ("index.html", "cases.json", "report.json"):
        text = (folder / name).read_text("utf-8")
        assert "secret_folder" not in text
        assert '"P1"' not in text


def test_what_the_page_says_of_the_data_and_its_limits(tmp_path, detected):
    text = (detected.save(tmp_path / "a", pictures=0) / "index.html").read_text("utf-8")
    assert "<dt>patients</dt><dd>4</dd>" in text
    assert "The test set is of 4 patients" in text
    assert detected.about["SHA-256 of the weights"] in text
    assert "Ethics approval" in text
    unknown = classified(tmp_path, patients=False).save(tmp_path / "b")
    assert "Not all patients are known" in (unknown / "index.html").read_text("utf-8")


def test_every_figure_follows_from_the_saved_cases(tmp_path, detected):
    options = {"froc": {"rates": (0.5, 1.0)}, "voc_map": {"iou_threshold": np.float32(0.25)}, "error_kinds": {}}
    other = hv.score(
        detected.predictions, detected.samples, classes=["hcc"], task="detection", metrics=options, resamples=10
    )
    for number, report in enumerate((detected, other, classified(tmp_path))):
        found = hv.verify(report.save(tmp_path / str(number), pictures=0))
        assert found
        assert (found.figures, found.faults, found.unchecked) == (len(report.figures), (), ())


def test_one_altered_value_is_found(tmp_path, detected):
    folder = detected.save(tmp_path / "r", pictures=0)
    for name, old, new in (
        ("predictions.csv", r"\.\d", ".7"),
        ("cases.json", r'"scores": \[0\.\d', '"scores": [0.9'),
        ("report.json", r'"froc": 0\.\d+|"froc": \d\.\d+', '"froc": 0.98765'),
    ):
        path = folder / name
        before = path.read_bytes()
        path.write_bytes(re.sub(old.encode(), new.encode(), before, count=1))
        assert path.read_bytes() != before
        found = hv.verify(folder)
        assert not found
        assert any(("was changed" in fault) or ("is reported as" in fault) for fault in found.faults)
        path.write_bytes(before)
        assert hv.verify(folder)
    (folder / "froc.png").unlink()
    assert "froc.png: is missing" in str(hv.verify(folder))


def test_a_forged_report_without_hashes_is_found_too(tmp_path, detected):
    folder = detected.save(tmp_path / "r", pictures=0)
    document = json.loads((folder / "report.json").read_text("utf-8"))
    document["intervals"]["sensitivity"] = [0.1, 0.2]
    (folder / "report.json").write_text(json.dumps(document), "utf-8")
    (folder / "SHA256SUMS").unlink()
    missing, forged = hv.verify(folder).faults
    assert "SHA256SUMS: is missing" in missing
    assert "sensitivity is reported as" in forged


def test_metrics_of_ones_own_are_named_as_unchecked(tmp_path):
    def errors(comparison):
        return float((comparison.calls != comparison.class_ids).sum())

    found = hv.verify(classified(tmp_path, ["accuracy", errors]).save(tmp_path / "r"))
    assert (found.figures, found.unchecked) == (1, ("errors",))


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"report\.json.*report\.save"):
        hv.verify(tmp_path)
    (tmp_path / "report.json").write_text('{"figures": {}}')
    with pytest.raises(FileNotFoundError, match="cases"):
        hv.verify(tmp_path)
    for text in ("{}", "[]", '{"format": "hccvision cases 1"}', '{"format": "hccvision cases 1", "predictions": 1}'):
        (tmp_path / "cases.json").write_text(text)
        with pytest.raises(ValueError, match=r"cases\.json: "):
            hv.verify(tmp_path)


def test_a_report_saved_twice_is_the_same(tmp_path):
    report = classified(tmp_path)
    one, two = report.save(tmp_path / "1"), report.save(tmp_path / "2")
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name


def test_curves_start_and_end_where_they_must():
    rng = np.random.default_rng(0)
    curve = threshold_curve(rng.random(40), rng.random(40) < 0.5)
    line = evaluation_curves.roc(curve).axes[0].lines[-1]
    assert (line.get_xdata()[[0, -1]].tolist(), line.get_ydata()[[0, -1]].tolist()) == ([0, 1], [0, 1])
    benefit = evaluation_curves.net_benefit(curve).axes[0].lines
    assert benefit[0].get_ydata()[0] == pytest.approx(benefit[2].get_ydata()[0], abs=0.05)
