"""``sae explain`` asks an endpoint and prints what came of it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

import sae
from sae.cache import Cache
from sae.cli import app


class Handler(BaseHTTPRequestHandler):
    """Explains everything alike, and finds it everywhere."""

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        content = json.loads(self.rfile.read(length))["messages"][1]["content"]
        ones = [1] * content.count("Passage ")
        answer = str(ones) if content.startswith("Explanation:") else "Explanation: words"
        text = json.dumps({"choices": [{"message": {"content": answer}}]})
        self.send_response(200 if self.headers["Authorization"] == "Bearer key" else 401)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def test_explanations_are_written_and_summed_up(
    url: str, word_cache: Cache, tmp_path: Path
) -> None:
    source = word_cache.at("encoder.layer.1")
    model = sae.TopK(n_features=16, n_latents=20, k=3, seed=0)
    model.initialize(source.rows(0, 200))
    sae.save(model, tmp_path / "run")
    (tmp_path / "key").write_text("key\n")
    line = ["explain", tmp_path / "run", word_cache.path, "--hookpoint", "encoder.layer.1"]
    line += ["--url", url, "--model", "m", "--out", tmp_path / "words.jsonl"]
    asked = CliRunner().invoke(app, [str(word) for word in [*line, "--latents", "1,2"]])
    assert asked.exit_code == 2
    assert "gave HTTP 401" in " ".join(asked.stderr.split())
    line += ["--key-file", tmp_path / "key"]
    done = CliRunner().invoke(app, [str(word) for word in line])
    assert done.exit_code == 0, done.output
    lines = [json.loads(text) for text in (tmp_path / "words.jsonl").read_text().splitlines()]
    assert lines
    assert {entry["explanation"] for entry in lines} == {"words"}
    scores = [entry["score"] for entry in lines if entry["score"] is not None]
    assert set(scores) == {0.5}  # it cannot tell
    assert f"Explained {len(lines)} latents Median score 0.50" in " ".join(done.output.split())
