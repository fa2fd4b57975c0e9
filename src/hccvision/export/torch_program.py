"""``torch.export``: a program of the whole network that runs without hccvision's code."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hccvision.files import write_atomically
from hccvision.model.file import plain
from hccvision.model.model import Model
from hccvision.registry import EXPORTERS


@EXPORTERS.register("torch")
def export_torch_program(model: Model, path: Path, *, batch: int = 2) -> Path:
    """Write the raw network, from images in [0, 1] to the raw output, as a ``torch.export`` program of any batch size.

    The model's settings (classes, image size, window, …) are in the file's extra file ``hccvision.json``.

    Args:
        model: to export; its mode and device are restored.
        path: of the ``.pt2`` file.
        batch: images of the example that is traced, at least 2.

    Returns:
        The path.
    """
    training = model.training
    example = torch.zeros(batch, model.in_channels, *model.image_size, device=model.device)
    try:
        program = torch.export.export(
            PlainOutput(model.eval()), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
    finally:
        model.train(training)
    extra = {"hccvision.json": json.dumps(model.settings(), default=plain)}
    content = _as_bytes(program, extra)
    return write_atomically(path, lambda partial: partial.write_bytes(content))


class PlainOutput(nn.Module):
    """A model whose output is a tensor or a plain tuple, so that loading its program doesn't need hccvision.

    Args:
        model: with any output.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        """Compute the raw output.

        Args:
            images: ``(B, C, H, W) float`` in [0, 1].

        Returns:
            The model's output; a plain tuple in place of a named one.
        """
        output = self.model(images)
        return tuple(output) if isinstance(output, tuple) else output


def _as_bytes(program: torch.export.ExportedProgram, extra: dict[str, str]) -> bytes:
    content = io.BytesIO()  # not a file: on a full disk torch would end the process
    torch.export.save(program, content, extra_files=extra)
    return content.getvalue()
