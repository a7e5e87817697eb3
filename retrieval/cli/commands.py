"""The commands themselves."""

import json
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from retrieval import encoded, export, opensearch
from retrieval.cli.errors import sentences
from retrieval.cli.inputs import encoder_identity, read_encoder, read_inputs, read_qrels
from retrieval.evaluation import evaluate as evaluate_run
from retrieval.evaluation import search_cost, trec
from retrieval.evaluation.ranking import MEASURES
from retrieval.index import AbstractIndex, ExactIndex, Pruning, ShardedIndex, open_index
from retrieval.index.storage import MANIFEST
from retrieval.searcher import TwoSided
from sparsecode import io

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Progress = Annotated[
    bool | None,
    typer.Option(
        "--progress/--no-progress",
        help="Show a progress bar; left to itself, on a terminal only.",
        show_default=False,
    ),
]
Split = Annotated[str, typer.Option(help="Which judgments of a BEIR folder.")]
EncodedFolder = Annotated[
    Path, typer.Argument(metavar="ENCODED", help="Folder that retrieval encode wrote.")
]


class Values(StrEnum):
    """How an index holds values."""

    float32 = "float32"
    float16 = "float16"
    uint8 = "uint8"


class Form(StrEnum):
    """Files of other tools."""

    anserini = "anserini"
    seismic = "seismic"
    bigann = "bigann"
    npz = "npz"
    opensearch = "opensearch"


def encode(
    encoder: Annotated[
        str,
        typer.Argument(
            metavar="ENCODER", help="Folder of a saved encoder, or a Python object: module:object."
        ),
    ],
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="BEIR folder, or .jsonl, .npy or .parquet file."),
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the encoded rows.")],
    queries: Annotated[
        bool, typer.Option("--queries", help="Encode as queries, and take those of a BEIR folder.")
    ] = False,
    split: Split = "test",
    part_rows: Annotated[
        int, typer.Option(min=1, help="Rows that are encoded, and kept, at a time.")
    ] = 256,
    progress: Progress = None,
    debug: Debug = False,
) -> None:
    """Encode documents or queries into sparse rows on disk.

    A call that was interrupted goes on where it stopped when it is made again, if the encoder is
    still the same.
    """
    with sentences(debug):
        ids, inputs = read_inputs(data, queries=queries, split=split)
        model = read_encoder(encoder)
        first = _encode(model, queries, inputs[:1])
        with _bar(len(ids), progress, "encoding") as bar:
            done = encoded.write(
                lambda part: _encode(model, queries, part),
                inputs,
                ids,
                out,
                n_features=first.shape[1],
                settings="queries" if queries else "documents",
                encoder=encoder_identity(encoder, model),
                rows_per_part=part_rows,
                progress=bar.update,
            )
    typer.echo(f"{done.n_rows} rows of {done.n_features} dimensions in {out}")


def index(
    documents: EncodedFolder,
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the index.")],
    values: Annotated[Values, typer.Option(help="How values are held.")] = Values.float32,
    shards: Annotated[int, typer.Option(min=1, help="Parts of the index, searched together.")] = 1,
    prune_k: Annotated[
        int | None, typer.Option(min=1, help="Keep the largest k entries of a document.")
    ] = None,
    prune_mass: Annotated[
        float | None, typer.Option(help="Keep the largest entries up to this share of the sum.")
    ] = None,
    prune_ratio: Annotated[
        float | None, typer.Option(help="Keep entries of at least this share of the largest.")
    ] = None,
    prune_threshold: Annotated[
        float | None, typer.Option(help="Keep entries of at least this size.")
    ] = None,
    progress: Progress = None,
    debug: Debug = False,
) -> None:
    """Build an exact index of encoded documents.

    A call that was interrupted goes on where it stopped when it is made again; documents that are
    in the index already are left as they are.
    """
    with sentences(debug):
        rows = encoded.open_encoded(documents)
        rules = Pruning(k=prune_k, mass=prune_mass, ratio=prune_ratio, threshold=prune_threshold)
        given = {"values": values.value, "prune": None if rules == Pruning() else rules}
        built = _opened(out, rows.n_features, shards, given)
        with _bar(rows.n_rows, progress, "indexing") as bar:
            for ids, part in rows.parts():
                new = [row for row, one in enumerate(ids) if one not in built]
                built.add(part[new], ids=[ids[row] for row in new])
                bar.update(len(ids))
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    typer.echo(f"{len(built)} documents, {size / 1e6:.1f} MB in {out}")


def search(
    folder: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of an index.")],
    queries: EncodedFolder,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Run, in the form of TREC.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Results of a query.")] = 100,
    threads: Annotated[int, typer.Option(min=1, help="Threads that share the queries.")] = 1,
    first_terms: Annotated[
        int | None, typer.Option(min=1, help="Two-phase: entries that find candidates.")
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(min=1, help="Two-phase: documents that are scored in full.")
    ] = None,
    tag: Annotated[str, typer.Option(help="Name of the run.")] = "sparsecode",
    progress: Progress = None,
    debug: Debug = False,
) -> None:
    """Search an index for encoded queries and write a run."""
    with sentences(debug):
        opened = open_index(folder, **({"n_threads": threads} if threads > 1 else {}))
        two_phase = {"first_terms": first_terms, "n_candidates": candidates}
        options: dict[str, Any] = {key: n for key, n in two_phase.items() if n is not None}
        rows = encoded.open_encoded(queries)
        run: dict[str, dict[str, float]] = {}
        with _bar(rows.n_rows, progress, "searching") as bar:
            for ids, part in rows.parts():
                run |= opened.search(part, k, **options).to_run(ids)
                bar.update(len(ids))
        trec.write_run(out, run, tag)
    typer.echo(f"{len(run)} queries in {out}")


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run in the form of TREC.")],
    qrels: Annotated[
        Path, typer.Argument(metavar="QRELS", help="BEIR folder, .tsv file, or file of TREC.")
    ],
    *,
    measures: Annotated[
        str, typer.Option(help="Names of ir-measures, with commas between them.")
    ] = ",".join(MEASURES),
    split: Split = "test",
    ignore_identical_ids: Annotated[
        bool, typer.Option("--ignore-identical-ids", help="Leave out results named as the query.")
    ] = False,
    documents: Annotated[
        Path | None, typer.Option(metavar="ENCODED", help="With --queries: report the cost too.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(metavar="ENCODED", help="With --documents: report the cost too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Measure a run against judgments."""
    with sentences(debug):
        if (documents is None) != (queries is None):
            raise ValueError("`--documents` and `--queries` must be given together; got one.")
        names = [name.strip() for name in measures.split(",") if name.strip()]
        options = {"ignore_identical_ids": ignore_identical_ids}
        found = evaluate_run(trec.read_run(run), read_qrels(qrels, split), names, **options)
        if documents is not None and queries is not None:
            asked, held = (encoded.open_encoded(path).all()[1] for path in (queries, documents))
            found |= search_cost(asked, held)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    width = max(map(len, found))
    for name, value in found.items():
        typer.echo(f"{name.ljust(width)}  {value:.4f}")


def export_rows(
    rows: EncodedFolder,
    *,
    form: Annotated[Form, typer.Option("--format", help="Whose file.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write.")],
    scale: Annotated[float, typer.Option(help="Anserini: weights are integers of this.")] = 100.0,
    name: Annotated[str, typer.Option(help="OpenSearch: name of the index.")] = "sparsecode",
    debug: Debug = False,
) -> None:
    """Write encoded rows for other tools; bigann and npz also get FILE.ids, one id a line."""
    with sentences(debug):
        ids, matrix = encoded.open_encoded(rows).all()
        if form is Form.anserini:
            export.write_anserini(out, matrix, ids, scale=scale)
        elif form is Form.seismic:
            export.write_seismic(out, matrix, ids)
        elif form is Form.opensearch:
            lines = "".join(f"{line}\n" for line in opensearch.bulk_lines(matrix, ids, index=name))
            io.write_bytes(out, lines.encode())
        else:
            write = export.write_bigann if form is Form.bigann else export.write_npz
            write(out, matrix)
            listed = "".join(f"{one}\n" for one in ids)
            io.write_bytes(out.with_name(out.name + ".ids"), listed.encode())
    typer.echo(f"{len(ids)} rows in {out}")


def _encode(model: Any, queries: bool, inputs: Any) -> Any:
    if not isinstance(model, TwoSided):
        return model.transform(inputs)
    return model.encode_queries(inputs) if queries else model.encode_documents(inputs)


def _opened(out: Path, n_features: int, n_shards: int, given: dict[str, Any]) -> AbstractIndex:
    """Return a new index, or the one of an interrupted call."""
    if not (out / MANIFEST).exists():
        if n_shards > 1:
            return ShardedIndex.create(out, n_features, n_shards, **given)
        return ExactIndex(n_features, path=out, **given)
    opened = open_index(out)
    parts = opened.shards if isinstance(opened, ShardedIndex) else [opened]
    same = len(parts) == n_shards and all(
        isinstance(part, ExactIndex)
        and (part.n_features, part.values, part.prune) == (n_features, *given.values())
        for part in parts
    )
    if not same:
        raise ValueError(
            f"`--out` must be a new folder, or the index of the same job; the index in `{out}` has "
            f"other settings. Choose another folder."
        )
    return opened


def _bar(total: int, progress: bool | None, what: str) -> AbstractContextManager[Any]:
    return tqdm(
        total=total, desc=what, unit="row", disable=None if progress is None else not progress
    )
