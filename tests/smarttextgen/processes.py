"""The command line as a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys


class Listening:
    """`webhooks listen`, once it listens at ``url``."""

    def __init__(self, api_url: str, key: str, *words: str) -> None:
        argv = [sys.executable, "-m", "smarttextgen", "webhooks", "listen", "--url", api_url, "--api-key", key, *words]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + self.process.stderr.read()
        self.url = found[0]

    def end(self, number: int | None = None) -> tuple[int, list[str]]:
        """Exit code and the lines that were printed; ``number``: the signal that is sent first."""
        if number is not None:
            self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=30)
        return self.process.returncode, output.splitlines()
