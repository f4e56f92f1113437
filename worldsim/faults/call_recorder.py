"""Records calls as JSON lines that `worldsim faults fit` reads: one call a line, as its caller saw it."""

import json
import threading
from pathlib import Path
from typing import Any

from worldsim.errors import ConfigError
from worldsim.faults.calls import Reply


class CallRecorder:
    """Appends calls to a file. Arguments and results are left out: they may be confidential.

    Lines are written whole, one at a time, whatever threads and tasks write them.

    Raises ConfigError for a path that cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"record={path} cannot be written ({error.strerror}); check the path") from error

    def add(self, session: str, tool: str, start_s: float, reply: Reply, failure: str | None) -> None:
        """One call that began `start_s` seconds after 1970 did. failure: what the tool itself raised."""
        call: dict[str, Any] = {
            "session": session,
            "tool": tool,
            "start": round(start_s, 6),
            "latency_s": round(reply.latency_s, 6),
            "ok": reply.ok and failure is None,
        }
        call |= {"error": reply.error or failure} if not call["ok"] else {}
        call |= {} if reply.retry_after_s is None else {"retry_after_s": reply.retry_after_s}
        with self._lock:
            self._file.write(json.dumps(call, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
