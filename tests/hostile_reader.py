"""Files that do harm to the process that reads them."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from videobench.datasets.views import Views
from videobench.serving.decoders import Reader


@dataclass(frozen=True)
class HostileReader:
    """Reads videos, and does what a file says that is none.

    Attributes:
        read: how videos are read.
        gate: what a file of ``wait`` waits for.
    """

    read: Reader
    gate: str = ""

    def __call__(self, path: str) -> Views:
        content = Path(path).read_bytes()
        if content == b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif content == b"exit":
            os._exit(3)
        elif content == b"raise":
            raise KeyError("a mistake in the reader")
        elif content == b"eat":
            eaten = []
            while True:
                eaten.append(bytearray(1 << 24))
        elif content == b"write":
            Path(path).write_bytes(b"more than nothing")
        elif content == b"hang":
            while True:
                time.sleep(1)
        elif content.startswith(b"wait"):
            while not Path(self.gate).exists():
                time.sleep(0.01)
            return self.read(content[4:].decode())
        return self.read(path)
