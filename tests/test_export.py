"""Exporting: by name, by an object, and what the exported program answers."""

from __future__ import annotations

import json

import pytest
import torch

import hccvision as hv

SMALL = {"image_size": 64, "backbone_options": {"width": 0.1}}


@pytest.mark.parametrize("head", ["linear", "ssd"])
def test_a_torch_program_answers_as_the_model_does_for_any_batch(head, tmp_path):
    model = hv.build_model("mobilenet_v1", head, classes=["normal", "cancer"], **SMALL).train()
    path = hv.export_model(model, tmp_path / "new" / "model.pt2")
    assert model.training
    settings = {"hccvision.json": ""}
    program = torch.export.load(path, extra_files=settings).module()
    model.eval()
    for batch in (1, 3):
        images = torch.rand(batch, 3, 64, 64)
        expected, found = model(images), program(images)
        pairs = [(expected, found)] if head == "linear" else zip(expected, found, strict=True)
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert json.loads(settings["hccvision.json"])["classes"] == ["normal", "cancer"]


def test_an_exporter_is_one_definition(tmp_path):
    @hv.EXPORTERS.register("test_parameter_count")
    def count(model, path, *, unit="parameters"):
        path.write_text(f"{sum(p.numel() for p in model.parameters())} {unit}")
        return path

    try:
        model = hv.build_model("mobilenet_v1", "linear", classes=["a", "b"], **SMALL)
        size = sum(p.numel() for p in model.parameters())
        path = hv.export_model(model, tmp_path / "size.txt", format="test_parameter_count", unit="numbers")
        assert path.read_text() == f"{size} numbers"
        assert hv.export_model(model, tmp_path / "again.txt", format=count).read_text() == f"{size} parameters"
    finally:
        hv.EXPORTERS.remove("test_parameter_count")
    with pytest.raises(KeyError, match="unknown exporter 'onyx'; Known: torch"):
        hv.export_model(model, tmp_path / "a", format="onyx")


def test_a_failed_export_leaves_the_old_file(tmp_path, monkeypatch):
    model = hv.build_model("mobilenet_v1", "linear", classes=["a", "b"], **SMALL)
    path = hv.export_model(model, tmp_path / "model.pt2")
    before = path.read_bytes()

    def fail(*args, **options):
        raise OSError("disk full")

    monkeypatch.setattr(torch.export, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        hv.export_model(model, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
