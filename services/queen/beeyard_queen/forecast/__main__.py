"""`python -m beeyard_queen.forecast ...`: what `beeyard forecast score` runs."""

import sys

from beeyard_queen.simulator.scoring import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
