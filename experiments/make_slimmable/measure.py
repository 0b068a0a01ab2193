"""What does sorting the channels of a trained network give thin widths?

    python experiments/make_slimmable/measure.py

See README.md; the options are those of experiments/evidence.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import evidence
import jax

from slimjax import configuration
from slimjax import load_weights
from slimjax import make_slimmable
from slimjax.data.batches import Corrupt
from slimjax.data.batches import Share
from slimjax.training.evaluator import Evaluator
from slimjax.training.setup import set_up
from slimjax.variables.calibrating import calibrate

EPOCHS = 2  # of fine-tuning; a network from nothing has 6
BATCHES = 5  # of 96 images, to calibrate with


def begun(experiment, seed, base):
  """Returns errors before any fine-tuning: {variant: {width: error}}."""
  config = experiment.get(seed)
  built = set_up(configuration.parse(config), None)
  errors = {}
  for sorts, kind in ((False, 'as they are'), (True, 'sorted')):
    for batches, then in ((None, ''), (calibration(built), ', calibrated')):
      if sorts:
        variables = make_slimmable(built.model, base, batches)
      else:
        variables = load_weights(built.model, base)
        if batches is not None:
          thin = built.model.ordered_widths[:-1]
          variables = calibrate(built.model, variables, batches, widths=thin)
      errors[kind + then] = score(built, variables)
  return errors


def calibration(built):
  """Returns batches of the training images, augmented as in training."""
  images = 96 if len(built.dataset.splits['train']) >= 96 else 8
  reader = built.dataset.train_batches(
    images,
    seed=0,
    steps=range(BATCHES),
    share=Share(0, 1),
    corrupt=Corrupt(0),
  )
  augment = jax.jit(built.dataset.augment)
  return [
    augment(jax.random.key(step), batch)['image']
    for step, batch in enumerate(reader)
  ]


def score(built, variables):
  evaluator = Evaluator(
    built.model,
    built.task,
    built.mesh,
    built.dataset,
    widths=built.model.ordered_widths,
    batch_size=built.run.eval_batch_size,
  )
  return {str(w): s['top1_error'] for w, s in evaluator(variables).items()}


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments)
  name = experiment.get(0).model.name
  widest = experiment.get(0).model.widths[-1]
  bases = [
    experiment.train(f'{name}_alone_{widest}', experiment.alone(seed, widest))
    for seed in range(experiment.seeds)
  ]

  before = {}
  for seed, base in enumerate(bases):
    for variant, errors in begun(experiment, seed, base).items():
      for width, error in errors.items():
        before.setdefault(variant, {}).setdefault(width, []).append(error)

  def short(seed, **init):
    config = experiment.get(seed)
    config.epochs = min(EPOCHS, config.epochs)
    config.init.update(init)
    return config

  after = {
    'as they are': experiment.errors(
      f'{name}_begun', lambda seed: short(seed, source=str(bases[seed]))
    ),
    'sorted': experiment.errors(
      f'{name}_begun_sorted',
      lambda seed: short(seed, source=str(bases[seed]), sort='l1'),
    ),
    'from nothing': experiment.errors(f'{name}_short', short),
  }

  for file, when, errors in (
    ('before.png', 'before', before),
    ('after.png', 'after', after),
  ):
    title = f'{name} made slimmable, {when} fine-tuning'
    evidence.plot(experiment.out / file, title, errors)
  comparisons = {}
  for when, one, other, errors in (
    ('before', 'as they are', 'sorted', before),
    ('before', 'as they are, calibrated', 'sorted, calibrated', before),
    ('after', 'as they are', 'sorted', after),
    ('after', 'from nothing', 'sorted', after),
  ):
    print(f'\n{when} fine-tuning')
    print(evidence.table(one, errors[one], other, errors[other]))
    comparisons[f'{when}: {other} - {one}'] = evidence.compare(
      errors[one], errors[other]
    )
  experiment.write(
    {
      'errors': {**_when('before', before), **_when('after', after)},
      **comparisons,
    }
  )


def _when(when, errors):
  return {f'{when}: {name}': of_width for name, of_width in errors.items()}


if __name__ == '__main__':
  main()
