import copy
import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hccvision.metrics.figure import Figure


def test_a_figure_is_a_float():
    figure = Figure(0.25, count=4)
    assert isinstance(figure, float)
    assert (figure, figure + 1, figure * 2, round(figure, 1), max(figure, 0.1)) == (0.25, 1.25, 0.5, 0.2, 0.25)
    assert type(figure + 1) is float
    assert type(figure.value) is float
    assert hash(figure) == hash(0.25)
    assert json.dumps({"f1": figure}) == '{"f1": 0.25}'


@given(st.floats(allow_nan=False))
def test_values_are_kept_as_they_are(value):
    assert Figure(value) == value
    assert Figure(value).value == value


def test_nan_needs_a_reason_and_a_number_has_none():
    with pytest.raises(ValueError, match="needs a reason"):
        Figure(math.nan)
    figure = Figure(math.nan, reason="no case is cancer", count=0)
    assert (figure.reason, figure.defined, figure.count) == ("no case is cancer", False, 0)
    assert (Figure(0.5, reason="no case is cancer").reason, Figure(0.5).defined) == ("", True)
    assert Figure.undefined("no lesion").reason == "no lesion"


def test_shares_know_their_counts():
    share = Figure.share(173, 184)
    assert (share, share.count, share.successes) == (173 / 184, 184, 173)
    none = Figure.share(0, 0, reason="no case is cancer")
    assert math.isnan(none)
    assert (none.reason, none.count) == ("no case is cancer", 0)
    assert Figure.share(0, 0).reason == "there are no cases to count"


@pytest.mark.parametrize(
    ("figure", "spec", "text"),
    [
        (Figure(0.96111), "", "0.9611"),
        (Figure(0.96111), ".1%", "96.1%"),
        (Figure(0.96111), ">8", "  0.9611"),
        (Figure(0.96111), "8", "  0.9611"),
        (Figure(0.96111), "+.2f", "+0.96"),
        (Figure(-0.5), "", "-0.5000"),
        (Figure.number(173), "", "173"),
        (Figure.number(173), ">5", "  173"),
        (Figure.number(173), ".1f", "173.0"),
        (Figure.undefined("none"), "", "–"),
        (Figure.undefined("none"), ".4f", "–"),
        (Figure.undefined("none"), ">8.4f", "       –"),
        (Figure.undefined("none"), "<4", "–   "),
        (Figure.undefined("none"), "_^5", "__–__"),
        (Figure.undefined("none"), "8.1%", "       –"),
    ],
)
def test_figures_print_for_a_report(figure, spec, text):
    assert format(figure, spec) == text
    if not spec:
        assert str(figure) == f"{figure}" == text


def test_the_representation_says_all_that_is_known():
    assert repr(Figure(0.5)) == "Figure(0.5)"
    assert repr(Figure.number(3)) == "Figure(3.0, is_count=True)"
    assert repr(Figure.share(0, 4)) == "Figure(0.0, count=4, successes=0)"
    assert repr(Figure.undefined("none")) == "Figure(nan, reason='none')"
    shown = Figure(0.5, count=8, interval=(0.25, 0.75), method="Wilson", successes=4)
    assert repr(shown) == "Figure(0.5, count=8, interval=(0.25, 0.75), method='Wilson', successes=4)"
    assert repr(eval(repr(shown))) == repr(shown)


@pytest.mark.parametrize(
    "figure",
    [Figure(0.5, count=8, interval=(0.25, 0.75), method="Wilson"), Figure.number(3), Figure.undefined("none", count=0)],
)
def test_figures_are_pickled_and_copied_whole(figure):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert repr(pickle.loads(pickle.dumps(figure, protocol))) == repr(figure)
    assert repr(copy.deepcopy({"figure": figure})["figure"]) == repr(figure)


def test_figures_are_replaced_and_not_changed():
    figure = Figure.share(1, 2)
    changed = figure.replace(interval=(0.1, 0.9), method="Wilson")
    assert (changed.interval, changed.method, changed.successes, changed) == ((0.1, 0.9), "Wilson", 1, 0.5)
    assert figure.interval is None
    with pytest.raises(AttributeError, match=r"immutable: use figure.replace\(count=…\)"):
        figure.count = 3
    with pytest.raises(TypeError, match="colour"):
        figure.replace(colour="red")
