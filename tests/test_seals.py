"""A sealed test set: every look is written down, and nothing is trained on it."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import hccvision as hv
from hccvision.data.seals import fingerprint, note_opening, openings

SMALL = {"image_size": 64, "backbone_options": {"width": 0.25}}


@pytest.fixture
def sealed(tmp_path):
    data = hv.read_voc_folder(
        hv.phantom.write_dataset(tmp_path / "liver", patients=4, slices=1, seed=0), patient=r"^(P\d+)_"
    )
    path = hv.save_split(hv.split(data, (0.5, 0.5), seed=0), tmp_path / "split.json", seal="test")
    train, test = hv.load_split(path, data)
    return path, train, test, data


def detector(seed=0):
    return hv.build_model("mobilenet_v1", "ssd", classes=["hcc"], seed=seed, **SMALL)


def test_every_look_is_written_down_with_the_model(sealed, tmp_path):
    path, _, test, _ = sealed
    assert openings(path) == []
    first, second = detector(0), detector(1)
    report = hv.evaluate(first, test, device="cpu", resamples=0)
    assert str(report).splitlines()[-1] == "sealed test set, opened once"
    predictions = hv.predict(second, test, device="cpu", batch=1)
    hv.score(predictions, test, classes=["hcc"], task="detection", resamples=0)
    hv.compare({"a": first, "b": predictions}, test, device="cpu", resamples=0, permutations=5)
    looks = openings(path)
    assert [look["what"] for look in looks] == ["evaluate", "predict", "score", "compare"]
    assert [look["model"] for look in looks[:2]] == [fingerprint(first), fingerprint(second)]
    report = hv.evaluate(first, test, device="cpu", resamples=0)
    assert report.to_dict()["test_set_opened"] == 5
    page = (report.save(tmp_path / "report", pictures=0) / "index.html").read_text("utf-8")
    assert "<dt>test set opened</dt><dd>5 times</dd>" in page


def test_other_parts_and_other_splits_are_not_watched(sealed, tmp_path):
    path, train, _, data = sealed
    before = path.read_bytes()
    hv.evaluate(detector(), train, device="cpu", resamples=0)
    report = hv.evaluate(detector(), data, device="cpu", resamples=0)
    assert "sealed" not in str(report)
    assert "test_set_opened" not in report.to_dict()
    assert path.read_bytes() == before
    plain = hv.save_split([train, data[:1]] if data[0] not in train else [data[:1], data[1:]], tmp_path / "plain.json")
    with pytest.raises(ValueError, match="no part of this split is sealed"):
        openings(plain)


def test_nothing_is_trained_or_validated_on_it(sealed):
    _, train, test, _ = sealed
    for parts in ((test, None), (train, test)):
        with pytest.raises(ValueError, match=r"of the sealed part of .*split\.json"):
            hv.fit(detector(), *parts, recipe=hv.Recipe(epochs=1), device="cpu")


def test_a_seal_is_not_lost(sealed, tmp_path):
    path, train, test, _ = sealed
    with pytest.raises(FileExistsError, match="the looks at it would be lost"):
        hv.save_split([train, test], path)
    with pytest.raises(ValueError, match="train, test"):
        hv.save_split([train, test], tmp_path / "other.json", seal="tset")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        hv.evaluate(detector(), test, device="cpu", resamples=0)


def test_looks_of_many_threads_are_all_written(sealed):
    path, _, test, _ = sealed
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: note_opening(test, f"look {n}", None), range(24)))
    assert sorted(look["what"] for look in openings(path)) == sorted(f"look {n}" for n in range(24))
    assert json.loads(path.read_text("utf-8"))["parts"].keys() == {"train", "test"}


def test_the_fingerprint_tells_weights_apart():
    model = torch.nn.Linear(3, 2)
    same = torch.nn.Linear(3, 2)
    same.load_state_dict(model.state_dict())
    assert fingerprint(model) == fingerprint(same)
    assert fingerprint(model) != fingerprint(torch.nn.Linear(3, 2))
    assert fingerprint(hv.wrap(model, classes=["hcc"])) == fingerprint(model)
