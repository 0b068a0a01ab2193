"""What the experiments on the paper's claims share.

A script has `experiments/` in its path and says `import evidence`.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from evidence.comparing import compare
from evidence.comparing import Errors
from evidence.comparing import spread
from evidence.comparing import table
from evidence.experiment import curve
from evidence.experiment import EIGHT
from evidence.experiment import errors_of
from evidence.experiment import Experiment
from evidence.experiment import FEW_FASHION
from evidence.experiment import ROOT
from evidence.pictures import plot
from evidence.pictures import plot_curves

__all__ = [
  'EIGHT',
  'FEW_FASHION',
  'ROOT',
  'Errors',
  'Experiment',
  'compare',
  'curve',
  'errors_of',
  'plot',
  'plot_curves',
  'spread',
  'table',
]
