"""Ranking metrics: hand computed, and on a real collection."""

import math

import pytest

from retrieval import evaluate
from retrieval.evaluation import evaluate_each

QRELS = {"q1": {"a": 3, "b": 1, "x": 0}, "q2": {"c": 1}, "q3": {"a": 0}}
RUN = {"q1": {"b": 9.0, "z": 8.0, "a": 7.0}, "unjudged": {"a": 1.0}, "q3": {"a": 1.0}}


def test_graded_ndcg_has_the_grade_as_gain_and_a_missing_query_is_zero():
    dcg = 1 / math.log2(2) + 3 / math.log2(4)
    ideal = 3 / math.log2(2) + 1 / math.log2(3)
    each = evaluate_each(RUN, QRELS, ["nDCG@10", "RR@10", "R@1", "AP@100"])
    assert set(each) == {"q1", "q2", "q3"}
    assert each["q1"]["nDCG@10"] == pytest.approx(dcg / ideal)
    assert each["q1"]["RR@10"] == 1
    assert each["q1"]["R@1"] == 0.5
    assert each["q1"]["AP@100"] == pytest.approx((1 + 2 / 3) / 2)
    assert set(each["q2"].values()) == set(each["q3"].values()) == {0}
    assert evaluate(RUN, QRELS, ["nDCG@10"])["nDCG@10"] == pytest.approx(dcg / ideal / 3)


def test_means_are_those_of_ir_measures():
    ir_measures = pytest.importorskip("ir_measures", reason="ir-measures is not installed")
    names = ["nDCG@10", "RR@10", "R@1", "AP@100", "P@1"]
    measures = [ir_measures.parse_measure(name) for name in names]
    for run in (RUN, {}):
        want = ir_measures.calc_aggregate(measures, QRELS, run)
        found = evaluate(run, QRELS, names)
        assert [found[name] for name in names] == pytest.approx([want[one] for one in measures])


def test_all_names_of_a_measure_get_its_value():
    for names in (["RR@10", "MRR@10"], ["nDCG@10", "NDCG@10"], ["R@2", "Recall@2"], ["AP", "MAP"]):
        found = evaluate(RUN, QRELS, names)
        assert found[names[0]] == found[names[1]] > 0


def test_equal_scores_are_as_in_trec_eval():
    run = {"q": {"a": 1.0, "b": 1.0}}
    assert evaluate(run, {"q": {"b": 1}}, ["P@1"]) == {"P@1": 1.0}
    assert evaluate(run, {"q": {"a": 1}}, ["P@1"]) == {"P@1": 0.0}


def test_the_query_itself_can_be_left_out():
    run, qrels = {"a": {"a": 9.0, "b": 1.0}}, {"a": {"b": 1}}
    assert evaluate(run, qrels, ["RR@10"]) == {"RR@10": 0.5}
    assert evaluate(run, qrels, ["RR@10"], ignore_identical_ids=True) == {"RR@10": 1.0}


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"`measures` must be names such as .* got 'nonsense@3'"):
        evaluate(RUN, QRELS, ["nonsense@3"])
    with pytest.raises(ValueError, match=r"`qrels` must have a query with a relevant document"):
        evaluate(RUN, {"q": {"a": 0}})


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="`measures` must hold at least one name"):
        evaluate(RUN, QRELS, [])
    with pytest.raises(TypeError, match="`run` must have ids that are strings; got 1"):
        evaluate({"q1": {1: 2.0}}, QRELS)
    with pytest.raises(TypeError, match="`qrels` must have ids that are strings; got 7"):
        evaluate(RUN, {7: {"a": 1}})
