"""Lists what networks are trained for; a task of a user's own is one class."""

from collections.abc import Callable

from slimjax.tasks.base import Metric
from slimjax.tasks.base import Task
from slimjax.tasks.classification import Classification
from slimjax.tasks.detection.task import Detection

# Tasks by the name in a configuration; their attributes are the section `loss`.
TASKS: dict[str, Callable[..., Task]] = {
  'classification': Classification,
  'detection': Detection,
}

__all__ = ['TASKS', 'Classification', 'Detection', 'Metric', 'Task']
