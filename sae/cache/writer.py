"""Writing activations: texts in, shards out, the same bytes however often the writer was killed."""

import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sae.cache.format import (
    DTYPES,
    JOURNAL,
    MANIFEST,
    Manifest,
    hookpoint_folders,
    read_manifest,
    rows_per_block,
)
from sae.cache.forward import Forward
from sae.cache.hooks import Run, capture, match_hookpoints
from sae.cache.journal import Journal
from sae.cache.models import Loaded, load
from sae.cache.progress import Progress
from sae.cache.reader import Cache
from sae.cache.reader import open as open_cache
from sae.cache.session import Session
from sae.cache.settings import WriteSettings, differences
from sae.cache.statistics import RowStatistics
from sae.cache.texts import Documents, same_texts
from sae.cache.tokens import Contexts, next_pool

POOL_TOKENS = 65536  # tokens sorted by length together; bounds the writer's memory
SHARD_BYTES = 2**28  # usual size of an activations file
SHARDS_BYTES = 2**30  # the same for all hookpoints together: a shard is collected in memory


def write(
    model: str | Path | nn.Module,
    texts: Any,
    hookpoints: str | Sequence[str],
    out: str | Path,
    *,
    dtype: str | torch.dtype = "float16",
    tokenizer: Any = None,
    device: str | torch.device | None = None,
    context_length: int | None = None,
    batch_size: int = 32,
    text_column: str = "text",
    text_unit: str = "paragraph",
    max_tokens: int | None = None,
    drop_special_tokens: bool = True,
    drop_outliers: bool | float = False,
    shard_rows: int | None = None,
    append: bool = False,
    resume: bool = True,
    progress: bool | None = None,
) -> Cache:
    """Run a transformer over texts and write the activations at its hookpoints to a folder.

    All hookpoints are filled in one pass, and the model is run only up to the last of them. Each
    token that is kept becomes one row, in the order of the texts. A call that was interrupted, in
    whatever way, continues when it is made again, and the cache is then the same to the last bit as
    if nothing had happened; at most the shard under way is computed twice.

    Parameters
    ----------
    model : str, path or Module
        A name on the Hugging Face hub or a folder, loaded with ``AutoModel``; or a model object.
    texts : list of str, path, list of paths, data set, or token ids
        Files end in .txt, .jsonl, .txt.gz or .jsonl.gz. A data set is an iterable of dicts. Token
        ids are a list of lists of int, or a 2-D integer tensor; they are taken as they are.
    hookpoints : str or sequence of str
        Modules whose output is taken, by name or glob: ``"encoder.layer.3"``, ``"layers.*.mlp"``.
    out : path
        Folder of the cache.
    dtype : {"float16", "float32", "bfloat16"}, default="float16"
        Stored dtype.
    tokenizer : tokenizer, str, path or None, default=None
        None takes the model's own, where `model` is a name or a folder.
    device : device or None, default=None
        Where the model runs; a model object goes back to its own device afterwards. None leaves an
        object where it is and takes the GPU, if there is one, for a name.
    context_length : int or None, default=None
        Most tokens that the model sees together, special tokens included; longer documents are cut.
        None takes 256, or the model's longest if that is less.
    batch_size : int, default=32
        Full contexts in one forward pass; of shorter ones as many more as have the same tokens.
    text_column : str, default="text"
        Key of the text in data sets and JSONL files.
    text_unit : {"paragraph", "line", "file"}, default="paragraph"
        What is one document in a .txt file.
    max_tokens : int or None, default=None
        Stop after this many rows.
    drop_special_tokens : bool, default=True
        Leave out the rows of begin, end, separator and padding tokens; the model still sees them.
    drop_outliers : bool or float, default=False
        Leave out rows with a norm above this multiple of the median norm, at any hookpoint; True
        stands for 10. The median is that of the up to 65,536 tokens that are processed together.
    shard_rows : int or None, default=None
        Most rows of a shard, at least `context_length`. A shard ends with a whole context and is
        collected in memory, so it holds somewhat fewer rows. None makes files of up to about 128
        MiB, and of up to about 1 GiB for all hookpoints together.
    append : bool, default=False
        Add the texts to the finished cache in `out`. Model, tokenizer, hookpoints, dtype and choice
        of tokens must be the same as before. The same texts are not appended twice in a row.
    resume : bool, default=True
        Continue an interrupted call, and accept a finished one. False wants a folder without a
        cache.
    progress : bool or None, default=None
        Show a progress bar with tokens per second and the time left; None does so in a terminal.

    Returns
    -------
    Cache
        Opened at the first hookpoint in natural order.

    Raises
    ------
    ValueError
        If a hookpoint does not exist, the texts hold no token, activations are not finite, or `out`
        holds something else; one sentence says what to do.
    OSError
        If `out` cannot be written, for example because the disk is full.
    CorruptFileError
        If `out` holds a cache that is not what was written.

    Examples
    --------
    >>> import sae
    >>> cache = sae.cache.write(
    ...     "sentence-transformers/all-MiniLM-L6-v2", ["A text.", "Another."],
    ...     hookpoints=["encoder.layer.3"], out="acts/")  # doctest: +SKIP
    """
    settings = WriteSettings(
        dtype=str(dtype),
        context_length=context_length,
        batch_size=batch_size,
        text_column=text_column,
        text_unit=text_unit,
        max_tokens=max_tokens,
        drop_special_tokens=drop_special_tokens,
        drop_outliers=drop_outliers,
        shard_rows=shard_rows,
    )
    documents = Documents(texts, column=text_column, unit=text_unit)
    if not isinstance(out, (str, Path)) or not str(out):
        raise TypeError(f"`out` must be the path of a folder; got {out!r}.")
    root = Path(out)
    if not resume and not append and ((root / MANIFEST).exists() or (root / JOURNAL).exists()):
        raise ValueError(
            f"`out` must hold no cache with resume=False; `{root}` does. Delete it first."
        )
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(root))
        loaded, put_back = load(model, tokenizer, device)
        stack.callback(put_back)
        names = match_hookpoints(loaded.model, hookpoints)
        run = stack.enter_context(capture(loaded.model, names))
        empty = _empty_cache(loaded, settings, names, run)
        length = loaded.context_length(settings.context_length)
        call = {"append": append, "options": _options(settings, empty, length)}
        base = _base(root, journal, documents, empty, call)
        if base is not None:
            session = _session(root, journal, base, call, loaded)
            _fill(session, documents, loaded, settings, run, progress)
    return open_cache(root, hookpoint=names[0])


def _empty_cache(loaded: Loaded, settings: WriteSettings, names: list[str], run: Run) -> Manifest:
    """Return the manifest of a cache without rows; one token is run to learn the widths."""
    token = torch.zeros(1, 1, dtype=torch.int64)
    widths = {name: output.shape[2] for name, output in run(token, torch.ones_like(token)).items()}
    folders = hookpoint_folders(names)
    return Manifest(
        dtype=settings.dtype,
        block_rows=rows_per_block(max(widths.values()), settings.dtype),
        provenance={
            **loaded.provenance(),
            "context_length": loaded.context_length(settings.context_length),
            "drop_special_tokens": settings.drop_special_tokens,
            "drop_outliers": settings.drop_outliers,
        },
        vocabulary=None,
        hookpoints={
            name: {
                "folder": folders[name],
                "n_features": width,
                "statistics": RowStatistics(width).to_json(),
            }
            for name, width in widths.items()
        },
    )


def _options(settings: WriteSettings, empty: Manifest, length: int) -> dict[str, Any]:
    """Return what decides the bytes of a call and may differ from one call to the next."""
    if settings.shard_rows is not None and settings.shard_rows < length:
        raise ValueError(
            f"`shard_rows` must be at least the context length {length}, since a shard holds whole "
            f"contexts; got {settings.shard_rows}. Raise it, or set a shorter context_length."
        )
    row_bytes = [
        hookpoint["n_features"] * DTYPES[settings.dtype].torch.itemsize
        for hookpoint in empty.hookpoints.values()
    ]
    usual = max(length, min(SHARD_BYTES // max(row_bytes), SHARDS_BYTES // sum(row_bytes)))
    return {
        "batch_size": settings.batch_size,
        "text_column": settings.text_column,
        "text_unit": settings.text_unit,
        "max_tokens": settings.max_tokens,
        "shard_rows": settings.shard_rows or usual,
    }


def _base(
    root: Path, journal: Journal, documents: Documents, empty: Manifest, call: dict[str, Any]
) -> Manifest | None:
    """Return the cache that the call builds on, or None if the call was already finished."""
    finished = read_manifest(root) if (root / MANIFEST).exists() else None
    sessions = () if finished is None else finished.sessions
    under_way = journal.session()
    if under_way is not None and under_way["sessions"] < len(sessions):
        journal.clear()  # killed between the manifest and the end of the journal
        under_way = None
    base = empty if finished is None else finished
    _check_agreement(root, base, empty)
    if finished is None or (under_way is not None and call["append"]):
        return base
    last = {key: finished.sessions[-1][key] for key in call}
    repeated = last == call and same_texts(documents, finished.sessions[-1])
    if repeated and call["append"]:
        warnings.warn(
            f"nothing was added to `{root}`: its last call appended the same texts.", stacklevel=3
        )
    if not repeated and not call["append"]:
        changed = differences(last, call) or ["other texts"]
        raise ValueError(
            f"`out` must be empty or hold what the same call wrote; `{root}` holds a cache with "
            f"{changed[0]}. Choose another folder, or add to it with append=True."
        )
    return None if repeated else base


def _check_agreement(root: Path, base: Manifest, empty: Manifest) -> None:
    """Refuse a cache of another model, tokenizer, hookpoints, dtype or choice of tokens."""
    before, now = (
        {"hookpoints": list(cache.hookpoints), "dtype": cache.dtype, **cache.provenance}
        for cache in (base, empty)
    )
    if changed := differences(before, now):
        raise ValueError(
            f"`out` must hold activations of the same kind; `{root}` has {changed[0]}. "
            "Choose another folder."
        )


def _session(
    root: Path, journal: Journal, base: Manifest, call: dict[str, Any], loaded: Loaded
) -> Session:
    """Start the call, or take it up where it was interrupted."""
    wanted = {
        **call,
        "sessions": len(base.sessions),
        "dtype": base.dtype,
        "hookpoints": list(base.hookpoints),
        "provenance": dict(base.provenance),
    }
    found = journal.session()
    changed = [] if found is None else differences(found, wanted)
    if changed and any(True for _ in journal.entries(len(base.shards))):
        raise ValueError(
            f"`out` must be empty or hold what the same call wrote; `{root}` holds an unfinished "
            f"cache with {changed[0]}. Make the same call again to continue it, or delete the "
            "folder."
        )
    if found is None or changed:
        journal.begin(wanted)
    return Session(root, journal, base, call, loaded.pieces())


def _fill(
    session: Session,
    documents: Documents,
    loaded: Loaded,
    settings: WriteSettings,
    run: Run,
    progress: bool | None,
) -> None:
    """Run the model over what is left of the texts."""
    length = loaded.context_length(settings.context_length)
    contexts = Contexts(
        loaded.tokenizer,
        context_length=length,
        special_ids=loaded.special_ids if settings.drop_special_tokens else set(),
        pad_id=loaded.pad_id,
        n_tokens=loaded.n_tokens,
    )
    limit = settings.max_tokens if settings.max_tokens is not None else sys.maxsize
    pool_tokens = max(1, min(POOL_TOKENS, session.shard_rows - length))  # one context is added
    waiting = contexts.of(documents, session.place)
    with Progress(session.rows, settings.max_tokens, progress) as bar:
        forward = Forward(run, settings, length, bar)
        while pool := next_pool(waiting, pool_tokens, limit - session.rows):
            kept = sum(int(context.keep.sum()) for context in pool)
            bar.estimate(session.rows + kept, pool[-1].done)
            rows = forward(pool, session.next_row)
            session.add(rows[: limit - session.rows], pool[-1].after)
    session.finish(contexts.place if session.rows < limit else session.place)
