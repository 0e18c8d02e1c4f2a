"""A small hub on this machine: one dataset repository of parquet files at one commit, spoken to by the real library."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "a" * 40
REPOSITORY = "some/set"
_API, _FILES = f"/api/datasets/{REPOSITORY}", f"/datasets/{REPOSITORY}/resolve/{COMMIT}/"
_CARD = """---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: validation
    path: main/validation-*
---
"""


def _files() -> dict[str, bytes]:
    from datasets import ClassLabel, Dataset, Features, List, Value

    features = Features(
        {"question": Value("string"), "label": ClassLabel(names=["no", "yes"]), "answers": List(Value("string"))}
    )
    files = {"README.md": _CARD.encode()}
    for split, items in (("train", 5), ("validation", 3)):
        rows = [{"question": f"{split} {n}?", "label": n % 2, "answers": ["a", str(n)]} for n in range(items)]
        stream = io.BytesIO()
        Dataset.from_list(rows, features=features).to_parquet(stream)
        files[f"main/{split}-00000-of-00001.parquet"] = stream.getvalue()
    return files


class Hub(ThreadingHTTPServer):
    """`asked` lists the paths that were asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = _files()
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        self.server.asked.append(self.path)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path in (_API, f"{_API}/revision/{COMMIT}"):
            self._answer({"id": REPOSITORY, "sha": COMMIT, "siblings": [{"rfilename": n} for n in self.server.files]})
        elif path.startswith(f"{_API}/tree/{COMMIT}"):
            folder = path.removeprefix(f"{_API}/tree/{COMMIT}").strip("/")
            self._answer([self._entry(name) for name in ("main", *self.server.files) if name.startswith(folder)])
        elif path.startswith(_FILES) and path.removeprefix(_FILES) in self.server.files:
            self._send(200, self.server.files[path.removeprefix(_FILES)])
        else:
            self._send(404, b'{"error": "not found"}')

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            paths = json.loads(body)["paths"]
        except ValueError:
            paths = parse_qs(body.decode())["paths"]
        known = ["main", *self.server.files]
        self._answer([self._entry(path) for path in paths if path in known])

    def _entry(self, name: str) -> dict[str, object]:
        content = self.server.files.get(name)
        if content is None:
            return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
        return {"type": "file", "path": name, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}

    def _answer(self, value: object) -> None:
        self._send(200, json.dumps(value).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
