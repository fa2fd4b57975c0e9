"""Which part of an image an answer rests on: class activation maps, occlusion, and checks of both."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from hccvision import inference
from hccvision.contracts.outputs import Prediction
from hccvision.images.placement import Placement
from hccvision.metrics.figure import Figure
from hccvision.model.model import Model

_TINY = 1e-8


@dataclass(frozen=True, eq=False)
class Explanation:
    """A map of what an answer rests on.

    Args:
        heat: ``(H, W) float32`` in [0, 1], in pixels of the original image; all 0 where nothing speaks for the answer.
        label: class id that is explained.
        box: ``(4,)`` the detection that is explained, xyxy pixels of the original image; None for a whole image.
        method: how the map was computed.
    """

    heat: np.ndarray
    label: int
    box: np.ndarray | None
    method: str


def grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Weigh each channel by its mean gradient.

    Args:
        activation: ``(B, C, h, w)``, a feature map.
        gradient: of the evidence, of the same shape.

    Returns:
        ``(B, h, w)``, 0 or more.

    Source:
        Selvaraju et al., "Grad-CAM", ICCV 2017.
    """
    return (gradient.mean((2, 3), keepdim=True) * activation).sum(1).relu()


def grad_cam_plus_plus(activation: Tensor, gradient: Tensor) -> Tensor:
    """Weigh each channel by its positive gradients, so that several lesions show.

    Args:
        activation: as in `grad_cam`.
        gradient: as in `grad_cam`.

    Returns:
        ``(B, h, w)``, 0 or more.

    Source:
        Chattopadhay et al., "Grad-CAM++", WACV 2018.
    """
    squared = gradient**2
    share = squared / (2 * squared + activation.sum((2, 3), keepdim=True) * gradient**3 + _TINY)
    weights = (share * gradient.relu()).sum((2, 3), keepdim=True)
    return (weights * activation).sum(1).relu()


def layer_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Weigh each place of each channel by its own positive gradient, which keeps detections of one image apart.

    Args:
        activation: as in `grad_cam`.
        gradient: as in `grad_cam`.

    Returns:
        ``(B, h, w)``, 0 or more.

    Source:
        Jiang et al., "LayerCAM", IEEE Transactions on Image Processing 30 (2021).
    """
    return (gradient.relu() * activation).sum(1).relu()


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad_cam": grad_cam,
    "grad_cam++": grad_cam_plus_plus,
    "layer_cam": layer_cam,
}


def explain(
    model: Model,
    image: inference.Input,
    label: str | int | None = None,
    *,
    box: Any = None,
    method: str | None = None,
    layers: Sequence[str] = (),
    device: str = "auto",
) -> Explanation:
    """Map what speaks for a class in an image, or for one detection.

    Args:
        model: whose head states its ``evidence``, as those of the library do.
        image: one input, as `hv.predict` takes it.
        label: name or id of the class; None: the positive class.
        box: ``(4,)`` a detection, xyxy pixels of the original image; None: the whole image.
        method: a name in `METHODS`; None: ``"layer_cam"`` for a detection, where Grad-CAM's channel weights would mix
            all lesions of the image, else ``"grad_cam"``.
        layers: names in ``model.named_modules()`` whose outputs are used; several are combined. Empty: the feature maps
            that the head reads, for Grad-CAM the last of them that the answer depends on.
        device: as in `hv.predict`.

    Returns:
        The map.

    Raises:
        ValueError: for an image that can't be read, an unknown class, method or layer, or a box that is not four
            numbers.
        TypeError: if the head has no ``evidence``.

    Example:
        >>> from hccvision.model.build import build_model
        >>> small = {"width": 0.25}
        >>> model = build_model("mobilenet_v1", "linear", classes=["normal", "cancer"], backbone_options=small)
        >>> explain(model, np.zeros((300, 484), np.uint8), "cancer", device="cpu").heat.shape
        (300, 484)
    """
    number, place, loaded = _prepare(model, image, label, box, device)
    chosen = method or ("grad_cam" if box is None else "layer_cam")
    if chosen not in METHODS:
        raise ValueError(f"unknown method {chosen!r}; known: {', '.join(METHODS)}")
    with torch.inference_mode(False), torch.enable_grad(), _outputs(model, layers) as captured:
        maps = model.maps(_pixels(model, loaded.image[np.newaxis]).requires_grad_())
        evidence = model.head.evidence(model.head(maps), number, place)
        tensors = captured or list(maps)
        gradients = torch.autograd.grad(evidence.sum(), tensors, allow_unused=True)
    pairs = [
        (a.detach().float(), g.float())
        for a, g in zip(tensors, gradients, strict=True)
        if g is not None and a.dim() == 4
    ]
    if not layers and chosen != "layer_cam":
        pairs = [pair for pair in pairs if pair[1].any()][-1:] or pairs[-1:]
    if not pairs:
        raise ValueError(
            f"none of the layers {', '.join(layers)} is a feature map that leads to the answer: choose others"
        )
    heat = _fuse([METHODS[chosen](a, g)[0] for a, g in pairs], model.image_size)
    return Explanation(_to_original(heat, loaded.placement), number, None if box is None else np.asarray(box), chosen)


def occlude(
    model: Model,
    image: inference.Input,
    label: str | int | None = None,
    *,
    box: Any = None,
    patch: float = 0.1,
    batch: int = 8,
    device: str = "auto",
) -> Explanation:
    """Map by how much the evidence falls when a grey patch hides a part of the image.

    Slower than `explain`, but it needs no gradients: a check on what `explain` shows.

    Args:
        model: as in `explain`.
        image: as in `explain`.
        label: as in `explain`.
        box: as in `explain`.
        patch: side of the patch, as a share of the input's shorter side; it moves by half of that.
        batch: number of occluded images at a time.
        device: as in `explain`.

    Returns:
        The map: the mean fall at each pixel, where it falls.

    Raises:
        ValueError: as `explain`, or for a patch outside (0, 1].
        TypeError: if the head has no ``evidence``.
    """
    if not 0 < patch <= 1 or batch < 1:
        raise ValueError(f"expected a patch in (0, 1] and a batch of at least 1, got {patch} and {batch}")
    number, place, loaded = _prepare(model, image, label, box, device)
    height, width = model.image_size
    side = max(2, round(patch * min(height, width)))
    rows, columns = (range(0, max(1, n - side // 2), max(1, side // 2)) for n in (height, width))
    corners = [(y, x) for y in rows for x in columns]
    grey = loaded.image.reshape(-1, loaded.image.shape[-1]).mean(0).astype(np.uint8)
    falls = []
    with torch.inference_mode():
        whole = _evidence(model, loaded.image[np.newaxis], number, place)
        for start in range(0, len(corners), batch):
            hidden = np.repeat(loaded.image[np.newaxis], len(corners[start : start + batch]), 0)
            for pixels, (y, x) in zip(hidden, corners[start : start + batch], strict=True):
                pixels[y : y + side, x : x + side] = grey
            falls.append((whole - _evidence(model, hidden, number, place)).cpu())
    fall, covered = torch.zeros(height, width), torch.zeros(height, width)
    for (y, x), value in zip(corners, torch.cat(falls).tolist(), strict=True):
        fall[y : y + side, x : x + side] += value
        covered[y : y + side, x : x + side] += 1
    heat = _normalise((fall / covered.clamp(min=1)).relu())
    return Explanation(
        _to_original(heat, loaded.placement), number, None if box is None else np.asarray(box), "occlusion"
    )


def points_at(explanation: Explanation, boxes: Any) -> bool:
    """Return whether the hottest pixel lies in one of the true boxes (the pointing game).

    Args:
        explanation: of an image.
        boxes: ``(N, 4)`` xyxy pixels of the original image.

    Returns:
        Whether it does; False for a map without any heat.

    Example:
        >>> heat = np.zeros((8, 8), np.float32)
        >>> heat[2, 5] = 1
        >>> points_at(Explanation(heat, 0, None, "grad_cam"), [[4, 1, 7, 4]])
        True

    Source:
        Zhang et al., "Top-down neural attention by excitation backprop", IJCV 126 (2018).
    """
    if not explanation.heat.any():
        return False
    y, x = np.unravel_index(int(explanation.heat.argmax()), explanation.heat.shape)
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    return bool(((corners[:, :2] <= (x + 0.5, y + 0.5)) & (corners[:, 2:] >= (x + 0.5, y + 0.5))).all(1).any())


def share_inside(explanation: Explanation, boxes: Any) -> Figure:
    """Compute the share of the heat that lies in the true boxes.

    Args:
        explanation: of an image.
        boxes: ``(N, 4)`` xyxy pixels of the original image.

    Returns:
        The share in [0, 1]; nan for a map without any heat.

    Example:
        >>> heat = np.ones((4, 4), np.float32)
        >>> float(share_inside(Explanation(heat, 0, None, "grad_cam"), [[0, 0, 4, 2]]))
        0.5

    Source:
        Wang et al., "Score-CAM", CVPR workshops 2020 (the energy-based pointing game).
    """
    height, width = explanation.heat.shape
    inside = np.zeros((height, width), bool)
    for x1, y1, x2, y2 in np.rint(np.asarray(boxes, np.float64).reshape(-1, 4)).astype(int).clip(0).tolist():
        inside[y1:y2, x1:x2] = True
    heat = explanation.heat.astype(np.float64)
    return Figure.ratio(float(heat[inside].sum()), float(heat.sum()), reason="the map shows no heat")


def sanity_check(
    model: Model, image: inference.Input, label: str | int | None = None, *, seed: int = 0, **options: Any
) -> Figure:
    """Compare a map with that of the same model with random weights.

    A map that looks alike shows edges of the image, not what the model has learnt. A map of one detection stays near
    its box with any weights, so leave ``box`` out.

    Args:
        model: as in `explain`.
        image: as in `explain`.
        label: as in `explain`.
        seed: of the random weights.
        options: of `explain`.

    Returns:
        The rank correlation of the two maps, in [−1, 1]; near 0 is good, near 1 is not. nan if one has no heat.

    Source:
        Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018.
    """
    from scipy.stats import spearmanr

    other = copy.deepcopy(model)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for module in other.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()  # type: ignore[operator]
    heats = [explain(m, image, label, **options).heat.ravel() for m in (model, other)]
    if any(np.ptp(heat) == 0 for heat in heats):
        return Figure.undefined("a map shows no heat")
    return Figure(float(spearmanr(*heats).statistic), count=len(heats[0]))


def _prepare(
    model: Model, image: Any, label: str | int | None, box: Any, device: str
) -> tuple[int, Tensor | None, inference.Loaded]:
    """Return the class id, the box in pixels of the model's input, and the image."""
    if not hasattr(getattr(model, "head", None), "evidence"):
        raise TypeError(f"expected a Model whose head states its evidence, got {type(model).__name__}: see heads.Head")
    name = model.positive if label is None else label
    number = model.classes.index(name) if name in model.classes else name
    if isinstance(number, np.integer):
        number = int(number)
    if not isinstance(number, int) or not 0 <= number < len(model.classes):
        raise ValueError(f"expected a class among {', '.join(model.classes)}, or its id, got {label!r}")
    model.prepare(inference.choose_device(device))
    loaded = inference.load(model, image, 0)
    if isinstance(loaded, Prediction):
        raise ValueError(loaded.error)
    place = None
    if box is not None:
        corners = np.asarray(box, np.float64)
        if corners.shape != (4,) or not np.isfinite(corners).all():
            raise ValueError(f"expected a box of four numbers, x1, y1, x2, y2, got {box!r}")
        place = torch.from_numpy(loaded.placement.to_input(corners)).to(model.device)
    return number, place, loaded


def _pixels(model: Model, images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).to(model.device).permute(0, 3, 1, 2).float() / 255


def _evidence(model: Model, images: np.ndarray, label: int, place: Tensor | None) -> Tensor:
    found: Tensor = model.head.evidence(model(_pixels(model, images)), label, place)
    return found.float()


@contextmanager
def _outputs(model: nn.Module, layers: Sequence[str]) -> Iterator[list[Tensor]]:
    """Collect the outputs of layers during a forward pass."""
    modules = dict(model.named_modules())
    unknown = [name for name in layers if name not in modules]
    if unknown:
        raise ValueError(f"unknown layer {unknown[0]!r}: choose among model.named_modules(), such as 'backbone'")
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        found.extend(output if isinstance(output, (tuple, list)) else [output])

    with ExitStack() as stack:
        for name in layers:
            stack.callback(modules[name].register_forward_hook(keep).remove)
        yield found


def _fuse(heats: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Combine maps of different sizes: the highest at each pixel, weak values raised as LayerCAM does."""
    scaled = [_normalise(heat) for heat in heats]
    if len(scaled) > 1:
        scaled = [torch.tanh(2 * heat) for heat in scaled]
    large = [interpolate(heat[None, None], size, mode="bilinear", align_corners=False)[0, 0] for heat in scaled]
    return _normalise(torch.stack(large).amax(0))


def _normalise(heat: Tensor) -> Tensor:
    top = heat.amax()
    return heat / top if top > 0 else torch.zeros_like(heat)


def _to_original(heat: Tensor, placement: Placement) -> np.ndarray:
    """Return a map of the model's input in pixels of the original image."""
    height, width = placement.resized_size
    inner = heat[placement.pad_y : placement.pad_y + height, placement.pad_x : placement.pad_x + width]
    resized = interpolate(inner[None, None].cpu(), placement.original_size, mode="bilinear", align_corners=False)
    return resized[0, 0].clamp(0, 1).numpy().astype(np.float32)
