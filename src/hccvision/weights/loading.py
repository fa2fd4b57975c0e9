"""Loading of renamed tensors into a backbone and a head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from hccvision.finite import first_not_finite
from hccvision.weights.formats import HCCVISION_HEAD, WeightFormat
from hccvision.weights.input_channels import fit_first
from hccvision.weights.report import WeightReport


def load_into(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    fmt: WeightFormat,
    source: str,
    *,
    partly: bool = False,
    channel_rule: str = "sum",
    channel_order: str | None = None,
) -> WeightReport:
    """Load renamed tensors into a network.

    Args:
        module: the network. The first convolution of a backbone may have another number of input channels; it also
            absorbs the difference in mean and std.
        tensors: by the keys of the source.
        fmt: their format.
        source: name of the source, for messages.
        partly: leave out and report tensors of another shape, as for a head; it is not an error if nothing matches.
        channel_rule: ``"sum"`` or ``"mean"``, see `first_convolution`.
        channel_order: ``"rgb"`` or ``"bgr"``, if it differs from that of the format.

    Returns:
        Which tensors matched, were missing, left over and left out.

    Raises:
        ValueError: if nothing matches, a tensor of a matching name has another shape, or one isn't finite.
    """
    own = module.state_dict()
    found: dict[str, Tensor] = {}
    keys: dict[str, str] = {}
    left_over = []
    for key, tensor in tensors.items():
        name = fmt.rename(key)
        if name in own:
            found[name], keys[name] = tensor, key
        else:
            left_over.append(key)
    if not found and not partly:
        raise ValueError(
            f"{source}: these are the weights of another network: no tensor matched (it has "
            f"{', '.join(list(tensors)[:3])}, …; this one expects {', '.join(list(own)[:3])}, …)"
        )
    if not partly:
        fit_first(found, module, fmt, channel_rule, channel_order)
    wrong = [k for k, v in found.items() if v.shape != own[k].shape]
    shapes = [f"{k}: {tuple(found[k].shape)} in the file, {tuple(own[k].shape)} here" for k in wrong]
    if wrong and not partly:
        raise ValueError(
            f"{source}: these are the weights of another network: {len(wrong)} of {len(found)} tensors have another "
            f"shape, first {shapes[0]}; build the backbone with the file's width"
        )
    learned = {k for k, _ in module.named_parameters()}  # other buffers, such as default boxes, are not weights
    missing = tuple(k for k in own if k not in found and (k in learned or k.endswith(("running_mean", "running_var"))))
    for key in wrong:
        del found[key]
    odd = first_not_finite((keys[k], v.to(own[k].dtype)) for k, v in found.items())  # as loaded: float64 may overflow
    if odd is not None:
        raise ValueError(f"{source}: the tensor {odd} holds infinite numbers or NaN: use another file")
    module.load_state_dict(found, strict=False)
    return WeightReport(source, fmt.name, tuple(found), missing, tuple(left_over), tuple(shapes))


def load_head(head: nn.Module, tensors: Mapping[str, Tensor], report: WeightReport) -> WeightReport:
    """Load the tensors that a checkpoint of a whole model has for the head, where the shapes agree.

    Args:
        head: may state ``formats``; otherwise only files of hccvision provide its weights.
        tensors: by the keys of the source.
        report: of the backbone; its left-over tensors are candidates for the head.

    Returns:
        The report of both, or that of the backbone if the source has nothing for the head.
    """
    formats = (*getattr(head, "formats", ()), HCCVISION_HEAD)
    fmt = next((f for f in formats if f.name == report.format), None)
    if fmt is None:
        return report
    rest = {k: tensors[k] for k in report.left_over}
    found = load_into(head, rest, fmt, report.source, partly=True)
    if not found.matched and not found.left_out:
        return report
    matched, missing, left_out = (
        tuple(f"head.{k}" for k in keys) for keys in (found.matched, found.missing, found.left_out)
    )
    return replace(
        report,
        matched=report.matched + matched,
        missing=report.missing + missing,
        left_over=found.left_over,
        left_out=left_out,
    )
