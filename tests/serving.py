"""Servers of socketserver in threads of the test's."""

import threading
from contextlib import contextmanager


@contextmanager
def in_threads():
    """A function that has a server serve, and tells its address; all end with the block."""
    started = []

    def start(server):
        started.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    try:
        yield start
    finally:
        for server in started:
            server.shutdown()
            server.server_close()
