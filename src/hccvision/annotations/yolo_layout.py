"""Which label file belongs to which image of a YOLO data set, in any layout of its folders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from hccvision.annotations.finding import Finder, place_of
from hccvision.annotations.names import stems
from hccvision.annotations.paths import file_within, read_text
from hccvision.annotations.tree import Tree
from hccvision.annotations.yolo_labels import has_labels
from hccvision.annotations.yolo_names import is_names_file
from hccvision.contracts.samples import Problem, Sample


def label_files(tree: Tree) -> list[Path]:
    """Return the label files: text files with lines of labels, and in ``labels/`` also others, such as empty ones.

    Args:
        tree: the files of the data set.

    Returns:
        The label files by path.
    """
    beside = {(p.parent, stem) for p in tree.images for stem in stems(p)}
    return [
        p
        for p in tree.with_suffix(".txt")
        if not is_names_file(p)
        and (
            (p.parent, p.stem) in beside or "labels" in map(str.lower, p.relative_to(tree.root).parts) or has_labels(p)
        )
    ]


def match_labels(
    tree: Tree, labels: Sequence[Path], *, whole: bool
) -> tuple[dict[Path, list[Path]], dict[Path, list[Path]], list[Sample]]:
    """Return the label files of each image, one that is ambiguous by image, and samples of those without an image.

    Args:
        tree: the files of the data set.
        labels: its label files.
        whole: whether label files without an image are problems.

    Returns:
        The label files of each image; the label files of each image that shares them with others of its name; a sample
        with a problem for each label file without an image.
    """
    find = Finder(tree.root, tree.images)
    of_image: dict[Path, list[Path]] = defaultdict(list)
    ambiguous: dict[Path, list[Path]] = defaultdict(list)
    lost = []
    for label in labels:
        images = find.by_stem(label)
        if len(images) == 1:
            of_image[images[0]].append(label)
        for image in images if len(images) > 1 else ():
            ambiguous[image].append(label)
        if not images and whole:
            message = f"its image {label.stem!r} is not in {tree.root}: put it there, or delete the labels"
            problem = Problem("missing_image", str(label), message, False)
            lost.append(Sample(label.with_suffix(""), problems=(problem,)))
    return of_image, ambiguous, lost


def images_in_list(root: Path, file: Path) -> tuple[list[Path], list[Sample]]:
    """Return the images of a list, and a sample for each line without one.

    Args:
        root: the folder of the data set.
        file: with one path per line, relative to it.

    Returns:
        The images, and the samples.
    """
    paths, lost = [], []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        path = file_within(root, line.strip())
        if path is not None and not path.is_file():  # Darknet's lists begin with its own folder, such as data/
            tails = (root.joinpath(*path.relative_to(root).parts[n:]) for n in range(1, len(path.parts)))
            path = next((tail for tail in tails if tail.is_file()), path)
        if path is None or not path.is_file():
            kind, message = "missing_image", f"names {line.strip()!r}, which is not in {root}: correct the list"
            if path is None:
                kind, message = "unsafe_path", f"names {line.strip()!r}, which is outside {root}: name a file in it"
            problem = Problem(kind, str(file), f"line {number} {message}", False)
            lost.append(Sample(root / f"line {number}", problems=(problem,)))
        else:
            paths.append(path)
    return paths, lost


def images_of_subset(tree: Tree, subset: str | None) -> list[Path]:
    """Return the images of a folder, of a subset those in folders of its name.

    Args:
        tree: the files of the data set.
        subset: the name; None: all images.

    Returns:
        The images.

    Raises:
        FileNotFoundError: if there is no such subset.
        ValueError: if there are neither images nor labels.
    """
    parts = () if subset is None else tuple(subset.split("/"))
    paths = [p for p in tree.images if place_of(p, tree.root)[: len(parts)] == parts]
    if subset is not None and not paths:
        raise FileNotFoundError(
            f"{tree.root}: there is neither a list {subset}.txt nor a folder {subset} of images: check the name"
        )
    if not paths and not tree.odd and not label_files(tree):
        raise ValueError(f"{tree.root}: no images and no labels found; expected the folders images/ and labels/")
    return paths
