"""python -m worldsim: the command line without an installed script."""

import sys

from worldsim.cli import main

sys.exit(main())
