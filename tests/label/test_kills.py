"""A real server is killed while raters save: what was confirmed is there, once, and the same command goes on."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from alignbench import layout
from alignbench.label import design
from alignbench.label.design import Design

pytest.importorskip("uvicorn", reason="uvicorn is not installed")

SERVE = """
import json, sys
from pathlib import Path
from alignbench.label import design
from alignbench.label.serve import serve
folder = Path(sys.argv[1])
serve(folder, design.read(folder), ["anna", "ben"], port=int(sys.argv[2]), browser=False,
      announce=lambda links, overview: print(json.dumps(links), flush=True))
"""


def start(folder: Path, port: int) -> tuple[subprocess.Popen[str], dict[str, str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(folder), str(port)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Rater(threading.Thread):
    """Ranks until nothing is left; sends an annotation again, with its ticket, until it is confirmed."""

    def __init__(self, link: str):
        super().__init__()
        self.link = link
        self.confirmed: dict[str, str] = {}

    def run(self) -> None:
        with httpx.Client() as client:
            while item := self.ask(client, "GET", "next")["item"]:
                ranks = list(range(1, 1 + len(item["answers"])))
                annotation = {key: item[key] for key in ("ticket", "round")} | {
                    "item": item["id"],
                    "ranks": ranks,
                }
                self.ask(client, "POST", "annotation", json=annotation)
                self.confirmed[item["id"]] = item["ticket"]

    def ask(self, client: httpx.Client, method: str, path: str, **more) -> dict:
        for _ in range(600):
            try:
                answer = client.request(method, self.link + path, **more)
                assert answer.status_code == 200, answer.text
                return answer.json()
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError("the server did not come back")


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_no_annotation_and_doubles_none(make_items, tmp_path: Path):
    made = Design(tuple(make_items(150)))
    design.write(made, tmp_path)
    port, rng = free_port(), random.Random(5)
    process, links = start(tmp_path, port)
    raters = [Rater(link) for link in links.values()]
    for rater in raters:
        rater.start()
    kills = 0
    while any(rater.is_alive() for rater in raters) and kills < 4:
        time.sleep(rng.uniform(0.05, 0.3))
        process.kill()
        process.wait()
        kills += 1
        process, again = start(tmp_path, port)
        assert again == links  # a page that is open goes on by itself
    for rater in raters:
        rater.join(timeout=120)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=20)
    assert kills > 1
    tickets = [json.loads(line)["ticket"] for line in (tmp_path / layout.JOURNAL).read_text().splitlines()]
    assert len(tickets) == len(set(tickets)) == 300
    assert set(tickets) == {ticket for rater in raters for ticket in rater.confirmed.values()}


def test_the_secret_is_readable_by_its_owner_alone(tmp_path: Path):
    from alignbench.label.serve import secret

    drawn = secret(tmp_path)
    assert secret(tmp_path) == drawn
    assert (tmp_path / layout.SECRET).stat().st_mode & 0o777 == 0o600
    (tmp_path / layout.SECRET).write_text(drawn[:10])  # killed while it was written
    assert len(secret(tmp_path)) == 64


def test_a_port_that_is_taken_is_said_before_anything_is_served(make_items, tmp_path: Path):
    from alignbench.errors import RecipeError
    from alignbench.label.serve import serve

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        with pytest.raises(RecipeError, match="another port"):
            serve(
                tmp_path,
                Design(tuple(make_items(1))),
                ["anna"],
                port=one.getsockname()[1],
                announce=lambda links, overview: None,
                browser=False,
            )
