"""The page that stands beside an autoencoder on the hub: what it is, how good, where from."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sae.autoencoders import AbstractAutoencoder

METRICS = {
    "l0": "L0, active latents of a row",
    "fvu": "FVU, fraction of variance unexplained",
    "explained_variance": "explained variance",
    "cosine": "cosine of row and reconstruction",
    "dead_fraction": "share of latents that never fired",
    "n_rows": "rows measured on",
}
WIDTH, HEIGHT, EDGE = 640, 260, 48
INDEX = "# Sparse autoencoders"
LIBRARY = "https://github.com/sparsecode/sparsecode"


def front_matter(base_model: str | None) -> str:
    """Return the header by which the hub files a model."""
    named = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(base_model))
    named = named and not Path(str(base_model)).exists()  # a folder here is no name on the hub
    base = [f"base_model: {base_model}"] if named else []
    tags = [f"- {tag}" for tag in ("sparse-autoencoder", "interpretability", "sparsecode")]
    return "\n".join(["---", "library_name: sparsecode", *base, "tags:", *tags, "---", ""])


def card(
    model: AbstractAutoencoder,
    repo: str,
    hookpoint: str | None,
    *,
    evaluation: Mapping[str, Any],
    run: Mapping[str, Any],
    curve: bool,
) -> str:
    """Return the page of one autoencoder, in Markdown.

    Parameters
    ----------
    model : AbstractAutoencoder
    repo : str
    hookpoint : str or None
        Its folder; None where the repository holds it alone.
    evaluation : mapping
        What `sae.evaluate` returned; if empty, what the model remembers is taken.
    run : mapping
        ``config.json`` of the training; empty without one.
    curve : bool
        Whether ``curves.svg`` lies beside the page.
    """
    config = {name: value for name, value in model.config().items() if value is not None}
    sections = [
        f"# Sparse autoencoder {f'of `{hookpoint}`' if hookpoint else ''}".rstrip(),
        (
            f"A `{type(model).__name__}` of [sparsecode]({LIBRARY}): {model.n_latents:,} latents "
            f"of {model.n_features:,} features."
        ),
        "## Use\n\n" + _use(repo, hookpoint),
        "## Quality\n\n" + _quality(evaluation or model.metadata.get("evaluation", {})),
    ]
    if curve:
        sections.append("## Training curve\n\n![FVU and L0 over the training](curves.svg)")
    sections.append("## Settings\n\n" + _table("setting", config))
    training = _scalars(run.get("train", {}), without=("out_dir", "loggers", "progress", "device"))
    if training:
        sections.append("## Training\n\n" + _table("setting", training))
    provenance = {
        **_scalars(model.metadata, without=("evaluation",)),
        **_scalars(run.get("data", {})),
    }
    if provenance:
        sections.append("## Provenance\n\n" + _table("fact", provenance))
    return "\n\n".join(sections) + "\n"


def is_ours(page: str) -> bool:
    """Return whether a page is one that `front_matter` begins."""
    return (
        page.startswith("---\n") and "\nlibrary_name: sparsecode\n" in page.partition("\n---\n")[0]
    )


def is_index(page: str) -> bool:
    """Return whether a page lists hookpoints as `index` does."""
    return is_ours(page) and f"\n{INDEX}\n" in page


def index(repo: str, folders: Sequence[str]) -> str:
    """Return the page of a repository with one folder a hookpoint."""
    listed = "\n".join(f"- [`{name}`]({name}/README.md)" for name in folders)
    return (
        f"{INDEX}\n\nOne folder a hookpoint, made with [sparsecode]({LIBRARY}):\n\n"
        f"{listed}\n\n```python\nimport sae\n\nmodel = sae.load({repo!r}, "
        f'hookpoint={folders[0]!r})\nmodels = sae.load_many({repo!r}, "*")\n```\n'
    )


def curves(records: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Return a drawing of FVU and L0 over the training; None where there are no two points.

    Parameters
    ----------
    records : sequence of mapping
        Lines of ``metrics.jsonl``; held-out ones are taken where there are some.
    """
    held_out = [record for record in records if record.get("split") == "heldout"]
    chosen = held_out if len(held_out) > 1 else list(records)
    lines = []
    for name, color in (("fvu", "#3366cc"), ("l0", "#cc6633")):
        points = [(r["step"], r[name]) for r in chosen if _is_number(r.get(name)) and "step" in r]
        if len(points) > 1:
            lines.append(_line(name, color, points, offset=len(lines)))
    if not lines:
        return None
    frame = f'<rect x="{EDGE}" y="12" width="{WIDTH - 2 * EDGE}" height="{HEIGHT - 52}" '
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    body = "".join(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{frame}fill="none" stroke="#999"/>'
        f"{body}</svg>\n"
    ).encode()


def _line(name: str, color: str, points: Sequence[tuple[float, float]], offset: int) -> str:
    """Return one curve on an axis of its own, with its ends written beside it."""
    steps, values = zip(*points, strict=True)
    low, high = min(values), max(values)
    x_span, y_span = (max(steps) - min(steps)) or 1, (high - low) or 1.0
    inner, depth = WIDTH - 2 * EDGE, HEIGHT - 52
    pairs = (
        f"{EDGE + inner * (step - min(steps)) / x_span:.1f},{12 + depth * (high - v) / y_span:.1f}"
        for step, v in points
    )
    x, anchor = (EDGE - 4, "end") if offset == 0 else (WIDTH - EDGE + 4, "start")
    ends = ((20, high), (12 + depth, low))
    labels = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{color}">{value:.3g}</text>'
        for y, value in ends
    )
    legend = f'<text x="{EDGE + 120 * offset}" y="{HEIGHT - 10}" fill="{color}">{name}</text>'
    stroke = f'fill="none" stroke="{color}" stroke-width="1.5"'
    return f'<polyline points="{" ".join(pairs)}" {stroke}/>{labels}{legend}'


def _use(repo: str, hookpoint: str | None) -> str:
    where = f"{repo!r}, hookpoint={hookpoint!r}" if hookpoint else repr(repo)
    return (
        f"```python\nimport sae\n\nmodel = sae.load({where})\ncodes = model.encode(rows)\n"
        "reconstruction = model(rows)\n```"
    )


def _quality(evaluation: Mapping[str, Any]) -> str:
    found = {text: evaluation[name] for name, text in METRICS.items() if name in evaluation}
    return _table("on held-out rows", found) if found else "It was not evaluated."


def _table(heading: str, facts: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_shown(value)} |" for name, value in facts.items()]
    return "\n".join([f"| {heading} | |", "| --- | --- |", *rows])


def _shown(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _scalars(facts: Mapping[str, Any], without: Sequence[str] = ()) -> dict[str, Any]:
    """Return what fits into a table, nested facts under joined names."""
    found: dict[str, Any] = {}
    for name, value in facts.items():
        if name in without:
            continue
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": inner for key, inner in _scalars(value).items()}
        elif value is not None and isinstance(value, (str, int, float)):
            found[name] = value
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and value == value  # noqa: PLR0124 - not NaN
