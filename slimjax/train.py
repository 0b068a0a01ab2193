"""Trains a slimmable network, or resumes a run that was stopped.

python -m slimjax.train --config=digits --workdir=runs/digits
"""

from collections.abc import Sequence

from absl import flags

from slimjax import cli
from slimjax.training import processes
from slimjax.training.log import NonFiniteError
from slimjax.training.loop import train_and_evaluate

__all__ = ['NonFiniteError', 'train_and_evaluate']


def main(argv: Sequence[str]) -> None:
  with processes.joined():
    train_and_evaluate(
      _CONFIG.value, _WORKDIR.value, profile_steps=_PROFILE_STEPS.value
    )


if __name__ == '__main__':
  _CONFIG = cli.define_config()
  _WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of the run.', required=True
  )
  _PROFILE_STEPS = flags.DEFINE_integer(
    'profile_steps',
    0,
    'Number of steps to trace into WORKDIR/profile.',
    lower_bound=0,
  )
  processes.define_flags()
  cli.run(main)
