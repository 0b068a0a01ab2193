"""What the experiments on speed share.

A script has `experiments/` in its path and says `from speed import ...`.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
