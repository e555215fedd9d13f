"""People who watch jobs stream, and whose connections break: they go on where they were, and write down what it came to."""

from __future__ import annotations

import http.client
import queue
import random
import time

from tests.chaos.clients import Diary, digest
from tests.chaos.threads import TrialThread
from tests.streams.client import Watcher, parse

TIMEOUT_S = 6
WEATHER = {408, 429, 500, 502, 503, 504}


class Viewer(TrialThread):
    """Watches one job after the other, until ``halt`` and nothing is left to watch. ``watch`` may be called on any thread."""

    def __init__(self, name: str, tenant: str, secret: str, port: int, diary: Diary, seed: int) -> None:
        super().__init__(name)
        self._tenant, self._secret, self._port, self._diary = tenant, secret, port, diary
        self._random = random.Random(f"{seed}/{name}")
        self._jobs: queue.SimpleQueue[str] = queue.SimpleQueue()

    def watch(self, job_id: str) -> None:
        self._jobs.put(job_id)

    def _run(self) -> None:
        while not (self.halt.is_set() and self._jobs.empty()):
            try:
                job_id = self._jobs.get(timeout=0.2)
            except queue.Empty:
                continue
            self._follow(job_id)

    def _follow(self, job_id: str) -> None:
        watcher, streams, missing = Watcher(), 0, None
        try:
            while watcher.end is None and missing is None:
                streams += 1
                missing = self._look(job_id, watcher)
        except AssertionError as error:  # an event twice, or after the end
            self._diary.write(what="broken stream", who=self.name, tenant=self._tenant, id=job_id, why=str(error))
            return
        entry = {"who": self.name, "tenant": self._tenant, "id": job_id, "streams": streams}
        if watcher.end is None:
            self._diary.write(what="stream missing", code=missing, **entry)
            return
        end = watcher.end
        self._diary.write(
            what="streamed", attempt=end["attempt"], status=end["status"], output=digest(end["output"]),
            text=digest(watcher.texts.get(0, "")) if end["output"] is not None else None,
            gaps=len(watcher.numbers) != watcher.numbers[-1] - watcher.numbers[0] + 1,
            restarts=watcher.names.count("restarted"), **entry,
        )  # fmt: skip

    def _look(self, job_id: str, watcher: Watcher) -> str | None:
        """One stream, for a while or until it breaks. Returns why there is none any more."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        headers = {"X-API-Key": self._secret} | ({"Last-Event-ID": str(watcher.cursor)} if watcher.cursor else {})
        received = b""
        try:
            connection.request("GET", f"/api/jobs/{job_id}/stream", headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                response.read()
                if response.status in WEATHER:
                    time.sleep(self._random.uniform(0.1, 0.5))
                    return None
                return str(response.status)
            until = time.monotonic() + self._random.choice([0.1, 0.5, 2, 20])
            while time.monotonic() < until and (data := response.read1(4096)):
                received += data
        except (OSError, http.client.HTTPException):
            time.sleep(self._random.uniform(0.05, 0.3))
        finally:
            connection.close()
            watcher.see(parse(received.decode(errors="ignore")))
        return None
