"""Train a detector in your own training loop, in plain PyTorch: ``python examples/own_loop.py liver/``."""

import argparse

import torch

import hccvision as hv

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", help="LabelImg annotations and their images")
parser.add_argument("--patient", help="regular expression that finds the patient in a file name")
parser.add_argument("--weights", help="file of MobileNetV1 weights, or 'imagenet'; default: random weights")
parser.add_argument("--epochs", type=int, default=12)
args = parser.parse_args()

data = hv.read_voc_folder(args.folder, patient=args.patient)
train, val = hv.split(data, (0.8, 0.2), group="patient" if args.patient else "duplicate")
classes = sorted({name for sample in data for name in sample.names})
model = hv.build_model("mobilenet_v1", "ssd", classes=classes, weights=args.weights)
model.to(hv.inference.choose_device())
optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4)
batches = model.loader(train, batch=8, augmentation="light")
for epoch in range(args.epochs):
    model.train()
    for images, targets in batches:
        loss = model.loss(model(images), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    report = hv.evaluate(model, val, metrics=["voc_map"])  # in pixels of the original images
    print(f"epoch {epoch + 1}: last loss {loss['loss']:.3f}, validation mAP {report['voc_map']}")
print("saved:", model.save("own_loop.safetensors"))
