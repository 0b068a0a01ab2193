"""What if all widths share one batch normalisation? (Section 3.1, figure 2.)

    python experiments/naive_training/measure.py

See README.md; the options are those of experiments/evidence.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import evidence

NAIVE = ('norm', 'batch_stats')


def main(arguments=None):
  experiment = evidence.Experiment.parse(__file__, arguments)
  name = experiment.get(0).model.name
  switchable = experiment.errors(f'{name}_slimmable', experiment.get)
  naive = experiment.errors(
    f'{name}_naive', lambda seed: experiment.get(seed, shared=NAIVE)
  )
  print(evidence.table('switchable', switchable, 'naive', naive))

  paths = {
    'switchable': experiment.workdir / f'{name}_slimmable_seed0',
    'naive': experiment.workdir / f'{name}_naive_seed0',
  }
  training = {}
  for variant, path in paths.items():
    curves = evidence.curve(path, 'train', 'top1_error')
    widest = max(curves, key=float)
    training[variant] = {widest: curves[widest]}
  evidence.plot_curves(
    experiment.out / 'training.png',
    'Training error of the widest, seed 0',
    training,
    'training error, %',
  )
  errors = {'switchable': switchable, 'naive': naive}
  evidence.plot(
    experiment.out / 'errors.png',
    f'{name} on {experiment.config.stem}: private norms, or one',
    errors,
  )
  experiment.write(
    {
      'errors': errors,
      'naive - switchable': evidence.compare(switchable, naive),
      'training_error': training,
    }
  )


if __name__ == '__main__':
  main()
