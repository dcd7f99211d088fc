"""A hub that sends the token back that it was sent: a stage keeps it nowhere."""

import json
import subprocess
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from stage_attempts import environment, order

SECRET = "hf_DoNotWriteThisAnywhere"


class Echo(BaseHTTPRequestHandler):
    """Refuses everything, and says with what it was asked."""

    def do_GET(self):
        self.server.heard.append(self.headers.get("Authorization", ""))
        said = f'{{"error": "no access with {self.server.heard[-1]}"}}'.encode()
        self.send_response(403)
        self.send_header("X-Error-Message", f"no access with {self.server.heard[-1]}")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(said)

    do_HEAD = do_GET  # noqa: N815 - the names that the server calls

    def log_message(self, *_):
        """Be quiet."""


@contextmanager
def serving():
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        server.heard = []
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_what_the_hub_says_is_kept_without_the_token(tmp_path, monkeypatch):
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_TOKEN", SECRET)
        given = order("sft", tmp_path / "runs", "org/private", "rows.jsonl")
        result = tmp_path / "result.json"
        told = environment(given, result) | {"HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-m", "coldstart_trainer"],
            env=told,
            capture_output=True,
            text=True,
            check=False,
        )
    assert f"Bearer {SECRET}" in hub.heard
    assert "no access with Bearer ***" in json.loads(result.read_text())["error"]["message"]
    assert "Traceback" in done.stderr
    assert SECRET not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
