"""What if a thin network is trained first, frozen, and widened? (Section 3.1.)

    python experiments/incremental_training/measure.py

See README.md; the options are those of experiments/evidence.
"""

import functools
import itertools
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import evidence
import jax
from jax import lax
import jax.numpy as jnp
import optax

from slimjax.evaluate import load_run


def widened(model, variables, *, base):
  """Returns the variables with a thinner run's parameters as leading part.

  Args:
    model: the wider model.
    variables: variables of the model, as drawn.
    base: folder of the thinner run.
  """
  del model
  _, _, thin, _ = load_run(base)
  params = jax.tree.map(
    lambda new, old: lax.dynamic_update_slice(
      new, jnp.asarray(old), [0] * new.ndim
    ),
    variables['params'],
    thin['params'],
  )
  return {**variables, 'params': params}


def frozen(base):
  """Returns a transformation that freezes the leading part of the parameters.

  The classifier's bias, which has no new part, is frozen too; the norms of the
  wider network are new and all trained.
  """
  _, _, thin, _ = load_run(base)
  shapes = jax.tree.map(jnp.shape, thin['params'])

  def update(updates, state, params=None):
    del params
    params = jax.tree.map(
      lambda x, shape: lax.dynamic_update_slice(
        x, jnp.zeros(shape, x.dtype), [0] * x.ndim
      ),
      updates['params'],
      shapes,
    )
    return {**updates, 'params': params}, state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments)
  base = experiment.get(0)
  name, widths = base.model.name, base.model.widths
  alone = experiment.individual(name, widths, experiment.alone)
  joint = experiment.errors(f'{name}_slimmable', experiment.get)

  grown = {}
  for thin, wide in itertools.pairwise(widths):
    for seed in range(experiment.seeds):
      start = experiment.train(
        f'{name}_alone_{thin}', experiment.alone(seed, thin)
      )
      path = experiment.train(
        f'{name}_grown_{thin}_{wide}',
        experiment.alone(seed, wide),
        initial=functools.partial(widened, base=start),
        last=frozen(start),
      )
      grown.setdefault(str(wide), []).extend(evidence.errors_of(path).values())

  thin = {
    str(wide): alone[str(thin)] for thin, wide in itertools.pairwise(widths)
  }
  errors = {
    'before it was widened': thin,
    'incremental': grown,
    'individual': alone,
    'slimmable': joint,
  }
  for other in ('before it was widened', 'individual', 'slimmable'):
    print()
    print(evidence.table(other, errors[other], 'incremental', grown))
  title = f'{name} on {experiment.config.stem}, widened'
  evidence.plot(experiment.out / 'errors.png', title, errors)
  experiment.write(
    {
      'errors': errors,
      **{
        f'incremental - {other}': evidence.compare(errors[other], grown)
        for other in errors
        if other != 'incremental'
      },
    }
  )


if __name__ == '__main__':
  main()
