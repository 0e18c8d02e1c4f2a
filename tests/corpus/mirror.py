"""A real HTTP server on this machine that serves a few files and misbehaves as told."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Asked:
    path: str
    range: str | None
    if_range: str | None
    authorization: str | None


@dataclass
class Faults:
    """What the next answers are like, one entry per request, and then as they should be.

    `break N`: the connection ends after N bytes of the body; `stall N`: after N bytes nothing more comes; `404`, `503`.
    """

    queue: list[str] = field(default_factory=list)
    ignores_range: bool = False
    forgets_content_range: bool = False
    tells_size: bool = True
    tells_mark: bool = True


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.redirects: dict[str, str] = {}
        self.faults = Faults()
        self.asked: list[Asked] = []
        self.ending = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may hang up: it does so on purpose, on what it will not have."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def ranges(self) -> list[str | None]:
        return [asked.range for asked in self.asked]


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, headers = self.server, self.headers
        server.asked.append(Asked(self.path, headers["Range"], headers["If-Range"], headers["Authorization"]))
        if self.path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[self.path])
            self.end_headers()
            return
        fault = server.faults.queue.pop(0) if server.faults.queue else ""
        if fault.isdigit() or self.path not in server.files:
            self.send_error(int(fault or 404))
            return
        self._send(server.files[self.path], fault)

    def _send(self, content: bytes, fault: str) -> None:
        faults, mark = self.server.faults, f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        start = self._start(content, mark)
        if start >= len(content) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if faults.tells_size:
            self.send_header("Content-Length", str(len(content) - start))
        if start and not faults.forgets_content_range:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if faults.tells_mark:
            self.send_header("ETag", mark)
        self.end_headers()
        body = content[start:]
        if fault:
            body = body[: int(fault.split()[1])]
        self.wfile.write(body)
        self.wfile.flush()
        if fault.startswith("stall"):
            self.server.ending.wait(10)

    def _start(self, content: bytes, mark: str) -> int:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        other_version = self.headers["If-Range"] not in (None, mark)
        if asked is None or self.server.faults.ignores_range or other_version:
            return 0
        return int(asked[1])

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    server = Server(files)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()
