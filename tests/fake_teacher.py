"""An OpenAI-compatible chat endpoint in this process, which answers, fails and lies as told."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "fake-teacher"


def completion(text, finish="stop"):
    """A chat completion of one choice."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


def told(request):
    """The text of the last message, and how many images the request has."""
    texts, images = [], 0
    for message in request["messages"]:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        images += sum(part["type"] == "image_url" for part in parts)
        texts = [part["text"] for part in parts if part["type"] == "text"]
    return " ".join(texts), images


def is_probe(request):
    return told(request)[0] == "Reply with the word yes."


class Teacher:
    """The endpoint; `answer(request)` gives a completion, bytes, or `(status, headers, bytes)`."""

    model = MODEL

    def __init__(self, answer, key=None):
        self.answer, self.key = answer, key
        self.requests = []
        self.open = self.most_open = 0
        self._lock = threading.Lock()

    @property
    def asked(self):
        """The requests but for the probes."""
        return [request for request in self.requests if not is_probe(request)]

    def reply(self, request):
        """What is said to a request that is no probe."""
        return self.answer(request)

    def respond(self, path, request, headers):
        """Status, headers and body."""
        if not path.endswith("/v1/chat/completions"):  # a proxy is told the host, too
            return 404, {}, b"Not Found"
        if self.key and headers.get("Authorization") != f"Bearer {self.key}":
            said = f"Incorrect API key: {headers.get('Authorization')}"
            return 401, {}, json.dumps({"error": {"message": said}}).encode()
        if request["model"] != self.model:
            return 404, {}, b'{"error": {"message": "The model does not exist."}}'
        with self._lock:
            self.requests.append(request)
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        try:
            found = completion("yes") if is_probe(request) else self.reply(request)
        finally:
            with self._lock:
                self.open -= 1
        if isinstance(found, tuple):
            return found
        return 200, {}, found if isinstance(found, bytes) else json.dumps(found).encode()


@contextmanager
def serving(answer, key=None, kind=Teacher):
    """The endpoint and its base URL."""
    teacher = kind(answer, key)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self):
            data = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, body = teacher.respond(self.path, json.loads(data), self.headers)
            self.send_response(status)
            for name, value in ({"Content-Length": len(body)} | headers).items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)
            # A body that is shorter than it should be ends with its connection.
            self.close_connection = "Content-Length" in headers

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        def handle_error(self, *_):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield teacher, f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
