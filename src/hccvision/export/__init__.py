"""Exporters: models as files for other runtimes. Importing this registers them."""

from hccvision.export import torch_program
from hccvision.export.exporter import export_model

__all__ = ["export_model", "torch_program"]
