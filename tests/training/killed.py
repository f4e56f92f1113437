"""Trains by the configuration in the file that is given, and is killed by SIGKILL in the middle of a save.

python -m tests.training.killed config.json <number of the file that is never finished>
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import safetensors.torch

from worldsim.models import checkpoint
from worldsim.training.config import TrainConfig
from worldsim.training.loop import train

LEFT = [int(sys.argv[2])]


def save_file(tensors: dict[str, Any], path: Path) -> None:
    LEFT[0] -= 1
    safetensors.torch.save_file(tensors, path)
    if LEFT[0] == 0:
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)


checkpoint.save_file = save_file
train(TrainConfig.model_validate_json(Path(sys.argv[1]).read_text()), progress=False)
