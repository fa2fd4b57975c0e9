"""Tasks: everything that differs between classification, multi-label classification and detection."""

from hccvision.tasks import classification, detection, multilabel
from hccvision.tasks.task import Task, build_task, task_of

__all__ = ["Task", "build_task", "classification", "detection", "multilabel", "task_of"]
