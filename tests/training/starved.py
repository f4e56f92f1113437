"""Trains by the configuration in the file that is given, with as much memory as that number of bytes more.

python -m tests.training.starved config.json 1000000000
"""

import resource
import sys
from pathlib import Path

from worldsim.errors import ConfigError
from worldsim.training.config import TrainConfig
from worldsim.training.loop import train

config = TrainConfig.model_validate_json(Path(sys.argv[1]).read_text())
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    train(config, progress=False)
except ConfigError as error:
    sys.exit(str(error))
