"""Refuses programs that would leave the program: what a bundle may not do.

StableHLO computes, but for operations that call code by its name or talk to the
host or to other devices. An unknown call, or one to a function of this process,
can end the process when it runs; so it is found before anything is compiled.

Reading damaged bytes can end the process, too: MLIR is not made for them. So
this file is also a program, which reads programs of unknown origin in a process
of its own. It imports neither jax nor slimjax, to start in a fifth of a second.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import os
import subprocess
import sys
from typing import Any

# Targets of custom calls, for every platform. All that the programs of our
# networks hold, for cpu, cuda and tpu, is how jax checks a symbolic batch;
# jax takes it out again when the batch is known.
ALLOWED = frozenset({'shape_assertion'})
_DIALECTS = frozenset({'builtin', 'chlo', 'func', 'stablehlo'})
# They wait for the host or for another device, or ask who they are.
_OUTSIDE = frozenset(
  f'stablehlo.{name}'
  for name in (
    'all_gather',
    'all_reduce',
    'all_to_all',
    'collective_broadcast',
    'collective_permute',
    'cross-replica-sum',
    'infeed',
    'outfeed',
    'partition_id',
    'recv',
    'reduce_scatter',
    'replica_id',
    'send',
  )
)
_SECONDS = 300  # a hundred programs of ResNet-50 take 3 on a free core


def check_code(code: bytes) -> None:
  """Raises ValueError if a program is damaged, or holds what is not allowed.

  Args:
    code: StableHLO, as a portable artifact.
  """
  # What jax.extend.mlir shows of it would import jax.
  from jaxlib.mlir import ir
  from jaxlib.mlir.dialects import sdy
  from jaxlib.mlir.dialects import stablehlo

  if not code:
    raise ValueError('it is empty')
  with ir.Context() as context:
    said: list[str] = []

    def listen(diagnostic: Any) -> bool:
      said.append(str(diagnostic.message))
      return True  # it is told here, and not on stderr

    sdy.register_dialect(context)  # notes on sharding, which do nothing
    handler: Any = context.attach_diagnostic_handler(listen)
    try:
      module = stablehlo.deserialize_portable_artifact(context, code)
      module.operation.verify()
      for operation in _operations(module.operation):
        _check(operation)
    except ir.MLIRError as error:
      raise ValueError(f'it is damaged: {error.message}') from error
    except ValueError as error:
      raise ValueError('; '.join([*said[:1], str(error)])) from error
    finally:
      handler.detach()


def check_apart(codes: Sequence[bytes]) -> tuple[int, str] | None:
  """Checks programs as `check_code` does, in a process of its own.

  Args:
    codes: the programs.

  Returns:
    None if all may be run; else the number of one that may not, and the reason.

  Raises:
    OSError: the process cannot be started.
  """
  lengths = ' '.join(str(len(code)) for code in codes)
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
  try:
    done = subprocess.run(
      [sys.executable, '-S', '-P', __file__],
      input=b''.join([lengths.encode(), b'\n', *codes]),
      capture_output=True,
      env=environment,
      timeout=_SECONDS,
      check=False,
    )
  except subprocess.TimeoutExpired:
    return 0, f'reading it takes more than {_SECONDS} s'
  lines = done.stdout.decode(errors='replace').splitlines()
  passed = lines.count('passed')
  if passed == len(codes) and not done.returncode:
    return None
  reason = next((line for line in lines if line != 'passed'), '')
  if not reason:
    words = done.stderr.decode(errors='replace').strip().splitlines()
    reason = f'reading it ended with status {done.returncode}' + (
      f': {words[-1][:200]}' if words else ''
    )
  return min(passed, len(codes) - 1), reason


def _check(operation: Any) -> None:
  from jaxlib.mlir import ir

  name = operation.name
  if name == 'stablehlo.custom_call':
    target = ir.StringAttr(operation.attributes['call_target_name']).value
    if target not in ALLOWED:
      raise ValueError(
        f'it calls {target[:80]!r}, which is not among what programs may call'
        f' ({", ".join(sorted(ALLOWED))})'
      )
  elif name in _OUTSIDE or name.partition('.')[0] not in _DIALECTS:
    raise ValueError(
      f'it holds the operation {name[:80]!r}, which programs may not'
    )


def _operations(operation: Any) -> Iterator[Any]:
  """Yields an operation and all inside it; no stack grows with the depth."""
  left = [operation]
  while left:
    operation = left.pop()
    yield operation
    for region in operation.regions:
      for block in region:
        left += [inner.operation for inner in block]


def main() -> None:
  """Reads lengths and programs from stdin; prints a line for each."""
  stream = sys.stdin.buffer
  for length in map(int, stream.readline().split()):
    try:
      check_code(stream.read(length))
    except ValueError as error:
      print(str(error).replace('\n', ' '))
      return
    print('passed', flush=True)


if __name__ == '__main__':
  main()
