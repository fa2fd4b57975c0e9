"""Nothing in the whole pipeline asks for the address of another machine."""

import subprocess
import sys

SCRIPT = r"""
import socket, sys
asked = []

def spied(name):
    def spy(*args, **options):
        asked.append((name, args[:2]))
        raise OSError(f"{name} was called with {args[:2]}")
    return spy

for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "create_connection"):
    setattr(socket, name, spied(name))
socket.socket.connect = socket.socket.connect_ex = spied("connect")

from pathlib import Path
import torch
import hccvision as hv
from hccvision import phantom
from hccvision.curation.repair import repair
from hccvision.export.exporter import export_model

root = Path(sys.argv[1])
small = {"image_size": 64, "backbone_options": {"width": 0.1}}
folder = phantom.write_dataset(root / "liver", patients=4, slices=2, cancer_share=0.5, level="mild")
data = hv.read_folder(folder, patient=r"^(P\d+)_")
hv.check(data).save(root / "check")
hv.leakage(data[:4], data[4:])
parts = hv.split(data, (0.5, 0.5), group="patient", seed=0)
train, val = hv.load_split(hv.save_split(parts, root / "split.json", seed=0), data)
model = hv.build_model("mobilenet_v1", "ssd", classes=["hcc"], **small)
recipe = hv.Recipe(optimiser="sgd", learning_rate=1e-4, epochs=1, batch=4, augmentation="light")
for _ in range(2):
    hv.fit(model, train, val, recipe=recipe, run=root / "run", resume=True, device="cpu")
report = hv.evaluate(model, data, device="cpu")
report.save(root / "report")
hv.read_predictions(root / "report" / "predictions.csv", data, classes=["hcc"])
model = hv.load_model(model.save(root / "model.safetensors"))
hv.build_model("mobilenet_v1", "ssd", classes=["hcc"], weights=root / "model.safetensors", image_size=64)
hv.build_model(hv.BACKBONES.build("timm", model_name="resnet10t"), "linear", classes=["a", "b"])
new = root / "new"
new.mkdir()
for sample in data[:2]:
    (new / sample.path.name).write_bytes(sample.path.read_bytes())
hv.propose(model, new, device="cpu")
for format in ("voc", "yolo", "coco"):
    hv.read_folder(hv.write_folder(data, root / format, format=format))
hv.expand_dataset(data, root / "more", to=len(data) + 2)
repair(data, root / "repaired")
classifier = hv.build_model("mobilenet_v1", "linear", classes=["normal", "cancer"], **small)
hv.CAD(classifier, model).predict([s.path for s in data[:2]], device="cpu")
export_model(classifier.eval(), root / "model.pt2")
assert not asked, asked
print("nothing asked")
"""


def test_the_whole_pipeline_asks_for_no_address(tmp_path):
    run = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert run.stdout.endswith("nothing asked\n"), run.stderr[-3000:]
