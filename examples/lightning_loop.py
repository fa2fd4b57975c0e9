"""Train a detector with Lightning: ``pip install pytorch-lightning``, ``python examples/lightning_loop.py liver/``."""

import argparse

import pytorch_lightning as pl
import torch

import hccvision as hv


class Detector(pl.LightningModule):
    def __init__(self, model: hv.Model, val: list[hv.Sample]) -> None:
        super().__init__()
        self.model, self.val = model, val

    def training_step(self, batch, index):
        images, targets = batch
        return self.model.loss(self.model(images), targets)["loss"]

    def on_train_epoch_end(self):
        report = hv.evaluate(self.model, self.val, metrics=["voc_map"], device=str(self.device))
        self.log("val_voc_map", report["voc_map"], prog_bar=True)  # in pixels of the original images
        self.model.train()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=5e-4)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", help="LabelImg annotations and their images")
parser.add_argument("--patient", help="regular expression that finds the patient in a file name")
parser.add_argument("--weights", help="file of MobileNetV1 weights, or 'imagenet'; default: random weights")
parser.add_argument("--epochs", type=int, default=12)
args = parser.parse_args()

data = hv.read_voc_folder(args.folder, patient=args.patient)
train, val = hv.split(data, (0.8, 0.2), group="patient" if args.patient else "duplicate")
model = hv.build_model("mobilenet_v1", "ssd", classes=sorted({n for s in data for n in s.names}), weights=args.weights)
trainer = pl.Trainer(max_epochs=args.epochs, devices=1, logger=False, enable_checkpointing=False)
trainer.fit(Detector(model, val), model.loader(train, batch=8, augmentation="light"))
print(hv.evaluate(model, val))
print("saved:", model.save("lightning_loop.safetensors"))
