"""Ranking metrics, computed by ir-measures (trec_eval underneath)."""

from collections.abc import Mapping, Sequence
from typing import Any

Run = Mapping[str, Mapping[str, float]]
Qrels = Mapping[str, Mapping[str, int]]
MEASURES = ("nDCG@10", "R@100", "RR@10")


def evaluate(
    run: Run,
    qrels: Qrels,
    measures: Sequence[str] = MEASURES,
    *,
    ignore_identical_ids: bool = False,
) -> dict[str, float]:
    """Return the mean of ranking metrics over all queries with judgments.

    Numbers are those of ir-measures, which asks trec_eval: nDCG has the grade itself as gain,
    documents without a judgment count as not relevant, and documents of equal score are taken in
    descending order of their ids (RR with a cutoff: ascending). A judged query without results
    counts as zero, and so does one without a relevant document; leave the latter out of `qrels` to
    have the mean over the others.

    Parameters
    ----------
    run : mapping
        ``{query id: {document id: score}}``, as `SearchResults.to_run` makes it.
    qrels : mapping
        ``{query id: {document id: grade}}``; above 0 is relevant. Queries of `run` that are not in
        it do not enter.
    measures : sequence of str, default=("nDCG@10", "R@100", "RR@10")
        Names of ir-measures: nDCG, RR, R, AP, P, Success and others, with a cutoff.
    ignore_identical_ids : bool, default=False
        Leave a result out whose id is that of the query, as BEIR does for ArguAna and Quora.

    Returns
    -------
    dict
        Measure -> mean.

    Examples
    --------
    >>> qrels = {"q1": {"a": 2, "b": 1}}
    >>> evaluate({"q1": {"a": 2.0, "c": 1.5, "b": 1.0}}, qrels, ["RR@10", "R@2"])
    {'RR@10': 1.0, 'R@2': 0.5}
    """
    per_query = evaluate_each(run, qrels, measures, ignore_identical_ids=ignore_identical_ids)
    return {
        name: sum(values[name] for values in per_query.values()) / len(per_query)
        for name in measures
    }


def evaluate_each(
    run: Run,
    qrels: Qrels,
    measures: Sequence[str] = MEASURES,
    *,
    ignore_identical_ids: bool = False,
) -> dict[str, dict[str, float]]:
    """Return ranking metrics of every judged query.

    Parameters
    ----------
    run, qrels : mapping
        As in `evaluate`.
    measures : sequence of str, default=("nDCG@10", "R@100", "RR@10")
    ignore_identical_ids : bool, default=False

    Returns
    -------
    dict
        Query id -> measure -> value.
    """
    try:
        import ir_measures
    except ModuleNotFoundError:
        raise ImportError(
            "`evaluate` needs ir-measures. Install it with pip install 'sparsecode[retrieval]'."
        ) from None
    if not measures:
        raise ValueError("`measures` must hold at least one name, such as 'nDCG@10'; got none.")
    _check_ids(run, "run")
    _check_ids(qrels, "qrels")
    parsed: dict[Any, list[str]] = {}  # several names may mean one measure
    for name in measures:
        try:
            parsed.setdefault(ir_measures.parse_measure(name), []).append(name)
        except (NameError, ValueError, SyntaxError):
            raise ValueError(
                f"`measures` must be names such as 'nDCG@10', 'RR@10', 'R@100' or 'AP@100'; "
                f"got {name!r}."
            ) from None
    judged = {
        query: {one: int(grade) for one, grade in grades.items()}
        for query, grades in qrels.items()
        if grades
    }
    if not any(grade > 0 for grades in judged.values() for grade in grades.values()):
        raise ValueError("`qrels` must have a query with a relevant document; got none.")
    results = {
        query: {
            one: float(score)
            for one, score in run.get(query, {}).items()
            if not (ignore_identical_ids and one == query)
        }
        for query in judged
    }
    values = {query: dict.fromkeys(measures, 0.0) for query in judged}
    for metric in ir_measures.iter_calc(list(parsed), judged, results):
        if metric.query_id in values:
            named = dict.fromkeys(parsed[metric.measure], float(metric.value))
            values[metric.query_id].update(named)
    return values


def _check_ids(found: Mapping[str, Mapping[str, object]], name: str) -> None:
    """Refuse ids that are not strings, which judgments in files have."""
    for query, documents in found.items():
        for one in (query, *documents):
            if not isinstance(one, str):
                raise TypeError(
                    f"`{name}` must have ids that are strings; got {one!r}. Use str() on both "
                    "sides, as SearchResults.to_run does."
                )
