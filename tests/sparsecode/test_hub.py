"""The hub against a stand-in of its HTTP API: commits, downloads, each failure a sentence."""

import pytest
from huggingface_hub import constants

from sparsecode import hub as ours

# What the client's transport says of its own arguments.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REPO = "me/autoencoders"


def test_what_is_uploaded_is_listed_and_downloaded(hub):
    files = {"h.3/config.json": b"{}", "h.3/weights.safetensors": b"\0" * 5000}
    url = ours.upload(REPO, files, message="first")
    assert url.startswith(f"{hub.url}/{REPO}/commit/")
    assert "PUT" in hub.requests  # the large file went the way of large files
    assert ours.list_files(REPO) == sorted(files)
    folder = ours.download(REPO, list(files))
    assert {name: (folder / name).read_bytes() for name in files} == files
    ours.upload(REPO, {"b": b"2"}, message="second", delete=["h.3/config.json"])
    assert ours.list_files(REPO) == ["b", "h.3/weights.safetensors"]


def test_revisions(hub):
    hub.put(REPO, {"a": b"new"})
    hub.put(REPO, {"a": b"old"}, revision="v1")
    assert (ours.download(REPO, ["a"], revision="v1") / "a").read_bytes() == b"old"
    assert (ours.download(REPO, ["a"]) / "a").read_bytes() == b"new"
    for call in (
        ours.list_files,
        lambda repo, revision: ours.download(repo, ["a"], revision=revision),
    ):
        with pytest.raises(FileNotFoundError, match=r"commit of 'me/auto.*; it has no 'v9'\."):
            call(REPO, revision="v9")


def test_what_is_missing_gets_one_sentence(hub):
    hub.put(REPO, {"a": b"1"})
    with pytest.raises(
        FileNotFoundError, match=r"must hold the file 'b' at revision 'main'; it does"
    ):
        ours.download(REPO, ["b"])
    with pytest.raises(
        FileNotFoundError, match=r"`me/other` must be a folder here or a repository"
    ):
        ours.list_files("me/other")
    with pytest.raises(ValueError, match="`repo` must be the name of a repository, organization"):
        ours.list_files("me/-other-")
    with pytest.raises(ValueError, match="`names` must hold a file to fetch; got none"):
        ours.download(REPO, [])


def test_a_hub_that_refuses_gets_one_sentence(hub):
    hub.refuse_writing = True
    with pytest.raises(PermissionError, match=r"you may write to; the hub refuses\. Log in with"):
        ours.upload(REPO, {"a": b"1"}, message="first")
    assert REPO not in hub.repos
    hub.refuse_writing, hub.refuse_storage = False, True
    with pytest.raises(ConnectionError, match=r"uploading 'a\.pt' to the Hub\. Nothing was commi"):
        ours.upload(REPO, {"a.pt": b"1"}, message="first")
    assert hub.repos[REPO] == {"main": {}}


@pytest.fixture
def disconnected(hub, monkeypatch):
    """Point the client, when called, at a port where nobody listens."""

    def cut():
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        url = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr("time.sleep", lambda seconds: None)

    return cut


def test_without_a_network_what_was_fetched_is_still_there(hub, disconnected):
    hub.put(REPO, {"a": b"1", "b": b"2"})
    ours.download(REPO, ["a"])
    disconnected()
    assert ours.list_files(REPO) == ["a"]
    assert (ours.download(REPO, ["a"]) / "a").read_bytes() == b"1"
    with pytest.raises(ConnectionError, match=r"no network, and 'b' of it is not on this machine"):
        ours.download(REPO, ["b"])
    with pytest.raises(ConnectionError, match=r"no network, and no copy of it is on this machine"):
        ours.list_files("me/other")
    with pytest.raises(ConnectionError, match="there is no network"):
        ours.upload(REPO, {"a": b"1"}, message="first")


def test_offline_mode_is_no_network(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="there is no network"):
        ours.download(REPO, ["a"])
