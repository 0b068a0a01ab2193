"""What a user's own names stand for: checked, and told from ours."""

import dataclasses

from flax import linen as nn
import pytest
from tiny_net import get_config

import slimjax
from slimjax import configuration
from slimjax.data import create_dataset
from slimjax.data import digits
from slimjax.tasks import Classification
from slimjax.training.plans import AllWidths
from slimjax.training.runs import build_plan
from slimjax.training.runs import build_task
from slimjax.training.runs import defaults
from slimjax.training.session import claim


def own_digits(*, image_size=32, noise=40.0, rates=(0.1, 0.2)):
  """A data set of a user's own; an image size of 224 is not its default."""
  del image_size, noise, rates
  return digits.create()


def nothing(**options):
  del options


class NoNet(nn.Module):
  num_classes: int
  widths: tuple


def makes_a_dense(num_classes, widths):
  del widths
  return nn.Dense(num_classes)


def of_test_alone():
  dataset = digits.create()
  return dataclasses.replace(dataset, splits={'test': dataset.splits['test']})


class Scale:
  """Has no hash, as its instances can be equal."""

  __hash__ = None

  def __call__(self, images):
    return images / 255


def unhashable_preprocess():
  return dataclasses.replace(digits.create(), preprocess=Scale())


def list_of_sizes():
  return dataclasses.replace(digits.create(), image_size=[24, 32])


@dataclasses.dataclass
class NotFrozen:
  metrics = Classification.metrics
  example = loss = summarise = predict = check = nothing
  measure = accumulate = score = nothing


@dataclasses.dataclass(frozen=True)
class NoMetrics(Classification):
  metrics = ()


@dataclasses.dataclass(frozen=True)
class Half:
  widths: tuple

  def check(self, model, dataset):
    pass


def other_widths(widths):
  del widths
  return AllWidths((0.75,))


def _of(name):
  return f'{__name__}:{name}'


def _run(**overrides):
  return configuration.parse(get_config(**overrides))


@pytest.mark.parametrize(
  'old, new, changed',
  [
    ({}, {'image_size': 224}, 'config.data.image_size: 32 before, 224 now'),
    ({'noise': 1.0}, {}, 'config.data.noise: 1.0 before, 40.0 now'),
    ({}, {'image_size': 32, 'noise': 40.0, 'rates': [0.1, 0.2]}, None),
  ],
)
def test_a_run_on_own_data_knows_their_defaults(tmp_path, old, new, changed):
  def config(options):
    return get_config(data={'name': _of('own_digits'), **options})

  claim(tmp_path, config(old), digits.create())
  (tmp_path / 'checkpoints' / '1').mkdir(parents=True)
  if changed is None:
    assert claim(tmp_path, config(new), digits.create()) == []
  else:
    with pytest.raises(ValueError, match=changed):
      claim(tmp_path, config(new), digits.create())


def test_defaults_are_those_of_what_is_named():
  found = defaults(
    configuration.as_plain(get_config(data={'name': _of('own_digits')}))
  )
  data = {k: v for k, v in found.items() if k.startswith('config.data.')}
  assert data == {
    'config.data.image_size': 32,
    'config.data.noise': 40.0,
    'config.data.rates': [0.1, 0.2],
  }


@pytest.mark.parametrize(
  'name, says',
  [
    ('NoNet', 'is a class, but no SlimNet; .*class Net'),
    ('makes_a_dense', 'returns Dense; a network is a slimjax.SlimNet'),
  ],
)
def test_a_model_is_a_slimnet(name, says):
  with pytest.raises(ValueError, match=says):
    slimjax.create_model(_of(name), num_classes=3, widths=(0.5, 1.0))


@pytest.mark.parametrize(
  'name, says',
  [
    ('nothing', 'returns NoneType; a slimjax.data.dataset.Dataset is needed'),
    ('of_test_alone', 'has the splits test, but not train'),
    ('list_of_sizes', r'image_size must be .*got \[24, 32\]'),
    ('unhashable_preprocess', 'preprocess is Scale; .*frozen dataclass'),
  ],
)
def test_data_are_a_dataset(name, says):
  with pytest.raises(ValueError, match=f'{name}.*{says}'):
    create_dataset({'name': _of(name)})


@pytest.mark.parametrize(
  'name, says',
  [
    ('nothing', 'NoneType is no task, as it has no metrics, check, example,'),
    ('NotFrozen', 'NotFrozen is not hashable, .*frozen dataclass'),
    ('NoMetrics', r'metrics must be a tuple of slimjax.tasks.Metric.*\(\)'),
  ],
)
def test_a_task_has_all_that_programs_ask_of_it(name, says):
  run = _run(task={'name': _of(name)}, loss={})
  with pytest.raises(ValueError, match=f'{name}.*{says}'):
    build_task(run)


@pytest.mark.parametrize(
  'name, says',
  [
    ('Half', r'Half is no width plan: plan\(step\) gives'),
    ('other_widths', r'gives the widths \[0.75\], which are not among'),
  ],
)
def test_a_plan_gives_widths_of_the_model(name, says):
  run = _run(plan={'name': _of(name)})
  model = slimjax.create_model('resnet14', num_classes=3, widths=(0.5, 1.0))
  with pytest.raises(ValueError, match=f'{name}.*{says}'):
    build_plan(run, model)


def test_a_section_of_another_data_set_is_said_to_be_one():
  """As --config=digits --config.data.name=... makes it."""
  name = _of('own_digits')
  section = {**_run().data, 'name': name}
  with pytest.raises(ValueError, match='not read by anything') as caught:
    create_dataset(section)
  first, second, *rest = str(caught.value).splitlines()
  assert first == f'config.data.name is {name!r}'
  assert 'config.data.max_shift is not read by anything' in second
  assert f"config.data = {{'name': {name!r}, ...}}" in '\n'.join(rest)


def test_a_section_of_another_task_is_said_to_be_one():
  run = _run(task={'name': _of('Half')})
  with pytest.raises(ValueError, match='label_smoothing is not') as caught:
    build_task(run)
  said = str(caught.value)
  assert said.startswith(f'config.task.name is {_of("Half")!r}\n')
  assert f"config.task = {{'name': {_of('Half')!r}}}\n" in said
  assert 'config.loss = {...}\n' in said
  assert len(said.splitlines()) <= 15


def test_a_name_of_ones_own_needs_a_colon():
  with pytest.raises(ValueError, match=r"a colon: 'my_package\.nets:Net'$"):
    slimjax.create_model('my_package.nets.Net', num_classes=3, widths=(1.0,))
  with pytest.raises(ValueError, match='resnet14, .*keypoint_rcnn$'):
    slimjax.create_model('vgg', num_classes=3, widths=(1.0,))
