"""Autoencoders onto the hub: one folder a hookpoint, each with the page that describes it."""

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae import card
from sae.autoencoders import AbstractAutoencoder
from sae.files import load, save
from sae.remote import holding
from sparsecode import hub, io

CURVES, README = "curves.svg", "README.md"

STALE = r"(weights-[0-9a-f]{16}\.safetensors|evaluation\.json|curves\.svg)"  # of what was there


@dataclass(frozen=True)
class Published:
    """What was committed, or would have been.

    Parameters
    ----------
    repo : str
    files : dict of str to bytes
        By path in the repository.
    deleted : list of str
        Files of an earlier version that the commit removed.
    url : str or None
        Address of the commit; None for a dry run.
    """

    repo: str
    files: dict[str, bytes]
    deleted: list[str]
    url: str | None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(len(data) for data in self.files.values())


def push(
    model: AbstractAutoencoder | str | Path,
    repo: str,
    *,
    hookpoint: str | None = None,
    revision: str | None = None,
    private: bool = False,
    dry_run: bool = False,
) -> Published:
    """Put an autoencoder into a repository on the hub, with a page that describes it.

    The page holds L0, FVU and the other metrics, the training curve, all settings and where the
    data come from, as far as the folder of the run has them. A ``README.md`` that is not ours stays
    as it is, and so does the page of an autoencoder that has the repository for itself when one
    with a hookpoint is added. Figures of an earlier one in the same folder go with its weights.

    Parameters
    ----------
    model : AbstractAutoencoder or path
        A model, or the folder of a training run or of `sae.save`.
    repo : str
        ``organization/name``; made when missing.
    hookpoint : str or None, default=None
        Folder in the repository; None takes the hookpoint that the model or its run names, and the
        whole repository where neither does.
    revision : str or None, default=None
        A branch; None is ``main``.
    private : bool, default=False
        Whether a repository that has to be made is private.
    dry_run : bool, default=False
        Prepare everything and commit nothing; needs no network.

    Returns
    -------
    Published

    Raises
    ------
    ValueError
        If `repo` is no name on the hub, or `hookpoint` cannot be a folder.
    ConnectionError, PermissionError, FileNotFoundError
        If the hub cannot be reached, refuses, or has no such branch.
    """
    hub.check_name("repo", repo)
    run = Path() if isinstance(model, AbstractAutoencoder) else Path(model)
    facts = {} if isinstance(model, AbstractAutoencoder) else _run_facts(run)
    model = model if isinstance(model, AbstractAutoencoder) else load(run)
    hookpoint = _folder(hookpoint or _hookpoint(model, facts.get("run", {})))
    files = _files(model, repo, hookpoint, facts)
    prefix = f"{hookpoint}/" if hookpoint else ""
    files = {f"{prefix}{name}": data for name, data in files.items()}
    there = [] if dry_run else _files_there(repo, revision)
    front = card.front_matter(model.metadata.get("base_model"))
    if hookpoint:
        folders = sorted({name for name in holding(there) if name} | {hookpoint})
        files[README] = (front + card.index(repo, folders)).encode()
    else:
        files[README] = front.encode() + files[README]
    if README in there and not _may_replace(repo, revision, alone=not hookpoint):
        del files[README]
    stale = re.compile(re.escape(prefix) + STALE)
    deleted = [name for name in there if stale.fullmatch(name) and name not in files]
    url = None
    if not dry_run:
        message = f"Add the autoencoder of {hookpoint}" if hookpoint else "Add the autoencoder"
        url = hub.upload(
            repo, files, message=message, delete=deleted, revision=revision, private=private
        )
    return Published(repo, files, deleted, url)


def _may_replace(repo: str, revision: str | None, *, alone: bool) -> bool:
    """Return whether the page of a repository is one of ours, and of the same kind."""
    folder = hub.download(repo, [README], revision=revision)
    page = (folder / README).read_text(encoding="utf-8", errors="replace")
    return card.is_index(page) or (alone and card.is_ours(page))


def _files(
    model: AbstractAutoencoder, repo: str, hookpoint: str, facts: dict[str, Any]
) -> dict[str, bytes]:
    """Return the files of one folder."""
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder)
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    drawing = card.curves(facts.get("metrics", []))
    if drawing is not None:
        files[CURVES] = drawing
    if "evaluation" in facts:
        files["evaluation.json"] = facts["raw_evaluation"]
    page = card.card(
        model,
        repo,
        hookpoint or None,
        evaluation=facts.get("evaluation", {}),
        run=facts.get("run", {}),
        curve=drawing is not None,
    )
    return {**files, README: page.encode()}


def _run_facts(run: Path) -> dict[str, Any]:
    """Return what the folder of a run says beside the model."""
    facts: dict[str, Any] = {}
    if (run / "config.json").is_file() and (run / "model").is_dir():
        facts["run"] = io.read_json(run / "config.json")
    if (run / "evaluation.json").is_file():
        facts["evaluation"] = io.read_json(run / "evaluation.json")
        facts["raw_evaluation"] = (run / "evaluation.json").read_bytes()
    if (run / "metrics.jsonl").is_file():
        lines = (run / "metrics.jsonl").read_text().splitlines()
        facts["metrics"] = [json.loads(line) for line in lines if line.strip()]
    return facts


def _hookpoint(model: AbstractAutoencoder, run: dict[str, Any]) -> str:
    named = model.metadata.get("hookpoint") or run.get("data", {}).get("hookpoint")
    return str(named or "")


def _folder(hookpoint: str) -> str:
    parts = hookpoint.split("/")
    if hookpoint and (not re.fullmatch(r"[\w.+=/-]+", hookpoint) or {"", ".", ".."} & set(parts)):
        raise ValueError(
            "`hookpoint` must be the name of a folder: letters, digits and ._+=- with / between "
            f"parts; got {hookpoint!r}."
        )
    return hookpoint


def _files_there(repo: str, revision: str | None) -> list[str]:
    """Return the files of the repository; none where it has yet to be made."""
    try:
        return hub.list_files(repo, revision=revision)
    except FileNotFoundError:
        if revision is not None:
            raise
        return []
