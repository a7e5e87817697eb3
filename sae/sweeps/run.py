"""sweep: train all autoencoders of a grid on one stream of batches at a time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from sae.autoencoders import AUTOENCODERS
from sae.cache import as_source
from sae.report.pareto import need_packages, write_pareto
from sae.shapes import sizes_of
from sae.sweeps.grid import Grid, Member
from sae.sweeps.lane import Lane
from sae.trainer import Sides, Trainer
from sparsecode import io
from sparsecode._checks import check_int
from sparsecode.training import TrainConfig
from sparsecode.training.interrupt import StopRequest

FORMAT, FORMAT_VERSION = "sparsecode.sweep", 1
SUMMARY, PAGE = "sweep.json", "pareto.html"
SHOWN = ("fvu", "l0", "dead_fraction", "cosine")


@dataclass(frozen=True)
class SweepResult:
    """What `sweep` returns.

    Parameters
    ----------
    runs : list of dict
        One for each autoencoder: ``name``, ``architecture``, ``n_latents``, ``k``, ``seed``,
        ``lr``, ``hookpoint``, ``options``, the held-out ``fvu``, ``l0``, ``dead_fraction`` and
        ``cosine``, ``front`` (whether no other of its hookpoint is better in both FVU and L0) and
        ``failure`` (None, or why it was given up).
    out_dir : Path
        A folder for each run, as `sae.Trainer` writes it, ``sweep.json`` with `runs`, and
        ``pareto.html``.
    """

    runs: list[dict[str, Any]]
    out_dir: Path


def sweep(
    data: Any,
    grid: Grid,
    config: TrainConfig | None = None,
    *,
    out_dir: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    together: int | None = None,
    page: bool = True,
) -> SweepResult:
    """Train every autoencoder of a grid, those of one hookpoint in one pass over its activations.

    Each run ends bit for bit as it would alone: it has its own optimizer, schedules, random state
    and folder, and only the batches are shared. A run whose loss or weights are no longer finite is
    given up and said so; the others go on.

    Parameters
    ----------
    data : cache folder, cache, ``.npy`` file, array or tensor
    grid : Grid
    config : TrainConfig or None, default=None
        What all runs share. Its ``seed`` is that of the order of the rows unless ``data_seed`` is
        given; its ``lr`` stands where the grid has None; ``out_dir`` must be None.
    out_dir : path
        Folder of the sweep; each run has its own below.
    resume : bool, default=False
        Go on with what is there: finished runs stay, stopped ones continue exactly, those that
        are new start.
    overwrite : bool, default=False
        Remove runs of the same names first.
    together : int or None, default=None
        Runs that are in memory at a time; more take further passes. None takes all of a hookpoint.
    page : bool, default=True
        Whether to write ``pareto.html``, which needs plotly.

    Returns
    -------
    SweepResult

    Raises
    ------
    ValueError
        If a setting does not fit, before any run starts, or ``config.out_dir`` is given.
    FileExistsError
        If a run is there and neither `resume` nor `overwrite` is set.
    ImportError
        If `page` needs a package that is missing.
    KeyboardInterrupt
        After Ctrl-C; all runs under way are saved after the same step.

    Examples
    --------
    >>> import tempfile, torch
    >>> grid = Grid(n_latents=[32], k=[2, 4])
    >>> x = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     config = TrainConfig(batch_size=64, n_steps=20, progress=False)
    ...     found = sweep(x, grid, config, out_dir=folder, page=False)
    >>> [(run["name"], run["l0"]) for run in found.runs]
    [('topk-32-k2-seed0', 2.0), ('topk-32-k4-seed0', 4.0)]
    """
    config = TrainConfig() if config is None else config
    if not isinstance(grid, Grid):
        raise TypeError(f"`grid` must be a sae.Grid; got {type(grid).__name__}.")
    if config.out_dir is not None:
        raise ValueError(
            "`config.out_dir` must be None, since each run has a folder of its own in `out_dir`; "
            f"got {str(config.out_dir)!r}."
        )
    if together is not None:
        together = check_int("together", together, low=1)
    if page:
        need_packages()
    out, members = Path(out_dir), grid.members()
    opened = {name: _sides_at(data, name, config) for name in grid.hookpoints}
    for member in members:
        _model_of(member, opened[member.hookpoint])  # what does not fit is refused now
    results = _train_all(members, opened, config, out, resume, overwrite, together)
    runs = [_row(member, results[member.name]) for member in members]
    for run in runs:
        run["front"] = run in pareto_front([r for r in runs if r["hookpoint"] == run["hookpoint"]])
    found = {"format": FORMAT, "format_version": FORMAT_VERSION, "grid": asdict(grid), "runs": runs}
    io.write_json(out / SUMMARY, found)
    if page:
        write_pareto(runs, out / PAGE)
    return SweepResult(runs, out)


def pareto_front(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the runs that no other beats in both FVU and L0, by L0.

    Parameters
    ----------
    runs : sequence of dict
        With ``fvu`` and ``l0``; runs without are left out.

    Returns
    -------
    list of dict

    Examples
    --------
    >>> pareto_front([{"l0": 8, "fvu": 0.5}, {"l0": 9, "fvu": 0.6}, {"l0": 10, "fvu": 0.2}])
    [{'l0': 8, 'fvu': 0.5}, {'l0': 10, 'fvu': 0.2}]
    """
    known = [run for run in runs if run.get("fvu") is not None]
    front: list[Mapping[str, Any]] = []
    for run in sorted(known, key=lambda run: (run["l0"], run["fvu"])):
        if not front or run["fvu"] < front[-1]["fvu"]:
            front.append(run)
    return front


def _train_all(members, opened, config, out, resume, overwrite, together) -> dict[str, Any]:
    """Return the metrics of every member, or why it failed, by name."""
    from tqdm.auto import tqdm

    hidden = None if config.progress is None else not config.progress
    total = len(members) * config.n_steps
    results: dict[str, Any] = {}
    with StopRequest() as stop, tqdm(total=total, disable=hidden, unit="step", desc="sweep") as bar:
        for hookpoint, group in groupby(members, key=lambda member: member.hookpoint):
            listed = list(group)
            size = together or len(listed)
            for part in (listed[i : i + size] for i in range(0, len(listed), size)):
                bar.set_postfix_str(f"{len(results)} of {len(members)} runs done")
                trainers = {m.name: _trainer(m, opened[hookpoint], config, out) for m in part}
                results |= _train_part(trainers, resume, overwrite, bar, stop)
    return results


def _train_part(trainers, resume, overwrite, bar, stop) -> dict[str, Any]:
    """Train members on one stream; each takes the batch of its own next step."""
    with ExitStack() as stack:
        lanes = {
            name: stack.enter_context(closing(Lane(trainer, resume, overwrite)))
            for name, trainer in trainers.items()
        }
        bar.update(sum(lane.step for lane in lanes.values()))
        under_way = [lane for lane in lanes.values() if not lane.is_done]
        for step, batch in _stream(under_way, stack):
            for lane in under_way:
                if lane.step == step:  # others were saved later than this one when all was killed
                    lane.take(batch)
                    bar.update()
            under_way = [lane for lane in under_way if not lane.is_done]
            if not under_way:
                break
            if stop.requested:
                for lane in under_way:
                    lane.save()
                raise KeyboardInterrupt(
                    f"The sweep was stopped after step {step + 1}, and {len(under_way)} runs were "
                    "saved. Go on with sweep(resume=True)."
                )
        return {name: lane.finish() for name, lane in lanes.items()}


def _stream(lanes: Sequence[Lane], stack: ExitStack) -> Iterator[tuple[int, Any]]:
    """Yield the number and the batch of each step from the first that somebody needs."""
    if not lanes:
        return
    last = min(lanes, key=lambda lane: lane.step)
    first = last.step
    batches = stack.enter_context(closing(last.run.batches()))
    for number, batch in enumerate(batches):
        yield first + number, batch


def _sides_at(data: Any, hookpoint: str | None, config: TrainConfig) -> Sides:
    if hookpoint is not None:
        data = as_source(data, hookpoint=hookpoint)
    return Sides.of(data, config.heldout_fraction)


def _model_of(member: Member, sides: Sides) -> Any:
    kind = AUTOENCODERS[member.architecture]
    return kind(**{**sizes_of(kind, sides.rows), **member.settings})


def _trainer(member: Member, sides: Sides, config: TrainConfig, out: Path) -> Trainer:
    """Return the trainer that this member would have alone."""
    order = config.order_seed
    own = replace(
        config,
        seed=member.seed,
        data_seed=None if order == member.seed else order,
        lr=config.lr if member.lr is None else member.lr,
        out_dir=out / member.name,
        progress=False,  # there is one bar for all
    )
    return Trainer(_model_of(member, sides), sides, own)


def _row(member: Member, found: Mapping[str, Any] | str) -> dict[str, Any]:
    settings = dict(member.settings)
    k = settings.get("k", settings.get("target_l0"))
    failure = found if isinstance(found, str) else None
    metrics: Mapping[str, Any] = {} if isinstance(found, str) else found
    own = ("n_latents", "k", "target_l0", "seed")
    return {
        "name": member.name,
        "architecture": member.architecture,
        "n_latents": settings["n_latents"],
        "k": k,
        "seed": member.seed,
        "lr": member.lr,
        "hookpoint": member.hookpoint,
        "options": {name: value for name, value in settings.items() if name not in own},
        **{name: metrics.get(name) for name in SHOWN},
        "failure": failure,
    }
