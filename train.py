"""Learn a world from rollouts: python train.py env=... model=... data=...   (the same as `worldsim train`)."""

import sys

from worldsim.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
