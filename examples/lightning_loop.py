"""Train a detector with Lightning: ``pip install pytorch-lightning``, ``python examples/lightning_loop.py liver/``."""

import argparse

import pytorch_lightning as pl
import torch

import hccvision as hv


class Detector(pl.LightningModule):
    def __init__(self, model: hv.Model) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch, index):
        images, targets = batch
        return self.model.loss(self.model(images), targets)["loss"]

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=5e-4)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", help="LabelImg annotations and their images")
parser.add_argument("--epochs", type=int, default=12)
args = parser.parse_args()
train, val = hv.split(hv.read_voc_folder(args.folder), (0.8, 0.2), group="duplicate")
model = hv.build_model("mobilenet_v1", "ssd", classes=sorted({name for s in train for name in s.names}))
trainer = pl.Trainer(max_epochs=args.epochs, accelerator="cpu", logger=False, enable_checkpointing=False)
trainer.fit(Detector(model), model.loader(train, batch=8, augmentation="light"))
print(hv.evaluate(model, val))
