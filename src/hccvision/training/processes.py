"""Distributed training on Accelerate: each process takes its share of a batch, and all make the same step."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import torch
from torch import nn

from hccvision.inference import choose_device

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # as Accelerate names them
T = TypeVar("T")


def accelerator(device: str = "auto", precision: str = "fp32") -> Any:
    """Build an ``Accelerator``, and join the other processes if ``torchrun`` or ``accelerate launch`` started several.

    Args:
        device: ``"auto"`` (CUDA if available), ``"cpu"``, ``"cuda"`` or, for a single process, ``"cuda:1"``.
        precision: a key of ``PRECISIONS``.

    Returns:
        An ``accelerate.Accelerator``.

    Raises:
        ValueError: if the device is unavailable, doesn't support that precision, or is of another type than the one on
            which the processes joined before.

    Example:
        >>> accelerator("cpu").num_processes
        1
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    wanted = choose_device(device)
    if precision == "fp16" and wanted.type == "cpu":
        raise ValueError('precision="fp16" needs CUDA, and this training runs on the CPU: use "bf16" or "fp32"')
    if PartialState._shared_state:  # an earlier fit may have used another device or precision
        AcceleratorState._reset_state(reset_partial_state=PartialState().num_processes == 1)
    if wanted.type == "cuda" and wanted.index is not None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(f'device={device!r} is one card, and each process needs its own: use "cuda"')
        torch.cuda.set_device(wanted)  # Accelerate uses the current one
    processes = Accelerator(cpu=wanted.type == "cpu", mixed_precision=PRECISIONS[precision])
    if processes.device.type != wanted.type:
        raise ValueError(
            f"device={device!r} is {wanted.type}, but these {processes.num_processes} processes joined on "
            f"{processes.device.type} before: use one device in a program that torchrun starts"
        )
    if processes.num_processes > 1:
        _leave_at_exit()
    return processes


@cache
def _leave_at_exit() -> None:
    """Destroy the process group before Python exits; otherwise its threads sometimes abort the process."""

    def leave() -> None:
        if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":  # NCCL would wait for all
            torch.distributed.destroy_process_group()

    atexit.register(leave)


def share(items: Sequence[T], processes: Any) -> list[T]:
    """Return this process's share of a batch.

    Args:
        items: of the whole batch.
        processes: returned by `accelerator`.

    Returns:
        Every ``n``-th item for ``n`` processes, starting at this process's index; the last processes may get one item
        less.
    """
    return list(items[processes.process_index :: processes.num_processes])


def gather(value: T, processes: Any) -> list[T]:
    """Collect a value from each process.

    Args:
        value: of this process, anything that can be pickled.
        processes: returned by `accelerator`.

    Returns:
        One value per process, in the order of the processes.
    """
    if processes.num_processes == 1:
        return [value]
    from accelerate.utils import gather_object

    return list(gather_object([value]))


def broadcast(value: T, processes: Any) -> T:
    """Send a value from the first process to all.

    Args:
        value: anything that can be pickled; ignored in all processes but the first.
        processes: returned by `accelerator`.

    Returns:
        The value of the first process.
    """
    if processes.num_processes == 1:
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def on_main(work: Callable[[], object], processes: Any) -> None:
    """Do something in the main process only, and wait for it; if it fails there, no process goes on without it.

    Args:
        work: what to do, without communication between the processes.
        processes: returned by `accelerator`.

    Raises:
        Exception: what ``work`` raised, in the main process.
        RuntimeError: in the others, if it failed.
    """
    failed: BaseException | None = None
    if processes.is_main_process:
        try:
            work()
        except BaseException as error:
            failed = error
    reason = broadcast(None if failed is None else f"{type(failed).__name__}: {failed}", processes)
    if failed is not None:
        raise failed
    if reason is not None:
        raise RuntimeError(f"the main process stopped the training: {reason}")


def add_up(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Add up numbers by name.

    Args:
        parts: numbers by name; a name may be missing from some of them.

    Returns:
        The sums by name.

    Example:
        >>> add_up([{"loss": 1.0}, {}, {"loss": 0.5}])
        {'loss': 1.5}
    """
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def sum_gradients(model: nn.Module, processes: Any) -> None:
    """Add up the gradients of all processes in one reduction, so that all make the same step.

    Args:
        model: with gradients, or without any in a process that had no image.
        processes: returned by `accelerator`.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if processes.num_processes == 1 or not parameters:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    summed = processes.reduce(torch.cat([g.flatten() for g in gradients]), "sum")
    for parameter, part in zip(parameters, summed.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = torch.empty_like(parameter).copy_(part.view(parameter.shape))


def average_batch_norms(model: nn.Module, images: int, processes: Any) -> None:
    """Average the running statistics of batch norms over all processes, weighted by the images of each.

    Args:
        model: only its batch norms in training mode are changed.
        images: number of images that this process had in the step.
        processes: returned by `accelerator`.
    """
    kinds = nn.modules.batchnorm._BatchNorm
    norms = [m for m in model.modules() if isinstance(m, kinds) and m.training and m.running_mean is not None]
    if processes.num_processes == 1 or not norms:
        return
    buffers = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
    own = torch.cat([*(b.flatten() * images for b in buffers), buffers[0].new_tensor([images])])
    total = processes.reduce(own, "sum")
    for buffer, part in zip(buffers, (total[:-1] / total[-1]).split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(part.view(buffer.shape))
