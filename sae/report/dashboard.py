"""dashboard: a folder with a static site of all latents, to open from disk or serve."""

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sae.cache import as_source
from sae.cache.models import Loaded
from sae.cache.models import load as load_lm
from sae.files import load
from sae.interpret.encoded import EncodedRows
from sae.interpret.lens import logit_lens
from sae.interpret.pages import LatentPage, LatentPages
from sae.interpret.token_texts import spelling_of
from sae.report.neuronpedia import NeuronpediaWriter
from sae.report.page import TEMPLATES, vocabulary_of
from sae.report.summary import Run, evaluation_of, facts
from sparsecode import io
from sparsecode._checks import check_int

PER_SHARD = 128  # latents in a file of examples
SEARCHED = 4  # examples of a latent whose text is searched
FORMAT = "sparsecode.dashboard"
DIGITS = 4


def write_dashboard(
    run: str | Path,
    data: Any,
    out: str | Path,
    *,
    hookpoint: str | None = None,
    lm: Any = None,
    n_examples: int = 8,
    max_rows: int | None = 1_000_000,
    neuronpedia: bool = True,
    progress: bool | None = False,
) -> Path:
    """Write a folder with a page that lists all latents and opens each of them.

    The page needs no network and no server. It reads a small index at once and the examples of a
    latent when it is opened, from files of 128 latents each.

    Parameters
    ----------
    run : path
        Folder of the run, or of an autoencoder.
    data : cache folder, Cache, ``.npy`` file, array or tensor
        Where examples come from. Only a cache has text; of an array the row numbers are shown.
    out : path
        Folder; a dashboard that is there already is replaced.
    hookpoint : str or None, default=None
        Of a cache folder with several hookpoints.
    lm : Module, name, folder or None, default=None
        A causal language model, for the tokens that each latent promotes and suppresses. Its
        tokenizer gives their text, or the vocabulary of the cache does.
    n_examples : int, default=8
        Top examples of each latent.
    max_rows : int or None, default=1_000_000
        Look for examples in no more than the first rows; None looks at all.
    neuronpedia : bool, default=True
        Whether to write JSON for Neuronpedia's upload beside the page.
    progress : bool or None, default=False
        Whether to show progress bars; None shows them on a terminal.

    Returns
    -------
    Path
        The page, ``index.html`` in `out`.

    Raises
    ------
    FileNotFoundError
        If `run` holds no trained autoencoder.
    FileExistsError
        If `out` holds something else than a dashboard.
    ValueError
        If the width of the data is not that of the autoencoder, or `lm` has no output layer for it.
    """
    from tqdm.auto import tqdm

    n_examples = check_int("n_examples", n_examples, low=1)
    folder, root = Path(run), Path(out)
    _refuse_foreign(root)
    model = load(folder)
    source = as_source(data, hookpoint=hookpoint, n_features=model.row_width)
    vocabulary = vocabulary_of(source)
    lens, pieces = None, None
    if lm is not None:
        loaded, put_back = load_lm(lm, None, None, name_of_argument="lm", with_head=True)
        try:
            lens, pieces = logit_lens(loaded.model, model, n=8), _pieces(loaded, vocabulary)
        finally:
            put_back()
    hidden = None if progress is None else not progress
    bars = tqdm(total=model.n_latents, desc="dashboard", unit=" latents", disable=hidden)
    with bars as bar, _replacing(root) as beside:
        encoded = EncodedRows(model, source, max_rows=max_rows)
        pages = LatentPages(
            encoded, vocabulary, n_top=n_examples, lens=lens, lens_vocabulary=pieces
        )
        described = Run(model, source, {}, [], evaluation_of(folder, model, source))
        uploaded = NeuronpediaWriter(beside, source) if neuronpedia else None
        site = _Site(beside, described, pages, uploaded)
        for page in pages:
            site.add(page)
            bar.update()
        site.finish(vocabulary)
    return root / "index.html"


@contextmanager
def _replacing(root: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `root` when the block ends without an error."""
    root.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}.", suffix=".tmp"))
    try:
        yield beside
        beside.chmod(0o755)
        if root.exists():
            shutil.rmtree(root)
        beside.rename(root)
    finally:
        if beside.exists():
            shutil.rmtree(beside)


class _Site:
    """Writes the files of a dashboard as pages arrive, and the index at the end."""

    def __init__(
        self, root: Path, run: Run, pages: LatentPages, neuronpedia: NeuronpediaWriter | None
    ) -> None:
        self.root, self.run, self.pages, self.neuronpedia = root, run, pages, neuronpedia
        (root / "data").mkdir()
        io.write_json(root / "dashboard.json", {"format": FORMAT, "version": 1})
        self.shard: dict[str, Any] = {}
        self.texts: dict[str, int] = {}
        self.index: dict[str, list[Any]] = {
            name: [] for name in ("count", "max", "mean", "cosine", "peaks", "snippet")
        }
        self.search: list[str] = []
        self.n_shards = 0

    def add(self, page: LatentPage) -> None:
        """Add one latent, in order."""
        entries = self.index
        entries["count"].append(page.count)
        entries["max"].append(_short(page.maximum))
        entries["mean"].append(_short(page.mean))
        entries["cosine"].append(_short(page.neighbors[0][1] if page.neighbors else 0.0))
        entries["peaks"].append(" \u00b7 ".join(page.peaks))
        entries["snippet"].append(_snippet(page))
        texts = ["".join(example.tokens) for example in page.examples[:SEARCHED]]
        promoted = " ".join(token for token, _ in page.promoted)
        self.search.append("\u0000".join([*texts, promoted]).lower())
        self.shard[str(page.latent)] = self._packed(page)
        if self.neuronpedia is not None:
            self.neuronpedia.add(page)
        if len(self.shard) == PER_SHARD:
            self._write_shard()

    def finish(self, vocabulary: list[str] | None) -> None:
        """Write what is left, the index and the page."""
        if self.shard:
            self._write_shard()
        if self.neuronpedia is not None:
            self.neuronpedia.finish()
        found, heading, *rest = self.run.evaluation, *facts(self.run)
        about = {
            "heading": heading,
            "facts": rest,
            "n_rows": self.pages.found.n_rows,
            "evaluation": {
                key: found[key] if math.isfinite(found[key]) else None  # rows that are all equal
                for key in ("fvu", "l0", "dead_fraction", "n_rows")
            },
            "per_shard": PER_SHARD,
            "groups": self.pages.groups,
            "has_text": vocabulary is not None,
            "has_logits": self.pages.lens is not None,
            "spelling": spelling_of(vocabulary or []),
        }
        _write_script(self.root / "data" / "index.js", "index", {**about, **self.index})
        _write_script(self.root / "data" / "search.js", "search", self.search)
        css = (TEMPLATES / "report.css").read_text() + (TEMPLATES / "dashboard.css").read_text()
        io.write_bytes(self.root / "dashboard.css", css.encode())
        for name in ("dashboard.js", "index.html"):
            text = (TEMPLATES / name.replace("index", "dashboard")).read_bytes()
            io.write_bytes(self.root / name, text)

    def _packed(self, page: LatentPage) -> dict[str, Any]:
        """Return a latent as the page reads it; tokens are places in the shard's list of texts."""
        examples = [
            {
                "g": example.group,
                "v": _short(example.value),
                "r": example.row,
                "c": example.center,
                "t": [self.texts.setdefault(token, len(self.texts)) for token in example.tokens],
                "a": {str(i): _short(a) for i, a in enumerate(example.values) if a > 0},
            }
            for example in page.examples
        ]
        return {
            "e": examples,
            "h": page.histogram,
            "n": [(latent, _short(value)) for latent, value in page.neighbors],
            "k": [(latent, _short(value)) for latent, value in page.coactive],
            "p": [(token, _short(value)) for token, value in page.promoted],
            "s": [(token, _short(value)) for token, value in page.suppressed],
        }

    def _write_shard(self) -> None:
        value = {"texts": list(self.texts), "latents": self.shard}
        path = self.root / "data" / f"latents-{self.n_shards:05d}.js"
        _write_script(path, f"shard-{self.n_shards}", value)
        self.shard, self.texts = {}, {}
        self.n_shards += 1


def _write_script(path: Path, name: str, value: Mapping[str, Any] | list[Any]) -> None:
    """Write JSON as a script: a page that is opened from a disk may load those and nothing else."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    io.write_bytes(path, f"dashboardData({json.dumps(name)},{text});\n".encode())


def _snippet(page: LatentPage) -> str:
    if not page.examples:
        return ""
    best = page.examples[0]
    if not best.tokens:
        return f"strongest in row {best.row:,}"
    return "".join(best.tokens[max(0, best.center - 5) : best.center + 6]).strip()


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _pieces(loaded: Loaded, vocabulary: list[str] | None) -> list[str] | None:
    """Return the pieces of the language model's tokenizer, or else those of the cache."""
    return loaded.pieces() or vocabulary


def _refuse_foreign(root: Path) -> None:
    """Refuse to replace a folder that is no dashboard."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return
    marker = root / "dashboard.json"
    if not marker.is_file() or io.read_json(marker).get("format") != FORMAT:
        raise FileExistsError(
            f"`out` must be empty or hold a dashboard; `{root}` holds something else. "
            "Choose another folder."
        )
