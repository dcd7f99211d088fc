"""The operator as a process in tests: its log, its ports, its end, and its being started again."""

import json
import signal
import threading
import time


class Process:
    """An operator process."""

    def __init__(self, process, log):
        self.process = process
        self.log = log

    def lines(self):
        """Its log, parsed."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def ports(self, seconds=20.0):
        """The ports of /healthz and /metrics."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in self.lines():
                if "serves /healthz" in line["message"]:
                    words = line["message"].split()
                    return int(words[4]), int(words[9])
            time.sleep(0.05)
        raise TimeoutError(self.log.read_text())

    def kill(self):
        """SIGKILL."""
        self.process.kill()
        self.process.wait(10)

    def end(self):
        """SIGTERM, and SIGKILL where that does not help."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            finally:
                self.process.kill()


MOST = 50
"""So often is an operator started before it is given up."""


class Operators:
    """An operator that is started again whenever it has ended, as a Deployment does."""

    def __init__(self, start):
        self._start = start
        self._lock = threading.Lock()
        self._ending = False
        self.processes = [start()]
        """All that there have been; the last one lives."""
        self.codes = []
        """The exit codes of those that ended without being told to; -9: killed."""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def process(self):
        """The one that lives."""
        return self.processes[-1]

    @property
    def kills(self):
        """How often it was killed."""
        return self.codes.count(-signal.SIGKILL)

    def kill(self):
        """SIGKILL; returns at once."""
        self.process.process.kill()

    def end(self):
        """Have it end, and not be started again."""
        with self._lock:
            self._ending = True
        self.process.end()
        self._thread.join(20)
        assert len(self.codes) < MOST, self.process.log.read_text()

    def _watch(self):
        while True:
            code = self.process.process.wait()
            if code != -signal.SIGKILL:
                time.sleep(0.2)  # it may end at once for ever
            with self._lock:
                if self._ending:
                    return
                self.codes.append(code)
                if len(self.codes) == MOST:
                    return
                self.processes.append(self._start())
