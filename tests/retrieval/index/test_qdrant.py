"""Qdrant by its client, in the local mode and by HTTP, behind the contract of an index."""

import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from retrieval import ExactIndex, QdrantIndex, open_index
from retrieval.testing import check_index, random_rows
from sparsecode.io import CorruptFileError

qdrant_client = pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
LOCAL_MODE = pytest.mark.filterwarnings("ignore:.*:UserWarning:qdrant_client")


@pytest.fixture
def server():
    """Answer the requests of Qdrant's REST interface from the client's local mode."""
    held, models, lock = (
        qdrant_client.QdrantClient(":memory:"),
        qdrant_client.models,
        threading.Lock(),
    )
    seen = []

    def answer(method, name, action, body):
        if (method, action) == ("GET", "exists"):
            return {"exists": held.collection_exists(name)}
        if (method, action) == ("PUT", ""):
            sparse = {
                key: models.SparseVectorParams(**one) for key, one in body["sparse_vectors"].items()
            }
            return held.create_collection(name, body["vectors"], sparse_vectors_config=sparse)
        if (method, action) == ("PUT", "points"):
            held.upsert(name, [models.PointStruct(**point) for point in body["points"]])
        elif action == "points/delete":
            held.delete(name, models.PointIdsList(points=body["points"]))
        elif action == "points/count":
            return held.count(name).model_dump()
        elif action == "points/query":
            asked = models.QueryRequest(**body)
            assert asked.with_payload is False
            found = held.query_points(
                name,
                query=models.SparseVector(**body["query"]["nearest"]),
                using=asked.using,
                query_filter=asked.filter,
                limit=asked.limit,
            )
            return json.loads(found.model_dump_json())
        return {"operation_id": 0, "status": "completed"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path, _, query = self.path.partition("?")
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or "null")
            seen.append((self.command, path, query, self.headers.get("api-key")))
            _, _, name, *rest = path.split("/")
            with lock:
                result = answer(self.command, name, "/".join(rest), body)
            content = json.dumps({"result": result, "status": "ok", "time": 0.0}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_PUT = do_POST = do_GET  # noqa: N815 - names of http.server

        def log_message(self, *arguments):
            """Be quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{http.server_port}", seen=seen)
        http.shutdown()
        thread.join()


@LOCAL_MODE
def test_it_keeps_the_contract():
    check_index(QdrantIndex)


@LOCAL_MODE
def test_it_keeps_the_contract_by_http(server):
    names = (f"c{number}" for number in itertools.count())

    def make(width):
        return QdrantIndex(width, location=server.url, collection=next(names))

    check_index(make)
    changes = {
        query for method, path, query, _ in server.seen if path.endswith(("points", "delete"))
    }
    assert changes == {"wait=true"}, "a search must see what was added before it"


@LOCAL_MODE
@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_a_key_is_sent_and_not_saved(server, tmp_path):
    documents, queries = random_rows(20, 40, 8, seed=0), random_rows(4, 40, 6, seed=1)
    index = QdrantIndex(40, location=server.url, api_key="secret", timeout=7).add(documents)
    index.save(tmp_path / "index")
    assert "secret" not in (tmp_path / "index" / "index.json").read_text()
    server.seen.clear()
    opened = open_index(tmp_path / "index", api_key="secret")
    found = opened.search(queries).ids
    assert {key for *_, key in server.seen} == {"secret"}
    assert opened.timeout == 7
    np.testing.assert_array_equal(found, ExactIndex(40).add(documents).search(queries).ids)


@LOCAL_MODE
def test_a_collection_that_changed_is_refused(server, tmp_path):
    index = QdrantIndex(40, location=server.url).add(random_rows(20, 40, 8, seed=0))
    index.save(tmp_path / "index")
    index.delete([3])
    with pytest.raises(CorruptFileError, match=r"the 20 rows of when .*; 'sparsecode' has 19"):
        open_index(tmp_path / "index")


def test_a_collection_that_is_there_is_refused():
    first = QdrantIndex(40).add(random_rows(3, 40, 5, seed=0))
    second = QdrantIndex(40)
    second._client = first._client
    with pytest.raises(ValueError, match=r"`collection` must be new; 'sparsecode' is at"):
        second.add(random_rows(3, 40, 5, seed=0))
    assert len(second) == 0
    assert second.id_kind is None


def test_a_remote_collection_that_changed_is_refused(tmp_path):
    index = QdrantIndex(40).add(random_rows(3, 40, 5, seed=0))
    index.location = "http://localhost:1"  # as if the collection were at a server
    index._dump(tmp_path)
    index._load(tmp_path)
    index._client.delete_collection("sparsecode")
    with pytest.raises(ValueError, match=r"must have the 3 rows of when .* has 0"):
        index._load(tmp_path)
