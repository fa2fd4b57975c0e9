import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from hccvision.metrics.classification import (
    FIGURES,
    CheckedFigures,
    binary_figures,
    check_report,
    confusion,
    confusion_matrix,
    exact_match,
    figures,
    multilabel_auc,
    multilabel_f1,
    roc_auc,
)
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.metric import find_metrics
from hccvision.registry import METRICS

TABLE_4 = {"tp": 173, "fn": 11, "fp": 3, "tn": 179}
CLASSES = ("normal", "cancer", "cyst", "vessel")


def compute(name, predictions, truths, *, classes, positive=None):
    """The figures of a registered metric."""
    comparison = Comparison(predictions, truths, classes=classes, positive=positive)
    return find_metrics([name])[0](comparison)


def one_hot(ids, k):
    return np.eye(k)[np.asarray(ids)]


def pairs(k):
    ids = st.integers(0, k - 1)
    return st.lists(st.tuples(ids, ids), min_size=1, max_size=40)


# the paper's own figures


def test_the_figures_of_table_4():
    found = binary_figures(**TABLE_4)
    percent = {name: round(100 * value, 3) for name, value in found.items()}
    assert percent | {"kappa": 0, "mcc": 0} == {
        "accuracy": 96.175,
        "sensitivity": 94.022,
        "specificity": 98.352,
        "precision": 98.295,
        "npv": 94.211,
        "f1": 96.111,
        "macro_f1": 96.174,
        "balanced_accuracy": 96.187,
        "kappa": 0,
        "mcc": 0,
    }
    assert (round(found["kappa"], 4), round(found["mcc"], 4)) == (0.9235, 0.9244)
    normal = binary_figures(tp=179, fn=3, fp=11, tn=173)
    assert round(100 * normal["f1"], 3) == 96.237


def test_of_table_5_only_f1_cannot_follow():
    claims = {"accuracy": 96, "sensitivity": 94, "specificity": 98, "precision": 98, "f1": 98}
    check = check_report(TABLE_4, claims)
    assert not check.consistent
    assert check.findings == [
        "f1 is claimed as 0.98, but the counts give 0.9611; with the claimed precision 0.98 and sensitivity 0.94 "
        "it lies between 0.9546 and 0.9646, even with the most favourable rounding"
    ]
    assert check.figures == binary_figures(**TABLE_4)
    assert check_report(TABLE_4, {**claims, "f1": 96}).findings == []


def test_averaging_over_both_classes_does_not_give_98_either():
    assert not check_report(TABLE_4, {"macro_f1": 98}).consistent


# check_report


def test_claims_as_shares_and_in_percent_are_the_same():
    assert check_report(TABLE_4, {"f1": 0.98}) == check_report(TABLE_4, {"f1": 98})
    assert check_report(TABLE_4, {"f1": np.float32(0.98)}) == check_report(TABLE_4, {"f1": 98.0})


@pytest.mark.parametrize(
    ("claim", "decimals", "consistent"),
    [
        (0.96, None, True),  # 96.111 %
        (0.961, None, True),
        (96.1, None, True),
        (96.11, None, True),
        (0.962, None, False),
        (0.962, 2, True),
        (0.9, None, False),
        (1, 0, True),
        (0, 0, False),
        (1, None, False),
    ],
)
def test_a_claim_is_held_to_the_decimals_it_shows(claim, decimals, consistent):
    assert check_report(TABLE_4, {"f1": claim}, decimals=decimals).consistent is consistent


@pytest.mark.parametrize("claim", [0.12, 0.13])
def test_a_tie_may_be_rounded_either_way(claim):
    assert check_report({"tp": 1, "fn": 7, "fp": 0, "tn": 1}, {"sensitivity": claim}).consistent


@given(st.tuples(*[st.integers(0, 200)] * 4).filter(any), st.integers(2, 5))
def test_truly_rounded_figures_always_pass(counts, decimals):
    named = dict(zip(("tp", "fn", "fp", "tn"), counts, strict=True))
    honest = {name: round(value, decimals) for name, value in binary_figures(**named).items() if value.defined}
    assert check_report(named, honest, decimals=decimals).findings == []


def test_a_figure_that_is_undefined_for_its_counts_cannot_be_claimed():
    check = check_report({"tp": 0, "fn": 2, "fp": 0, "tn": 7}, {"precision": 0, "sensitivity": 0})
    assert check.findings == ["precision is claimed as 0, but it is undefined here: no case was called positive"]
    assert isinstance(check, CheckedFigures)
    assert str(check).splitlines()[1].split() == ["precision", "0", "–", "no"]


@given(st.sampled_from(sorted(FIGURES)), st.sampled_from([-0.012, 0.012]))
def test_a_claim_a_percent_off_never_passes(name, off):
    claim = round(binary_figures(**TABLE_4)[name] + off, 2)
    assert not check_report(TABLE_4, {name: claim}).consistent


def test_the_check_prints_as_a_table():
    lines = str(check_report(TABLE_4, {"accuracy": 96, "f1": 98})).splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["figure", "claimed", "from", "counts", "can", "follow"],
        ["accuracy", "0.96", "0.9617", "yes"],
        ["f1", "0.98", "0.9611", "no"],
    ]
    assert lines[3] == "f1 is claimed as 0.98, but the counts give 0.9611"


@pytest.mark.parametrize("claim", [350, -0.4])
def test_an_impossible_claim_is_a_finding(claim):
    assert not check_report(TABLE_4, {"f1": claim, "precision": 0.98, "sensitivity": 0.94}).consistent


def test_bad_counts_and_claims_are_refused():
    with pytest.raises(ValueError, match="expected the counts tp, fn, fp and tn, got tp, fn"):
        check_report({"tp": 1, "fn": 2}, {})
    with pytest.raises(ValueError, match=r"can't check the claim 'recall'.*sensitivity"):
        check_report(TABLE_4, {"recall": 0.9})
    with pytest.raises(ValueError, match="expected f1 as a share or in percent, got nan"):
        check_report(TABLE_4, {"f1": math.nan})
    with pytest.raises(ValueError, match="whole counts"):
        check_report({"tp": -1, "fn": 2, "fp": 1, "tn": 1}, {})
    with pytest.raises(ValueError, match="whole counts"):
        binary_figures(0, 0, 0, 0)
    with pytest.raises(ValueError, match="whole counts"):
        binary_figures(1.5, 0, 0, 0)


# figures against scikit-learn


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=60)
@given(st.integers(2, 4).flatmap(lambda k: st.tuples(st.just(k), pairs(k), st.integers(0, k - 1))))
def test_every_figure_equals_scikit_learns(case):
    k, drawn, positive = case
    truths, calls = np.array(drawn).T
    found = confusion(one_hot(calls, k), truths, classes=CLASSES[:k], positive=positive)
    ill, called = truths == positive, calls == positive
    nan = math.nan
    expected = {
        "accuracy": sk.accuracy_score(truths, calls),
        "balanced_accuracy": sk.balanced_accuracy_score(truths, calls),
        "sensitivity": sk.recall_score(ill, called, zero_division=nan),
        "specificity": sk.recall_score(~ill, ~called, zero_division=nan),
        "precision": sk.precision_score(ill, called, zero_division=nan),
        "npv": sk.precision_score(~ill, ~called, zero_division=nan),
        "f1": sk.f1_score(ill, called, zero_division=nan),
        "macro_f1": sk.f1_score(truths, calls, average="macro", zero_division=0),
        "kappa": sk.cohen_kappa_score(truths, calls),
        "mcc": sk.matthews_corrcoef(truths, calls) if len(set(truths)) > 1 and len(set(calls)) > 1 else nan,
        "tp": (ill & called).sum(),
        "fn": (ill & ~called).sum(),
        "fp": (~ill & called).sum(),
        "tn": (~ill & ~called).sum(),
    }
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert all(type(value) is Figure and value.defined == (not value.reason) for value in found.values())
    for name in FIGURES:
        alone = compute(name, one_hot(calls, k), truths, classes=CLASSES[:k], positive=CLASSES[positive])
        assert list(alone) == [name]
        assert repr(alone[name]) == repr(found[name])


@settings(deadline=None)
@given(pairs(3))
def test_the_matrix_equals_scikit_learns(drawn):
    truths, calls = np.array(drawn).T
    expected = sk.confusion_matrix(truths, calls, labels=[0, 1, 2])
    found = confusion_matrix(one_hot(calls, 3), truths, classes=CLASSES[:3])
    assert found.dtype == np.int64
    assert (found == expected).all()


@settings(deadline=None)
@given(
    hnp.arrays(np.int64, st.integers(2, 50), elements=st.integers(0, 1)).filter(lambda t: 0 < t.sum() < len(t)),
    st.integers(1, 20),
    st.integers(0, 2**32 - 1),
)
def test_the_area_under_the_curve_equals_scikit_learns(truths, levels, seed):
    scores = np.random.default_rng(seed).integers(0, levels + 1, len(truths)) / levels  # few levels: many ties
    found = roc_auc(np.stack([1 - scores, scores], 1), truths, classes=("normal", "cancer"))
    assert found == {"roc_auc": pytest.approx(sk.roc_auc_score(truths, scores), abs=1e-12)}
    assert found["roc_auc"].count == len(truths)


def test_the_area_is_of_the_positive_class_against_all_others():
    generator = np.random.default_rng(0)
    probabilities, truths = generator.dirichlet(np.ones(3), 60), generator.integers(0, 3, 60)
    for positive in range(3):
        found = roc_auc(probabilities, truths, classes=CLASSES[:3], positive=positive)["roc_auc"]
        assert found == pytest.approx(sk.roc_auc_score(truths == positive, probabilities[:, positive]), abs=1e-12)


# what is undefined, and conventions


@pytest.mark.parametrize(("only", "words"), [(0, "no case is cancer"), (1, "all cases are cancer")])
def test_truths_of_one_class_leave_undefined_what_needs_both(only, words):
    predictions = [[0.9, 0.1], [0.2, 0.8]]
    found = confusion(predictions, [only, only], classes=("normal", "cancer"))
    lost = "sensitivity" if only == 0 else "specificity"
    assert {name for name, value in found.items() if math.isnan(value)} == {lost, "mcc"}
    assert found["balanced_accuracy"] == 0.5
    assert (found[lost].reason, found[lost].count) == (words, 0)
    assert found["kappa"] == 0.0  # as scikit-learn's: agreement is just that of chance
    assert found["mcc"].reason == "all cases are of one class, or were called one class"
    area = roc_auc(predictions, [only, only], classes=("normal", "cancer"))["roc_auc"]
    assert math.isnan(area)
    assert area.reason == words


def test_every_share_of_no_case_has_its_reason():
    found = confusion([[0.9, 0.1]], [0], classes=("normal", "cancer"))
    reasons = {name: value.reason for name, value in found.items() if math.isnan(value)}
    assert reasons == {
        "sensitivity": "no case is cancer",
        "precision": "no case was called cancer",
        "f1": "no case is cancer, and none was called cancer",
        "kappa": "all cases are of one class and were called that class",
        "mcc": "all cases are of one class, or were called one class",
    }
    other = confusion([[0.1, 0.9]], [1], classes=("normal", "cancer"))
    assert other["npv"].reason == "all cases were called cancer"
    assert binary_figures(0, 0, 0, 4)["sensitivity"].reason == "no case is positive"


def test_the_positive_class_is_the_last_unless_said():
    probabilities, truths = one_hot([0, 0, 1, 2], 3), [0, 1, 1, 2]
    assert confusion(probabilities, truths, classes=CLASSES[:3])["tp"] == 1
    assert confusion(probabilities, truths, classes=CLASSES[:3]) == confusion(
        probabilities, truths, classes=CLASSES[:3], positive=2
    )
    assert confusion(probabilities, truths, classes=CLASSES[:3], positive=0)["fp"] == 1
    assert confusion(probabilities, truths, classes=CLASSES[:3], positive="normal")["fp"] == 1


def test_a_tie_goes_to_the_lowest_id():
    assert confusion_matrix([[0.5, 0.5]], [1], classes=("a", "b")).tolist() == [[0, 0], [1, 0]]


def test_large_counts_do_not_overflow_and_perfection_is_exact():
    found = figures(np.diag([3 * 10**9, 10**9 + 1]))
    assert found["mcc"] == found["kappa"] == found["accuracy"] == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_tensors_and_arrays_give_the_same(dtype):
    probabilities, truths = torch.tensor([[0.75, 0.25], [0.25, 0.75]], dtype=dtype), torch.tensor([0, 1])
    for name in METRICS.names(task="classification"):
        found = repr(compute(name, probabilities.requires_grad_(), truths, classes=("a", "b")))
        assert found == repr(compute(name, [[0.75, 0.25], [0.25, 0.75]], [0, 1], classes=("a", "b")))
        assert found == repr(compute(name, list(probabilities), list(truths), classes=("a", "b")))


def test_the_promised_names_are_registered():
    promised = {
        "accuracy",
        "balanced_accuracy",
        "sensitivity",
        "specificity",
        "precision",
        "f1",
        "roc_auc",
        "confusion",
    }
    assert promised <= set(METRICS.names(task="classification"))
    assert all(METRICS.get(name).__doc__ for name in METRICS.names(task="classification"))


# several labels


@settings(deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda k: st.lists(st.tuples(*[st.tuples(st.booleans(), st.integers(0, 8))] * k), min_size=1)
    )
)
def test_multilabel_figures_are_scikit_learns_class_by_class(cases):
    table = np.array(cases)
    shown, probabilities = table[..., 0], table[..., 1] / 8
    classes = CLASSES[: shown.shape[1]]
    calls = (probabilities >= 0.5).astype(int)
    assert exact_match(probabilities, shown, classes=classes) == {
        "exact_match": pytest.approx(np.mean([sk.accuracy_score([0], [int(d)]) for d in (calls != shown).any(1)]))
    }
    areas, f1s = {}, {}
    for name, truth, call, score in zip(classes, shown.T, calls.T, probabilities.T, strict=True):
        if len(set(truth)) == 2:
            areas[name] = sk.roc_auc_score(truth, score)
        if truth.any() or call.any():
            f1s[name] = sk.f1_score(truth, call)
    for metric, by_class in ((multilabel_auc, areas), (multilabel_f1, f1s)):
        name = metric.__name__
        expected = {f"{name}/{c}": by_class.get(c, math.nan) for c in classes}
        expected[name] = np.mean(list(by_class.values())) if by_class else math.nan
        found = metric(probabilities, shown, classes=classes)
        assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert all(figure.defined == (not figure.reason) for figure in found.values())


def test_tensors_of_several_labels_are_taken_too():
    probabilities, shown = torch.tensor([[0.75, 0.25], [0.25, 0.75]]), torch.tensor([[1, 1], [0, 1]])
    for name in METRICS.names(task="multilabel"):
        found = compute(name, probabilities.requires_grad_(), shown, classes=("a", "b"))
        expected = compute(name, [[0.75, 0.25], [0.25, 0.75]], [[True, True], [False, True]], classes=("a", "b"))
        assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("name", METRICS.names(task="multilabel"))
@pytest.mark.parametrize(
    ("predictions", "truths", "message"),
    [
        ([], [], "no cases"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "no cases"),
        ([[0.9, 0.1]], [1], r"truths\[0\]: expected 2 values of 0 or 1, one per class, got the shape \(\)"),
        ([[0.9, 0.1]], [[1, 0], [0, 0]], "got 1 predictions and 2 truths"),
        ([[0.9]], [[1]], r"predictions\[0\]: expected 2 probabilities, one per class, got the shape \(1,\)"),
        ([[0.9, 0.1], [0.9]], [[1, 0]] * 2, r"predictions\[1\]: expected 2 probabilities"),
        ([[0.9, 0.1]], [[1, 2]], r"truths\[0\] is \[1, 2\]: expected 0 or 1 for each of \('hcc', 'cyst'\)"),
        ([[0.9, math.nan]], [[1, 0]], r"predictions\[0\] holds nan"),
        ([[0.9, 7.0]], [[1, 0]], r"predictions\[0\] holds 7.0.*sigmoid"),
    ],
)
def test_bad_input_of_several_labels_is_refused(name, predictions, truths, message):
    with pytest.raises(ValueError, match=message):
        compute(name, predictions, truths, classes=("hcc", "cyst"))
    with pytest.raises(ValueError, match="classes of different names"):
        compute(name, [[0.9, 0.1]], [[1, 0]], classes=("a", "a"))


# bad input

GOOD = [[0.9, 0.1], [0.2, 0.8]]


@pytest.mark.parametrize("name", ["confusion", "roc_auc", "f1"])
@pytest.mark.parametrize(
    ("predictions", "truths", "message"),
    [
        ([], [], "no cases"),
        (np.zeros((0, 2)), np.zeros(0, int), "no cases"),
        (GOOD, [0], "one prediction per truth, got 2 predictions and 1 truths"),
        ([0.9, 0.2], [0, 1], r"predictions\[0\]: expected 2 probabilities, one per class, got the shape \(\)"),
        ([[1.0], [1.0]], [0, 1], r"predictions\[0\]: expected 2 probabilities, one per class, got the shape \(1,\)"),
        (GOOD, [[0], [1]], r"truths of shape \(N,\), one class id per image, got \(2, 1\)"),
        ([[0.9, 0.1], [math.nan, 0.8]], [0, 1], r"predictions\[1\] holds nan"),
        ([[0.9, 0.1], [-2.5, 3.5]], [0, 1], r"predictions\[1\] holds -2.5.*softmax"),
        (GOOD, [0, 2], r"truths\[1\] is 2: expected a class id from 0 to 1"),
        (GOOD, [-1, 1], r"truths\[0\] is -1"),
        (GOOD, [0.5, 1], r"truths\[0\] is 0.5"),
        (GOOD, [0, math.nan], r"truths\[1\] is nan"),
    ],
)
def test_bad_input_is_refused(name, predictions, truths, message):
    with pytest.raises(ValueError, match=message):
        compute(name, predictions, truths, classes=("normal", "cancer"))


def test_bad_classes_are_refused():
    with pytest.raises(ValueError, match="at least two classes"):
        confusion_matrix([[1.0]], [0], classes=("cancer",))
    with pytest.raises(ValueError, match="classes of different names"):
        confusion_matrix(GOOD, [0, 1], classes=("a", "a"))
    for positive in (2, -1):
        with pytest.raises(ValueError, match="positive as a class name or an id from 0 to 1"):
            roc_auc(GOOD, [0, 1], classes=("normal", "cancer"), positive=positive)
        with pytest.raises(ValueError, match="positive class as an id from 0 to 1"):
            figures([[1, 0], [0, 1]], positive=positive)
    with pytest.raises(ValueError, match="positive as one of the classes normal, cancer, got 'cyst'"):
        roc_auc(GOOD, [0, 1], classes=("normal", "cancer"), positive="cyst")


@pytest.mark.parametrize("matrix", [[[1]], [[1, 2]], [1, 2]])
def test_a_matrix_must_be_square(matrix):
    with pytest.raises(ValueError, match=r"\(K, K\) matrix"):
        figures(matrix)
