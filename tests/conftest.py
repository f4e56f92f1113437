"""Settings of all tests."""

import os

# Networks of tests are small: on several threads they are slower, and much slower where other tests run beside them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
