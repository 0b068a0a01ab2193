"""Writes points for TensorBoard: a point that is written is in its file.

The writers that tensorboardX offers hand points to a thread, whose queue dies
with a process that is killed. This one uses what stands below them.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import os
import time
from typing import Any

from etils import epath

from slimjax import files
from slimjax.widths import switch_name

_SAFE = 'What was logged before is safe'
_NO_POINTS = ('split', 'step', 'width')


class Events:
  """A file of points, for each number of a record one."""

  def __init__(self, folder: epath.Path, *, first_step: int):
    """Opens a new file beside those of a run before it resumed.

    Args:
      folder: folder of the files; it is made if need be.
      first_step: points of later steps in older files are hidden.
    """
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2

    files.make_folder(folder)
    self._path = folder
    with files.writing(folder, _SAFE):
      self.is_first = not any(folder.iterdir())
      # Its own name has seconds, within which a run may resume.
      suffix = f'.{os.getpid()}.{time.time_ns()}'
      self._writer = EventsWriter(str(folder / 'events'), suffix)
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._write(event_pb2.Event(step=first_step + 1, session_log=start))
      self._writer.flush()

  def write(self, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes records as `MetricsWriter` does; they are in the file then."""
    from tensorboardX.proto import event_pb2
    from tensorboardX.summary import scalar

    with files.writing(self._path, _SAFE):
      for record in records:
        switch = switch_name(record['width'])
        for name, value in record.items():
          if name not in _NO_POINTS and isinstance(value, int | float):
            summary = scalar(f'{record["split"]}/{name}/{switch}', value)
            self._write(event_pb2.Event(step=record['step'], summary=summary))
      self._writer.flush()

  def _write(self, event: Any) -> None:
    event.wall_time = time.time()
    self._writer.write_event(event)

  def close(self) -> None:
    """Closes the file, in which everything is."""
    with files.writing(self._path, _SAFE):
      self._writer.close()
