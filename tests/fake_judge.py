"""An OpenAI-compatible endpoint in this process, which judges, fails and lies as it is told."""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "fake-judge"


def completion(text):
    """A chat completion, which has read 11 tokens and written 4."""
    return {
        "choices": [{"message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 4},
    }


def same_digits(prompt):
    """A judge who knows digits only: the gold's are the last of the response, or not."""
    gold = re.search(r"<correct_answer>\n(.*?)\n</correct_answer>", prompt, re.DOTALL).group(1)
    response = re.search(r"<response>\n(.*?)\n</response>", prompt, re.DOTALL).group(1)
    stated = (re.findall(r"\d+", response) or ["none"])[-1]
    return f"Answer: {stated}\nVerdict: {'yes' if stated == gold else 'no'}"


class FakeJudge:
    """`answer(prompt)` gives words, or a tuple of status, headers and bytes.

    `prompts` are what it was asked, without the probes.
    """

    def __init__(self, answer, key=None):
        self.answer, self.key = answer, key
        self.prompts, self.probes = [], 0
        self.open = self.most_open = 0
        self.lock = threading.Lock()

    def respond(self, request, headers):
        """Status, headers and body."""
        if self.key and headers.get("Authorization") != f"Bearer {self.key}":
            said = f"Incorrect API key provided: {headers.get('Authorization')}"
            return 401, {}, json.dumps({"error": {"message": said}}).encode()
        if request["model"] != MODEL:
            return 404, {}, b'{"error": {"message": "The model does not exist."}}'
        prompt = request["messages"][0]["content"]
        with self.lock:
            probe = prompt.startswith("Reply with the word")
            self.probes += probe
            self.prompts += [] if probe else [prompt]
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        found = "yes" if probe else self.answer(prompt)
        with self.lock:
            self.open -= 1
        if isinstance(found, tuple):
            return found
        return 200, {}, json.dumps(completion(found)).encode()


@contextmanager
def judging(answer=same_digits, key=None):
    """A judge and its base URL."""
    judge = FakeJudge(answer, key)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            data = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, body = judge.respond(json.loads(data), self.headers)
            self.send_response(status)
            for name, value in ({"Content-Length": len(body)} | headers).items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield judge, f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
