"""Runs that begin with weights, and train a part of them."""

import json
import shutil

import ends
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_net import get_config
from tiny_net import NAME
from tiny_net import STEPS

import slimjax
from slimjax import cli
from slimjax import configuration
from slimjax.tasks.classification import Classification
from slimjax.training import processes
from slimjax.training import setup
from slimjax.training.initial import create_init
from slimjax.training.loop import train_and_evaluate
from slimjax.training.mesh import data_mesh
from slimjax.training.mesh import replicate
from slimjax.training.mesh import shard
from slimjax.training.optim import sgd
from slimjax.training.parts import find_parts
from slimjax.training.parts import partly
from slimjax.training.runs import load_run
from slimjax.training.state import TrainState
from slimjax.training.steps import make_train_step

WIDTHS = (0.125, 0.25)
PARTS = {
  'init__freeze': 'stem,unit1/depthwise',
  'init__rate_factors': 'classifier=10',
  'optimizer__weight_decay': 0.1,
}


@pytest.fixture(scope='module', autouse=True)
def one_device():
  with pytest.MonkeyPatch.context() as patch:
    mesh = data_mesh(jax.devices()[:1])
    patch.setattr(setup, 'data_mesh', lambda: mesh)
    yield


@pytest.fixture(scope='module')
def first(tmp_path_factory):
  """Returns a finished run, whose compiled programs the others use."""
  workdir = tmp_path_factory.mktemp('first') / 'run'
  train_and_evaluate(get_config(**PARTS), workdir)
  return workdir


def flat(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


# From a run to the next.


def test_a_run_begins_with_another_and_trains_a_part(
  first, tmp_path, capsys, monkeypatch
):
  """It is stopped, its source is lost, and it ends as if nothing had been."""
  source = shutil.copytree(first, tmp_path / 'source')
  config = get_config(**PARTS, init__source=str(source))
  workdir = tmp_path / 'run'
  with monkeypatch.context() as stopping:
    after = lambda self, step: step == STEPS + 3
    stopping.setattr(processes.Stop, 'after', after)
    assert train_and_evaluate(config, workdir) is None
  said = capsys.readouterr().out
  before = flat(load_run(source)[2])
  assert f'took {len(before)} of {len(before)} tensors of {source}' in said
  assert 'frozen: 10 of' in said  # two kernels, two norms at two widths
  assert 'learning rate times 10: 2 tensors' in said
  recorded = json.loads((workdir / 'config.json').read_text())['init']
  assert recorded['source'] == str(source)
  shutil.rmtree(source)
  stopped = train_and_evaluate(config, workdir)
  assert 'took' not in capsys.readouterr().out
  after = flat(load_run(workdir)[2])
  frozen = [
    name for name in before if '/stem/' in name or 'unit1/depthwise' in name
  ]
  assert len(frozen) == 18  # the statistics of four norms among them
  for name in before:
    same = np.array_equal(before[name], after[name])
    assert same == (name in frozen), name
  # Nothing of it depends on where it was stopped.
  whole = get_config(**PARTS, init__source=str(first))
  assert train_and_evaluate(whole, tmp_path / 'whole') == stopped
  for name, array in flat(load_run(tmp_path / 'whole')[2]).items():
    np.testing.assert_array_equal(array, after[name])


def test_a_run_does_not_begin_again_by_itself(
  first, tmp_path, capsys, monkeypatch
):
  """Its only checkpoint is damaged; moved away, it begins with the source."""
  monkeypatch.setattr(processes.Stop, 'after', lambda self, step: step == 1)
  config = get_config(**PARTS, init__source=str(first))
  workdir = tmp_path / 'run'
  assert train_and_evaluate(config, workdir) is None
  (checkpoint,) = (workdir / 'checkpoints').glob('[0-9]*')
  (checkpoint / 'position' / 'metadata').write_text('{')
  before = ends.files(workdir)
  says = r'is whole:\s+step 1: position/metadata has 1 bytes'
  with pytest.raises(ValueError, match=says):
    train_and_evaluate(config, workdir)
  assert ends.files(workdir) == before
  (workdir / 'checkpoints').rename(tmp_path / 'away')
  capsys.readouterr()
  assert train_and_evaluate(config, workdir) is None
  assert f'tensors of {first}' in capsys.readouterr().out
  old, new = (flat(load_run(path)[2]) for path in (first, workdir))
  stem = 'params/stem/conv/kernel'  # it is frozen
  np.testing.assert_array_equal(new[stem], old[stem])


def test_other_widths_and_classes(first, tmp_path, capsys):
  """A thinner network, whose middle width takes the norms of the widest."""
  model = slimjax.create_model(NAME, num_classes=3, widths=(0.125, 0.2, 0.25))
  reports = []
  variables = slimjax.load_weights(model, first, report=reports.append)
  source = load_run(first)[2]
  (taken,) = reports
  count = len(flat(source))
  assert str(taken).startswith(
    f'took {count - 2} of {count} tensors of {first}'
  )
  assert str(taken).endswith(
    'new: the classifier, 10 -> 3 classes; norms of 0.2 from 0.25'
  )
  for width, other in ((0.125, 0.125), (0.2, 0.25), (0.25, 0.25)):
    old, new = (
      v['batch_stats'][model.clone(widths=(w,)).switch(w)]['unit1']['pointwise']
      for v, w in ((source, other), (variables, width))
    )
    channels = model.channels(width)[1]
    np.testing.assert_array_equal(
      new['norm']['var'], old['norm']['var'][:channels]
    )
  assert variables['params']['classifier']['kernel'].shape == (64, 3)
  # And one that is wider.
  wide = slimjax.create_model(NAME, num_classes=10, widths=(0.5,))
  with pytest.raises(
    ValueError, match='no width with the channels .*0.125, 0.25'
  ):
    slimjax.load_weights(wide, first)


def test_the_channels_of_a_source_are_sorted(first):
  """As make_slimmable does; norms that do not fit should not be frozen."""
  config = get_config(
    init__source=str(first),
    init__sort='l1',
    init__freeze='norm/w020',
    model__widths=(0.2, 0.25),
  )
  built = setup.set_up(configuration.parse(config), None)
  lines = []
  state = setup.new_state(built, None, lines.append)
  expected = slimjax.make_slimmable(built.model, first)
  jax.tree.map(np.testing.assert_array_equal, state.variables, expected)
  assert 'norms of 0.2 from 0.25; channels sorted by l1' in lines[0]
  assert lines[1].startswith('the frozen norms of 0.2 are of a wider width')


def test_the_refusal_names_the_way_to_train_on(first):
  with pytest.raises(ValueError, match='another configuration') as error:
    train_and_evaluate(get_config(epochs=3), first)
  assert f'--workdir=ANOTHER --config.init.source={first}' in str(error.value)


def test_a_source_that_is_wrong_leaves_nothing_behind(tmp_path):
  workdir = tmp_path / 'run'
  config = get_config(init__source=str(tmp_path / 'nowhere'))
  with pytest.raises(FileNotFoundError, match='there is no nowhere in'):
    train_and_evaluate(config, workdir)
  assert not workdir.exists()


# The section.


@pytest.mark.parametrize(
  'section, expected',
  [
    ({}, ((), ())),
    ({'freeze': 'stem, unit*'}, (('stem', 'unit*'), ())),
    ({'freeze': ['stem']}, (('stem',), ())),
    ({'rate_factors': 'a=2,b=0.5'}, ((), (('a', 2.0), ('b', 0.5)))),
    ({'rate_factors': ('a=2',)}, ((), (('a', 2.0),))),
    ({'rate_factors': {'a': 2}}, ((), (('a', 2.0),))),
  ],
)
def test_spellings_of_the_section(section, expected):
  init = create_init(**section)
  assert (init.freeze, init.rate_factors) == expected


@pytest.mark.parametrize(
  'section, message',
  [
    ({'source': ''}, 'source must be a path'),
    ({'source': 'x', 'sort': 'L1'}, "must be one of l1, .*got 'L1'"),
    ({'sort': 'l1'}, 'there is no source'),
    ({'epsilon': 0.0}, 'of a source, but there is no source'),
    ({'source': 'x', 'epsilon': -1.0}, 'epsilon must be a finite number'),
    ({'freeze': 3}, "patterns of paths, such as 'stem,unit1', got 3"),
    ({'rate_factors': 'stem'}, "such as 'classifier=10'"),
    ({'rate_factors': 'stem=0'}, 'freeze leaves a part untrained'),
    ({'rate_factors': {'stem': float('nan')}}, 'factors above zero'),
  ],
)
def test_a_section_that_is_wrong(section, message):
  with pytest.raises(ValueError, match=message):
    create_init(**section)


def test_any_configuration_takes_it_on_the_command_line(tmp_path, monkeypatch):
  """Also a user's own, which was written before there was such a section."""
  file = tmp_path / 'own.py'
  file.write_text(
    'from slimjax.configs import digits\n\n\n'
    'def get_config():\n'
    '  config = digits.get_config()\n'
    '  del config.init\n'
    '  return config\n'
  )
  from absl import flags

  values = flags.FlagValues()
  holder = cli.define_config(flag_values=values)
  arguments = [
    'train',
    f'--config={file}',
    '--config.init.source=runs/a',
    '--config.init.freeze=stem,unit1',
    '--config.init.rate_factors=classifier=10',
  ]
  monkeypatch.setattr('sys.argv', arguments)
  values(arguments)
  run = configuration.parse(holder.value)
  assert create_init(**run.init) == create_init(
    source='runs/a', freeze='stem,unit1', rate_factors='classifier=10'
  )


# The parts.


def model(**options):
  return slimjax.create_model(NAME, num_classes=10, widths=WIDTHS, **options)


def names(paths):
  return sorted('/'.join(path) for path in paths)


def test_patterns_name_parts():
  frozen = lambda *patterns: names(find_parts(model(), patterns).frozen)
  assert frozen('classifier') == [
    'params/classifier/bias',
    'params/classifier/kernel',
  ]
  assert frozen('stem/norm/bias') == [
    'norm/w0125/stem/norm/bias',
    'norm/w025/stem/norm/bias',
  ]
  assert frozen('norm/w025/unit?/depthwise') == [
    f'norm/w025/unit{i}/depthwise/norm/{leaf}'
    for i in (1, 2)
    for leaf in ('bias', 'scale')
  ]
  everywhere = frozen('norm', 'unit1')
  assert len([n for n in everywhere if n.startswith('norm/')]) == 20
  assert len([n for n in everywhere if n.startswith('params/')]) == 2


@pytest.mark.parametrize(
  'patterns, message',
  [
    (['unti1'], "'unti1' matches nothing of TinyNet; is it unit1"),
    (
      ['zzz'],
      "'zzz' matches nothing .*there are classifier, stem, unit1, unit2",
    ),
    (['stem', 'unit'], "'unit' matches nothing"),
    (['*'], 'leaves nothing to train'),
  ],
)
def test_patterns_that_do_not_help(patterns, message):
  with pytest.raises(ValueError, match=message):
    find_parts(model(), patterns)


def test_the_first_factor_that_matches_counts():
  parts = find_parts(
    model(), ['stem'], [('classifier/bias', 2.0), ('params', 3.0)]
  )
  (bias, two), (others, three) = parts.scaled
  assert (two, three) == (2.0, 3.0)
  assert names(bias) == ['params/classifier/bias']
  assert 'params/classifier/bias' not in names(others)
  assert not parts.frozen & others
  assert 'params/classifier/kernel' in names(others)


def test_parts_change_the_update_and_nothing_else():
  """Frozen: no decay, no momentum, no share in the clipped norm."""
  variables = slimjax.init(model(), jax.random.key(0), image_size=32)
  tree = {name: variables[name] for name in ('params', 'norm')}
  random = np.random.default_rng(0)
  gradients = jax.tree.map(
    lambda x: jnp.float32(random.standard_normal(x.shape)), tree
  )
  parts = find_parts(model(), ['stem'], [('classifier', 10.0)])
  plain = sgd(optax.constant_schedule(0.1), weight_decay=0.01, clip_norm=1.0)
  optimizer = partly(plain, parts)
  state = optimizer.init(tree)
  updates, state = jax.jit(optimizer.update)(gradients, state, tree)
  # The same by hand, of what is trained.
  held = jax.tree_util.tree_map_with_path(
    lambda path, g: jnp.zeros_like(g) if 'stem' in map(_key, path) else g,
    gradients,
  )
  expected, _ = jax.jit(plain.update)(held, plain.init(tree), tree)
  for name, update in flat(updates).items():
    if '/stem/' in name:
      assert not update.any(), name
    else:
      factor = 10 if 'classifier' in name else 1
      np.testing.assert_allclose(
        update, factor * flat(expected)[name], rtol=1e-5, err_msg=name
      )
  numbers = lambda t: sum(x.size for x in jax.tree.leaves(t))
  stem = numbers([x for n, x in flat(tree).items() if '/stem/' in n])
  assert numbers(state) == numbers(plain.init(tree)) - stem
  assert partly(plain, find_parts(model())) is plain  # as old checkpoints


def _key(entry):
  return entry.key


def test_frozen_norms_run_as_in_evaluation():
  """The loss of a step is that of the running statistics, in frozen norms."""
  net = model()
  parts = find_parts(net, ['stem', 'unit*'])
  variables = slimjax.init(net, jax.random.key(0), image_size=32)
  random = np.random.default_rng(0)
  variables['batch_stats'] = jax.tree.map(
    lambda x: jnp.float32(random.uniform(0.5, 1.5, x.shape)),
    variables['batch_stats'],
  )
  batch = {
    'image': random.standard_normal((8, 32, 32, 3)).astype(np.float32),
    'label': np.arange(8, dtype=np.int32),
  }
  before = flat(variables)
  logits = slimjax.apply(
    net, variables, jnp.asarray(batch['image']), width=0.25
  )
  expected = optax.softmax_cross_entropy_with_integer_labels(
    logits, batch['label']
  ).sum()
  mesh = data_mesh(jax.devices()[:1])
  schedule = optax.constant_schedule(0.1)
  optimizer = partly(sgd(schedule), parts)
  step = make_train_step(
    net, Classification(), optimizer, schedule, mesh, frozen=parts.frozen
  )
  state = replicate(TrainState.create(variables, optimizer), mesh)
  state, metrics = step(state, shard(batch, mesh))
  loss, count = metrics['widths']['w025']['loss']
  assert count == 8
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  for name, array in flat(state.variables).items():
    same = np.array_equal(array, before[name])
    assert same == ('classifier' not in name), name


def test_a_run_of_old_compares_equal(first):
  """A configuration without the section is one with its defaults."""
  from slimjax.training.runs import defaults

  new = configuration.as_plain(get_config())
  old = {key: value for key, value in new.items() if key != 'init'}
  for one, other in ((old, new), (new, old)):
    found = configuration.differences(one, other, defaults(other))
    assert not found.refused
    assert not found.said
