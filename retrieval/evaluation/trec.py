"""Files of TREC: runs (query Q0 document rank score tag) and judgments (query 0 document grade)."""

import math
from collections.abc import Mapping
from pathlib import Path

from retrieval.evaluation.beir import add_once, lines_of
from retrieval.evaluation.ranking import Qrels, Run
from sparsecode import io


def write_run(path: str | Path, run: Run, tag: str = "sparsecode") -> None:
    """Write a run, best document first.

    Parameters
    ----------
    path : path
    run : mapping
        ``{query id: {document id: score}}``. Equal scores go by ascending id, which readers that
        sort by score alone keep; trec_eval takes such ties in descending order of ids.
    tag : str, default="sparsecode"
        Name of the run.
    """
    _check_words("tag", [tag])
    lines = []
    for query, scores in run.items():
        _check_words("run", [query, *scores])
        for one, score in scores.items():
            if not math.isfinite(score):
                raise ValueError(f"`run` must have finite scores; got {score} for {one!r}.")
        best = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
        lines += [
            f"{query} Q0 {one} {rank} {float(score)!r} {tag}"
            for rank, (one, score) in enumerate(best, start=1)
        ]
    io.write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def read_run(path: str | Path) -> dict[str, dict[str, float]]:
    """Return a run as ``{query id: {document id: score}}``.

    Parameters
    ----------
    path : path
        Also with .gz.

    Returns
    -------
    dict
    """
    run: dict[str, dict[str, float]] = {}
    for number, line in lines_of(Path(path)):
        try:
            query, _, one, _, text, _ = line.split()
            score = float(text)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise ValueError(
                f"`{path}` must have lines `query Q0 document rank score tag`, with finite scores; "
                f"got {line!r} in line {number}."
            )
        add_once(run.setdefault(query, {}), one, score, path, number)
    return run


def write_qrels(path: str | Path, qrels: Qrels) -> None:
    """Write judgments as trec_eval reads them.

    Parameters
    ----------
    path : path
    qrels : mapping
        ``{query id: {document id: grade}}``.
    """
    lines = []
    for query, grades in qrels.items():
        _check_words("qrels", [query, *grades])
        lines += [f"{query} 0 {one} {int(grade)}" for one, grade in grades.items()]
    io.write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Return judgments as ``{query id: {document id: grade}}``.

    Parameters
    ----------
    path : path
        Also with .gz.

    Returns
    -------
    dict
    """
    qrels: dict[str, dict[str, int]] = {}
    for number, line in lines_of(Path(path)):
        try:
            query, _, one, text = line.split()
            grade = int(text)
        except ValueError:
            raise ValueError(
                f"`{path}` must have lines `query 0 document grade`; got {line!r} in line {number}."
            ) from None
        add_once(qrels.setdefault(query, {}), one, grade, path, number)
    return qrels


def _check_words(name: str, words: list[str] | Mapping[str, object]) -> None:
    for word in words:
        if not word or len(word.split()) != 1 or word != word.strip():
            raise ValueError(
                f"`{name}` must have ids without white space, which separates the fields of a TREC "
                f"file; got {word!r}."
            )
