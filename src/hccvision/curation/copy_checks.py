"""Checks of copies among the images: identical or nearly so, and annotated differently."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hccvision.contracts.samples import Sample
from hccvision.curation.box_checks import agree
from hccvision.curation.report import Finding


def check_copies(exact: Sequence[Sequence[Sample]], near: Sequence[Sequence[Sample]]) -> Iterator[Finding]:
    """Report copies, and copies whose annotations contradict one another.

    Args:
        exact: groups of at least two samples whose files are identical.
        near: groups of at least two samples that show the same picture.

    Yields:
        Findings of the kinds ``identical_images``, ``near_identical_images`` and ``contradicting_copies``.
    """
    for group in exact:
        message = f"{len(group)} files are the same file byte for byte: keep one of them"
        yield Finding("identical_images", "warning", _files(group), message)
    for group in near:
        message = f"{len(group)} files are the same picture, changed: keep one of them, or all in one part"
        yield Finding("near_identical_images", "warning", _files(group), message)
    for groups, level in ((exact, "error"), (near, "warning")):
        for group in groups:
            named = sorted({s.class_name for s in group if s.class_name is not None})
            if len(named) > 1:
                message = f"copies of one picture are in the classes {', '.join(map(repr, named))}: keep the right one"
            elif not all(agree(group[0], s) for s in group[1:]):
                message = "copies of one picture have different boxes: keep the one that is annotated correctly"
            else:
                continue
            yield Finding("contradicting_copies", level, _files(group), message)


def _files(group: Sequence[Sample]) -> tuple[str, ...]:
    return tuple(str(s.path) for s in group)
