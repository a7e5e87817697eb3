"""The Hugging Face hub: list, fetch and commit files, each failure in one sentence.

Files that were fetched once stay in the cache of huggingface-hub, and are found there without a
network.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


def check_name(name: str, repo: str) -> str:
    """Return the name of a repository if the hub can have one of that name.

    Parameters
    ----------
    name : str
        Of the argument, for the error.
    repo : str

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If it cannot.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise ValueError(
            f"`{name}` must be a name on the hub, organization/name; got {repo!r}."
        ) from None
    return repo


def list_files(repo: str, *, revision: str | None = None) -> list[str]:
    """Return the paths of all files of a model repository; without a network those kept here.

    Parameters
    ----------
    repo : str
        ``organization/name``.
    revision : str or None, default=None
        Branch, tag or commit; None is ``main``.

    Returns
    -------
    list of str

    Raises
    ------
    FileNotFoundError
        If there is no such repository or revision.
    ConnectionError
        If the hub cannot be reached and nothing of the repository is on this machine.
    """
    from huggingface_hub import HfApi

    try:
        with _sentences(repo, revision):
            return sorted(HfApi().list_repo_files(repo, revision=revision))
    except ConnectionError:
        folder = _kept(repo, revision)
        if folder is None:
            raise
        found = (path for path in folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(folder).as_posix() for path in found)


def download(repo: str, names: Sequence[str], *, revision: str | None = None) -> Path:
    """Fetch some files of a repository and return the folder under which they lie.

    Parameters
    ----------
    repo : str
    names : sequence of str
        Paths in the repository.
    revision : str or None, default=None

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        If there is no such repository, revision or file.
    ConnectionError
        If the hub cannot be reached and a file is not on this machine.
    """
    from huggingface_hub import hf_hub_download

    folder = None
    for name in names:
        with _sentences(repo, revision, name):
            path = Path(hf_hub_download(repo, name, revision=revision))
        folder = path.parents[name.count("/")]
    if folder is None:
        raise ValueError("`names` must hold a file to fetch; got none.")
    return folder


def upload(
    repo: str,
    files: Mapping[str, bytes],
    *,
    message: str,
    delete: Sequence[str] = (),
    revision: str | None = None,
    private: bool = False,
) -> str:
    """Commit files to a repository, which is made when missing, and return the commit's address.

    Parameters
    ----------
    repo : str
    files : mapping of str to bytes
        By path in the repository.
    message : str
        Of the commit.
    delete : sequence of str, default=()
        Paths that the same commit removes.
    revision : str or None, default=None
        A branch that is there; None is ``main``.
    private : bool, default=False
        Whether a repository that has to be made is private.

    Returns
    -------
    str

    Raises
    ------
    PermissionError
        If you are not logged in, or may not write there.
    ConnectionError
        If the hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    operations = [CommitOperationDelete(name) for name in delete]
    operations += [CommitOperationAdd(name, data) for name, data in files.items()]
    with _sentences(repo, revision):
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.create_commit(repo, operations, commit_message=message, revision=revision)
    return str(done.commit_url)


def _kept(repo: str, revision: str | None) -> Path | None:
    """Return the folder with what was fetched of a repository before, if anything was."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


@contextmanager
def _sentences(repo: str, revision: str | None, name: str | None = None) -> Iterator[None]:
    """Turn what huggingface-hub and its transport raise into one sentence."""
    from huggingface_hub import errors

    try:
        yield
    except errors.RevisionNotFoundError:
        raise FileNotFoundError(
            f"`revision` must be a branch, tag or commit of {repo!r} on the hub; it has no "
            f"{revision!r}."
        ) from None
    except errors.RepositoryNotFoundError:
        raise FileNotFoundError(
            f"`{repo}` must be a folder here or a repository on the hub that you may read; there "
            "is none, or it is private or gated. Check the name, or log in with `hf auth login`."
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise _unreachable(repo, name) from None
    except errors.EntryNotFoundError:
        raise FileNotFoundError(
            f"`{repo}` must hold the file {name!r} at revision {revision or 'main'!r}; it does not."
        ) from None
    except errors.HFValidationError:
        raise ValueError(
            f"`repo` must be the name of a repository, organization/name; got {repo!r}."
        ) from None
    except errors.HfHubHTTPError as error:
        raise _refused(repo, error.response.status_code) from None
    except errors.LocalTokenNotFoundError:
        raise _refused(repo, 401) from None
    except errors.HTTPError:  # of the transport
        raise _unreachable(repo, name) from None
    except RuntimeError as error:  # of a large file on its way
        raise ConnectionError(
            f"`{repo}` must be reachable on the hub; {str(error).rstrip('.')}. Nothing was "
            "committed; try again."
        ) from None


def _unreachable(repo: str, name: str | None) -> ConnectionError:
    kept = f"{name!r} of it is not" if name else "no copy of it is"
    return ConnectionError(
        f"`{repo}` must be reachable on the hub; there is no network, and {kept} on this machine. "
        "Connect, or give a folder."
    )


def _refused(repo: str, status: int) -> OSError:
    if status in (401, 403):
        return PermissionError(
            f"`{repo}` must be a repository that you may write to; the hub refuses. "
            "Log in with `hf auth login`, with a token that may write."
        )
    return ConnectionError(
        f"`{repo}` must be reachable on the hub; it answers with status {status}. Try again later."
    )
