"""A server that answers every question alike; it ends early where its model's name says so."""

import argparse
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text):
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


class Handler(BaseHTTPRequestHandler):
    """`/health`, and chat completions."""

    protocol_version = "HTTP/1.1"
    left = 5

    def do_GET(self):
        self._answer({})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert request["model"] == self.server.options.served_model_name
        if "dies" in request["model"]:
            Handler.left -= 1
            if Handler.left < 0:
                os._exit(3)
        self._answer(completion("It is \\boxed{7}."))

    def _answer(self, document):
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main():
    parser = argparse.ArgumentParser()
    for name in (
        "model",
        "served-model-name",
        "port",
        "host",
        "max-model-len",
        "max-num-seqs",
        "load-format",
    ):
        parser.add_argument(f"--{name}", required=True)
    for name in (
        "seed",
        "revision",
        "tokenizer-revision",
        "tensor-parallel-size",
        "limit-mm-per-prompt",
    ):
        parser.add_argument(f"--{name}")
    parser.add_argument("--enforce-eager", action="store_true")
    options = parser.parse_args()
    print("options", json.dumps(vars(options)), flush=True)
    if "RANK" in os.environ:
        sys.exit("it would take torchrun's variables for its own")
    if "absent" in options.model:
        print("OSError: absent is not a local folder", file=sys.stderr)
        print("RuntimeError: Engine core initialization failed. See root cause above.")
        sys.exit(1)
    server = ThreadingHTTPServer((options.host, int(options.port)), Handler)
    server.options = options
    threading.Thread(target=server.serve_forever).start()


if __name__ == "__main__":
    main()
