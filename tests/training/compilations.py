"""Counts what is compiled while a function runs."""

import collections

import jax


class Compilations:
  """Counts the programs that this process has compiled.

  Attributes:
    counts: how many they were before and after each call of a function.
  """

  def __init__(self, patch, **functions):
    """
    Args:
      patch: a `pytest.MonkeyPatch`.
      **functions: (class, name of a method) by the key of its count.
    """
    self.counts = collections.defaultdict(list)
    self._compiled = 0
    jax.monitoring.register_event_duration_secs_listener(self._listen)
    for key, (owner, name) in functions.items():
      patch.setattr(owner, name, self._counting(key, getattr(owner, name)))

  def _listen(self, event, *_, **__):
    self._compiled += event.endswith('backend_compile_duration')

  def _counting(self, key, function):
    def call(*args, **kwargs):
      self.counts[key].append(self._compiled)
      result = function(*args, **kwargs)
      self.counts[key].append(self._compiled)
      return result

    return call

  def close(self):
    jax.monitoring.unregister_event_duration_listener(self._listen)
