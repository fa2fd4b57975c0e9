"""Run the whole workflow on synthetic livers, as `make demo` does. Nothing is downloaded.

A phantom data set is generated and split by patient; a detector and a classifier are trained; both are evaluated on
held-out patients and applied to a real liver MR slice. The results are in demo_output/index.html.
"""

import argparse
import html
import shutil
import time
from dataclasses import replace
from pathlib import Path

import hccvision as hv

OUT = Path("demo_output")
SHOWN = 0.3  # lowest score of a box in pictures: scores are low after such a short training
MARK = "<!-- made by hccvision's quickstart -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="file of MobileNetV1 weights to transfer from")
    parser.add_argument(
        "--width", type=float, help="width multiplier of MobileNetV1 (default: 1 with weights, else 0.5)"
    )
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--epochs", type=int, help="of the detector (default: 10 with weights, else 20)")
    args = parser.parse_args()
    width = args.width or (1.0 if args.weights else 0.5)
    epochs = args.epochs or (10 if args.weights else 20)
    start = time.perf_counter()
    clear(OUT)

    print("1. generating synthetic liver MR …")
    root = hv.phantom.write_dataset(OUT / "liver", patients=args.patients, seed=0, cancer_share=0.7, level="mild")
    data = hv.read_voc_folder(root, patient=root / "patients.csv")
    train, val, test = hv.split(data, (0.7, 0.1, 0.2), group="patient", seed=0)
    print(hv.check(data))
    print(f"split by patient into {len(train)}, {len(val)} and {len(test)} slices: {hv.leakage(train, test)}")

    print("2. training the detector: MobileNetV1-SSD, at 224 pixels for speed …")
    options = {"width": width}
    recipe = replace(hv.recipes.quick(), epochs=epochs, batch=4, learning_rate=1e-3, monitor="val_voc_map")
    detector = hv.build_model(
        "mobilenet_v1", "ssd", classes=["hcc"], weights=args.weights, image_size=224, backbone_options=options,
        head_options={"default_boxes": "lesion"},
    )  # fmt: skip
    history = hv.fit(detector, train, val, recipe=recipe, run=OUT / "detector")
    hv.plots.save(hv.plots.training_curves(history.rows, best=history.best), OUT / "detector" / "curves.png")
    found = hv.evaluate(detector, test)
    print(found)
    found.save(OUT / "detector" / "report", score_threshold=SHOWN)

    print("3. training the classifier …")
    source = args.weights or OUT / "detector" / "best.safetensors"
    classifier = hv.build_model(
        "mobilenet_v1", "linear", classes=["normal", "cancer"], weights=source,
        backbone_options=options, head_options={"hidden": (), "pool": "max", "dropout": 0.2},
    )  # fmt: skip
    recipe = replace(hv.recipes.quick(), epochs=max(1, epochs // 2))
    parts = [with_classes(part) for part in (train, val, test)]
    history = hv.fit(classifier, parts[0], parts[1], recipe=recipe, run=OUT / "classifier")
    hv.plots.save(hv.plots.training_curves(history.rows, best=history.best), OUT / "classifier" / "curves.png")
    classified = hv.evaluate(classifier, parts[2])
    print(classified)
    classified.save(OUT / "classifier" / "report")

    print("4. applying both to a real liver MR slice …")
    notes = predict_real(hv.CAD(classifier, detector, score_threshold=SHOWN))

    write_index(found, classified, notes, args.weights)
    print(f"done in {(time.perf_counter() - start) / 60:.1f} min: open {OUT / 'index.html'}")


def clear(out: Path) -> None:
    """Delete the output of an earlier demo; refuse to delete anything else."""
    index = out / "index.html"
    ours = index.exists() and MARK in index.read_text(encoding="utf-8")
    unfinished = (out / ".unfinished").exists()
    if out.exists() and any(out.iterdir()) and not (ours or unfinished):
        raise SystemExit(f"{out}/ was not made by this demo: move it away first")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    (out / ".unfinished").touch()


def with_classes(samples: list[hv.Sample]) -> list[hv.Sample]:
    """Label slices by their annotations: cancer if there is a lesion."""
    return [
        replace(s, class_name="cancer" if s.annotation is not None and len(s.annotation) else "normal") for s in samples
    ]


def predict_real(cad: hv.CAD) -> str:
    """Apply the trained models to the liver slice that comes with pydicom; its overlay circles a lesion."""
    from pydicom import examples

    path = Path(str(examples.get_path("overlay")))
    image = hv.images.read_image(path)
    truth = hv.Annotation([[46, 139, 81, 174]], ["hcc"], size=image.shape[:2])
    answer = cad.predict(path)[0]
    found = hv.predict(cad.detector, path, score_threshold=0.05)[0].detections
    best = hv.Detections(found.boxes[:3], found.scores[:3], found.labels[:3])
    figure = hv.plots.detections([image], [best], [truth], classes=["hcc"], score_threshold=0.0, columns=1)
    hv.plots.save(figure, OUT / "real_slice.png")
    scores = ", ".join(f"{score:.2f}" for score in best.scores.tolist()) or "none"
    return (
        f"Probability of cancer: {answer.probabilities[1]:.2f}. The detector's three best boxes score {scores}; "
        f"the CAD shows boxes with a score of at least {cad.score_threshold} in slices classified as cancer: "
        f"{len(answer.detections)} here."
    )


def write_index(found: hv.Report, classified: hv.Report, notes: str, weights: str | None) -> None:
    """Write the page with all results."""
    if weights:
        origin = f"Both models started from the weights in {Path(weights).name}."
    else:
        origin = (
            "No pretrained weights were given, so the detector started from random ones, and the classifier "
            "transferred the backbone that had just been trained for detection. make demo WEIGHTS=path transfers "
            "from ImageNet."
        )
    sections = "".join(
        f'<h2>{title}</h2><pre>{html.escape(str(report))}</pre>\n<img src="{picture}">\n<img src="{curves}">\n'
        for title, report, picture, curves in (
            ("Detector: test patients", found, "detector/report/detections.png", "detector/curves.png"),
            (
                "Classifier: test patients",
                classified,
                "classifier/report/confusion_matrix.png",
                "classifier/curves.png",
            ),
        )
    )
    page = f"""<!doctype html>{MARK}
<html lang="en"><meta charset="utf-8"><title>hccvision demo</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em }}
img {{ max-width: 100%; margin: .5em 0 }}
pre {{ background: #f4f4f4; padding: 1em; overflow: auto }}
</style>
<h1>hccvision demo</h1>
<p>Trained on synthetic liver MR, split by patient. {html.escape(origin)}</p>
{sections}
<h2>A real liver MR slice</h2>
<p>The slice comes with pydicom; the green box is about where its overlay circles a lesion. Models trained on synthetic
slices only are not expected to interpret it well: this shows that the workflow runs. {html.escape(notes)}</p>
<img src="real_slice.png">
<p>Not a medical device.</p>
</html>
"""
    (OUT / "index.html").write_text(page, encoding="utf-8")
    (OUT / ".unfinished").unlink()


if __name__ == "__main__":
    main()
