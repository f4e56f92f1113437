"""An agent team that only breaks its own tools does not wait for torch."""

import subprocess
import sys

PROGRAM = """
import sys, time
start = time.process_time()
import worldsim.wrappers
print(time.process_time() - start, "torch" in sys.modules, "scipy" in sys.modules, "hydra" in sys.modules)
"""


def test_importing_the_wrappers_is_quick_and_loads_no_torch() -> None:
    seconds = []
    for _ in range(3):
        out = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout.split()
        assert out[1:] == ["False"] * 3
        seconds.append(float(out[0]))
    assert min(seconds) <= 0.5
