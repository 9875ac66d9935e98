"""A key is known by the name of its environment variable: a canary is in no byte that a run writes or says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from .conftest import Session

CANARY = "sk-canary-4f9a2b7c"
OTHERS = {"HF_TOKEN": "hf_canary_4f9a2b7c", "WANDB_API_KEY": "wandb-canary-4f9a2b7c"}

JUDGED = """
model: {id: sandbox}
data: {train: sandbox, limit: 48, max_length: 128}
training: {threads: 1, batch: 8}
evaluation:
  prompts: 3
  sampling: {max_new_tokens: 8}
  judges: [gold, {http: {url: "URL", model: m, key_env: JUDGE_KEY, retries: 0}}]
  metrics: [reward, length]
methods:
  good: {}
"""


class Echo(BaseHTTPRequestHandler):
    """Repeats the caller's headers wherever a careless server would, and answers or refuses in turn."""

    heard: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        key = self.headers.get("Authorization", "")
        self.heard.append(key)
        found = {"choices": [{"message": {"content": f"A, as {key} wishes"}}], "error": f"no such key: {key}"}
        content = json.dumps(found).encode()
        self.send_response(200 if self.path.startswith("/kind") else 401, f"not {key}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def heard() -> Iterator[tuple[str, list[str]]]:
    handler = type("Handler", (Echo,), {"heard": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.heard
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("temper", ["kind", "cross"])
def test_no_byte_that_a_run_writes_or_says_holds_a_key(
    session: Session, heard: tuple[str, list[str]], temper: str
):
    url, keys = heard
    recipe = session.folder / f"{temper}.yaml"
    recipe.write_text(JUDGED.replace("URL", f"{url}/{temper}/v1"))
    _, output = session.run(recipe, temper, JUDGE_KEY=CANARY, **OTHERS)
    assert f"Bearer {CANARY}" in keys, f"the judge was never asked: {output}"
    assert (session.folder / temper / "results.json").exists() if temper == "kind" else "(the key)" in output
    secrets = [CANARY, *OTHERS.values()]
    assert not [secret for secret in secrets if secret in output]
    places = [path for path in session.folder.rglob("*") if path.is_file()]
    assert len(places) > 20
    assert not [path for path in places if _holds(path, secrets)]


def _holds(path: Path, secrets: list[str]) -> bool:
    content = path.read_bytes()
    return any(secret.encode() in content for secret in secrets)
