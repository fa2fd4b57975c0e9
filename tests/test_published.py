"""Published figures against their counts: no honest table is accused, and nearly every tampered one is found."""

import random
import runpy
from decimal import Decimal
from pathlib import Path

import pytest
from sklearn.metrics import precision_recall_fscore_support

import hccvision as hv
from hccvision.metrics.confusion import FIGURES, binary_figures
from hccvision.metrics.published import READINGS, check_report, possible_readings
from hccvision.metrics.published_logs import check_losses, check_test_size

ROOT = Path(__file__).parents[1]


def honest(generator, reading="positive"):
    """Random counts, and their figures as shares with two to four decimals."""
    counts = {name: generator.randrange(1, 400) for name in ("tp", "fn", "fp", "tn")}
    decimals = generator.randrange(2, 5)
    report = check_report(counts, {}, reading=reading)
    return counts, {n: round(float(report.figures[n]), decimals) for n in FIGURES}, decimals


@pytest.mark.parametrize("reading", READINGS)
def test_no_honest_table_is_accused(reading):
    generator = random.Random(0)
    for _ in range(1000):
        counts, claims, decimals = honest(generator, reading)
        assert check_report(counts, claims, decimals=decimals, reading=reading).consistent


def test_tampered_tables_are_found():
    generator, found = random.Random(1), 0
    for _ in range(1000):
        counts, claims, decimals = honest(generator)
        name = generator.choice(["accuracy", "sensitivity", "specificity", "precision", "f1"])
        tampered = {name: round(min(1.0, claims[name] + generator.uniform(0.01, 0.05)), decimals)}
        if tampered[name] == claims[name]:
            found += 1  # was 1 already: nothing was changed
            continue
        found += not check_report(counts, tampered, decimals=decimals).consistent
    assert found >= 950


@pytest.mark.parametrize("seed", range(5))
def test_readings_are_those_of_scikit_learn(seed):
    generator = random.Random(seed)
    counts = {name: generator.randrange(1, 90) for name in ("tp", "fn", "fp", "tn")}
    truths = [1] * counts["tp"] + [1] * counts["fn"] + [0] * counts["fp"] + [0] * counts["tn"]
    calls = [1] * counts["tp"] + [0] * counts["fn"] + [1] * counts["fp"] + [0] * counts["tn"]
    for reading in ("macro", "weighted"):
        precision, recall, f1, _ = precision_recall_fscore_support(truths, calls, average=reading)
        found = check_report(counts, {}, reading=reading).figures
        assert [found[n] for n in ("precision", "sensitivity", "f1")] == pytest.approx([precision, recall, f1])


def test_a_claim_may_be_the_mean_over_both_classes():
    counts = {"tp": 40, "fn": 10, "fp": 30, "tn": 120}
    macro = check_report(counts, {}, reading="macro").figures
    claims = {name: round(float(macro[name]), 3) for name in ("sensitivity", "precision", "f1")}
    assert possible_readings(counts, claims, decimals=3) == ["macro"]
    assert possible_readings({"tp": 5, "fn": 0, "fp": 0, "tn": 0}, {"f1": 100}) == ["positive", "weighted"]
    with pytest.raises(ValueError, match="'positive', 'macro', 'weighted'"):
        check_report(counts, claims, reading="micro")


def test_honest_loss_logs_add_up_and_others_do_not():
    generator = random.Random(0)
    for _ in range(300):
        parts = [generator.uniform(0, 4) for _ in range(3)]
        printed = [f"{part:.3f}" for part in parts]
        assert check_losses([f"{sum(parts):.2f}"], {str(i): [p] for i, p in enumerate(printed)}) == {}
        (fault,) = check_losses([f"{sum(parts) + 0.02:.2f}"], {str(i): [p] for i, p in enumerate(printed)}).values()
        assert str(sum(map(Decimal, printed))) in fault
    with pytest.raises(ValueError, match="as long as"):
        check_losses([1.0, 2.0], {"a": [1.0]})
    with pytest.raises(ValueError, match="'nan'"):
        check_losses(["nan"], {"a": [1.0]})


def test_a_test_set_larger_than_the_originals_holds_copies():
    assert check_test_size(66, 334, share=0.2) is None
    assert check_test_size(67, 334, share=0.2) is None
    assert "at most 67" in check_test_size(68, 334, share=0.2)
    assert check_test_size(334, 334) is None
    assert "334 images were annotated" in check_test_size(366, 334)
    with pytest.raises(ValueError, match="share"):
        check_test_size(1, 2, share=20)


def test_the_papers_numbers_as_the_page_states_them(capsys):
    runpy.run_path(str(ROOT / "examples" / "paper_numbers.py"), run_name="__main__")
    printed = capsys.readouterr().out
    page = (ROOT / "docs" / "paper.rst").read_text(encoding="utf-8")
    assert "13 of 14 rows don't add up" in printed
    assert "epoch 42" not in printed
    for line in printed.splitlines():
        if line.strip() and not line.startswith(("Table", "Test")):
            assert line.strip() in page, line
    assert f"{binary_figures(tp=173, fn=11, fp=3, tn=179)['f1']:.4f}" in page
    assert hv.check_report is check_report
