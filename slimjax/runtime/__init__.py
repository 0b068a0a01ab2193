"""Serves one artefact at any width, chosen by measurement.

```
export(model, variables, 'BUNDLE', image_size=32)     a folder
net = load('BUNDLE')                                  net(images, width=0.5)
table = net.benchmark()                               on this device
controller = Controller(table, budget_ms=5.0)         controller.pick()
cascade = Cascade(net, thresholds=thresholds)         cascade(images)
slimjax.load('BUNDLE').predict('three.png')           classes, or objects
```

Only `export` imports the source of models, when it is first used.
"""

from typing import Any
from typing import TYPE_CHECKING

from slimjax.runtime.bundle import record_cascade
from slimjax.runtime.cascade import Cascade
from slimjax.runtime.cascade import cascade_rows
from slimjax.runtime.controller import Controller
from slimjax.runtime.errors import BundleError
from slimjax.runtime.loading import load
from slimjax.runtime.manifest import Manifest
from slimjax.runtime.measuring import measure
from slimjax.runtime.measuring import record
from slimjax.runtime.network import Network
from slimjax.runtime.predictor import Predictor
from slimjax.runtime.table import Table
from slimjax.runtime.thresholds import choose_thresholds
from slimjax.runtime.thresholds import Thresholds

if TYPE_CHECKING:
  from slimjax.runtime.writer import export

__all__ = [
  'BundleError',
  'Cascade',
  'Controller',
  'Manifest',
  'Network',
  'Predictor',
  'Table',
  'Thresholds',
  'cascade_rows',
  'choose_thresholds',
  'export',
  'load',
  'measure',
  'record',
  'record_cascade',
]


def __getattr__(name: str) -> Any:
  if name == 'export':
    from slimjax.runtime.writer import export

    return export
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
