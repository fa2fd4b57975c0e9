"""Train a detector in a loop of your own, in plain torch: ``python examples/own_loop.py liver/ --weights file``."""

import argparse

import torch

import hccvision as hv

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", help="LabelImg annotations and their images")
parser.add_argument("--weights", help="ImageNet weights of MobileNetV1; default: random weights")
parser.add_argument("--epochs", type=int, default=12)
args = parser.parse_args()

data = hv.read_voc_folder(args.folder)
train, val = hv.split(data, (0.8, 0.2), group="duplicate")
classes = sorted({name for sample in data for name in sample.names})
model = hv.build_model("mobilenet_v1", "ssd", classes=classes, weights=args.weights, image_size=300)
batches = model.loader(train, batch=8, augmentation="light")
optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4)
for epoch in range(args.epochs):
    model.train()
    for images, targets in batches:
        loss = model.loss(model(images), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    report = hv.evaluate(model, val, metrics=["voc_map"])  # in pixels of the original images
    print(f"epoch {epoch + 1}: loss {loss['loss']:.3f}, voc_map {report['voc_map']}")
print("written:", model.save("own_loop.safetensors"))
