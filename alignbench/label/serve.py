"""Serves the labelling page on this machine: loopback unless asked otherwise, a secret in every link."""

from __future__ import annotations

import os
import secrets
import socket
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from alignbench import layout, store
from alignbench.errors import RecipeError
from alignbench.label.design import Design
from alignbench.label.journal import opened

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    folder: Path,
    design: Design,
    raters: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    show: Callable[[str], str] = str,
    announce: Callable[[dict[str, str], str], None],
    browser: bool = True,
) -> None:
    """Serve the page of these raters until the process is stopped; the journal lies in `folder`.

    `announce` is called with the link of each rater and that of the overview once the page answers. Raises
    StorageError where another process writes to the journal, RecipeError where the port is not free.
    """
    import uvicorn

    from alignbench.label.app import create_app, token

    with opened(folder) as journal:
        hidden = secret(folder)
        bound = _bind(host, port)
        name = host if host in LOOPBACK else _reachable(bound)
        base = f"http://{f'[{name}]' if ':' in name else name}:{bound.getsockname()[1]}"
        links = {rater: f"{base}/l/{token(hidden, f'rater/{rater}')}/" for rater in raters}
        app = create_app(
            design, journal, raters, hidden, hosts=LOOPBACK if host in LOOPBACK else None, show=show
        )
        config = uvicorn.Config(app, log_level="error", access_log=False, server_header=False)
        server = uvicorn.Server(config)
        bound.listen(128)  # from here on a browser waits instead of being refused
        announce(links, f"{base}/o/{token(hidden, 'overview')}/")
        if browser and len(links) == 1:
            webbrowser.open(next(iter(links.values())))
        with suppress(KeyboardInterrupt):  # the way to stop: uvicorn raises it again after its shutdown
            server.run(sockets=[bound])


def secret(folder: Path) -> str:
    """Return what the links of a folder are made from; the first call draws it."""
    file = folder / layout.SECRET
    with store.storage_errors(file):
        if not file.is_file():
            handle = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as opened_:
                opened_.write(secrets.token_hex(32))
                opened_.flush()
                os.fsync(opened_.fileno())
        text = file.read_text(encoding="utf-8").strip()
    if len(text) < 64:  # killed while it was written
        file.unlink()
        return secret(folder)
    return text


def _reachable(bound: socket.socket) -> str:
    """Return the address at which other machines reach a socket, also where it is bound to all of them."""
    address = bound.getsockname()[0]
    if address not in ("0.0.0.0", "::"):
        return address
    somewhere = (
        "192.0.2.1" if bound.family == socket.AF_INET else "2001:db8::1"
    )  # of examples: nothing is sent
    with socket.socket(bound.family, socket.SOCK_DGRAM) as route:
        try:
            route.connect((somewhere, 9))
            return route.getsockname()[0]
        except OSError:  # no route: a name that the network may know
            return socket.gethostname()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise RecipeError(
            f"{host}:{port} cannot be served: {error.strerror}",
            "choose another port, or --port 0 for a free one",
        ) from error
    return bound
