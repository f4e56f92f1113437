"""One of several processes that train a world together, started by `processes.launch`: its configuration is read from
standard input, and the process ends where that does, so that it never outlives the one that started it."""

import logging
import os
import signal
import sys
import threading

from worldsim.errors import WorldsimError
from worldsim.training.config import TrainConfig
from worldsim.training.loop import train


def main() -> int:
    """Trains; the first process says what went wrong, because it goes wrong in all of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    config = TrainConfig.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with_the_input, daemon=True).start()
    try:
        train(config, progress=False)
    except WorldsimError:
        return 2
    return 0


def _end_with_the_input() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
