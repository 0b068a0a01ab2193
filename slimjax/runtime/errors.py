"""The error of bundles, which names the file and what is wrong in it."""

from collections.abc import Iterator
import contextlib
import os


class BundleError(ValueError):
  """A folder is not a bundle, or has been changed since it was written."""


@contextlib.contextmanager
def refusing(path: str | os.PathLike | None) -> Iterator[None]:
  """Turns what a runtime raises of a bundle's file into a `BundleError`.

  Only what others wrote is run inside: XLA and ONNX Runtime have errors of
  their own for every kind of damage, without a class in common.

  Args:
    path: file or folder that is at fault; None if the program is our own, whose
      errors stay as they are.

  Raises:
    BundleError: something was raised; the text has the path and the reason.
  """
  try:
    yield
  except (BundleError, MemoryError):
    raise
  except Exception as error:
    if path is None:
      raise
    reason = str(error).strip().split('\n', 1)[0][:200]
    raise BundleError(
      f'{os.fspath(path)} cannot be run: {type(error).__name__}: {reason}'
    ) from error
