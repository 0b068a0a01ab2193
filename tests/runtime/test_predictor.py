"""Pictures are answered alike by a run, by its bundle, and by ONNX models."""

import io
import json
import os
import shutil
import subprocess
import sys

from bundles import close
from bundles import randomised
from bundles import SIZE
import jax
import numpy as np
import optax
from PIL import Image
import programs
import pytest
import rich.console
from tiny_net import get_config

import slimjax
from slimjax import configuration
from slimjax import runtime
from slimjax.data import digits
from slimjax.data.jpeg import CentreCrop
from slimjax.data.record import record_of
from slimjax.data.record import write_record
from slimjax.runtime import answers
from slimjax.runtime import bundle
from slimjax.runtime.decoding import PictureError
from slimjax.runtime.exporting import export_run
from slimjax.training.checkpoint import Checkpoints
from slimjax.training.runs import build_model
from slimjax.training.runs import load_run
from slimjax.training.state import TrainState

WIDTHS = (0.125, 0.25)
STEP = 5


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Returns what training leaves behind, without the training."""
  workdir = tmp_path_factory.mktemp('runs') / 'digits'
  config = get_config()
  model = build_model(configuration.parse(config.to_dict()))
  variables = slimjax.init(model, jax.random.key(0), image_size=SIZE)
  state = TrainState.create(randomised(model, variables), optax.sgd(0.1))
  with Checkpoints(workdir / 'checkpoints') as checkpoints:
    checkpoints.save(STEP, state, {}, None)
    checkpoints.wait()
  (workdir / 'config.json').write_text(config.to_json())
  write_record(workdir, record_of(digits.create()))
  lines = [
    {'split': 'validation', 'step': STEP, 'width': width, 'top1_error': error}
    for width, error in zip(WIDTHS, (9.0, 4.0), strict=True)
  ]
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (workdir / 'metrics.jsonl').write_text(text)
  return workdir


@pytest.fixture(scope='module')
def exported(run, tmp_path_factory):
  path = tmp_path_factory.mktemp('bundles') / 'digits'
  export_run(
    run,
    path,
    platforms=('cpu',),
    formats=('jax', 'onnx'),
    onnx_input='uint8',
    default_width='0.125',
  )
  return path


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
  """Files of digits: larger than the network sees them, and not square."""
  folder = tmp_path_factory.mktemp('pictures')
  for i, image in enumerate(digits.load('test')['image'][:3]):
    picture = Image.fromarray(image).resize((96, 80))
    picture.save(folder / f'{i}.{"jpg" if i else "png"}')
  return sorted(folder.iterdir())


@pytest.fixture(scope='module')
def of_run(run):
  return slimjax.load(run)


@pytest.fixture(scope='module')
def of_bundle(exported):
  return slimjax.load(exported)


def test_run_bundle_and_onnx_give_equal_answers(
  run, exported, of_run, of_bundle, pictures
):
  _, model, variables, _ = load_run(run)
  by_onnx = slimjax.load(exported, backend='onnxruntime')
  decode = CentreCrop(digits.IMAGE_SIZE, digits.IMAGE_SIZE)
  images = np.stack([decode(path.read_bytes()) for path in pictures])
  for width in WIDTHS:
    floating = digits.preprocess(images)
    logits = slimjax.apply(model, variables, floating, width=width)
    probabilities = np.asarray(jax.nn.softmax(logits))
    for predictor in (of_run, of_bundle, by_onnx):
      assert close(predictor(images, width=width), logits, 1e-4)
      said = predictor.predict(pictures, width=width, top=3)
      for guesses, row in zip(said, probabilities, strict=True):
        assert [guess.index for guess in guesses] == [*np.argsort(-row)[:3]]
        for guess in guesses:
          assert guess.name == str(guess.index)
          assert guess.probability == pytest.approx(row[guess.index], rel=1e-3)
      # Arrays, lists of them, and single pictures, are the same.
      assert predictor.predict(images, width=width, top=3) == said
      assert predictor.predict([*images], width=width, top=3) == said
  for predictor in (of_run, of_bundle):
    one = predictor.predict(str(pictures[0]))
    assert one == predictor.predict(images[0])
    assert (len(one), len(one[0])) == (1, 5)
    assert predictor.predict([]) == []


def test_it_says_what_it_is(run, exported, of_run, of_bundle):
  common = (
    'TinyNet at widths 0.125, 0.25 (default {}), 10 classes, images of 32 x 32'
    ' pixels; {}'
  )
  assert repr(of_run)[1:-1] == common.format(0.25, f'run {run}, step 5')
  assert repr(of_bundle)[1:-1] == common.format(0.125, f'bundle {exported}')
  for predictor in (of_run, of_bundle):
    assert predictor.widths == WIDTHS
    assert predictor.class_names == tuple('0123456789')
    assert predictor.preprocessing == '(images / 255 - 0.31) / 0.33'
  # One table: a run says of itself what its bundle says.
  names = ('macs', 'params', 'prepared_bytes', 'error', 'channels', 'inputs')
  for one, other in zip(
    of_run.network.manifest.widths,
    of_bundle.network.manifest.widths,
    strict=True,
  ):
    for name in names:
      assert getattr(one, name) == getattr(other, name)
  assert of_bundle.network.manifest.source == of_run.network.manifest.source


def test_a_bundle_answers_files_without_data_models_and_flax(
  exported, pictures
):
  code = f"""
import sys
for name in ('flax', 'optax', 'slimjax.models'):
  sys.modules[name] = None  # an import of it raises
import slimjax
net = slimjax.load({str(exported)!r})
print(net.predict({str(pictures[0])!r})[0][0].index)
"""
  done = subprocess.run(
    [sys.executable, '-c', code], check=True, capture_output=True, text=True
  )
  assert 0 <= int(done.stdout) < 10


def test_bundles_of_before_take_arrays(exported, tmp_path, pictures):
  """Schema 2 had no rule for pictures, and did not say what outputs are."""
  old = shutil.copytree(exported, tmp_path / 'old')
  content = json.loads((old / bundle.MANIFEST).read_text())
  for name in (
    'default_width', 'outputs', 'decode', 'preprocesses', 'input_range',
    'source', 'measured', 'onnx_input',
  ):  # fmt: skip
    del content[name]
  for entry in content['widths']:
    del entry['latency_ms']
  content['schema'] = 2
  content['sha256'] = bundle._content_hash(content)
  (old / bundle.MANIFEST).write_text(json.dumps(content))
  net = slimjax.load(old)
  assert net.default_width == 0.25  # the widest
  images = np.zeros((2, 32, 32, 3), np.uint8)
  assert net.predict(images).shape == (2, 10)
  assert net.predict([*images]).shape == (2, 10)
  assert net.predict([]).shape == (0, 10)
  with pytest.raises(ValueError, match='does not say that they are logits'):
    net.predict(images, top=2)
  with pytest.raises(ValueError, match='between -0.9394 and 2.091, but'):
    net(images.astype(np.float32) + 255)
  with pytest.raises(ValueError, match='does not say how pictures are'):
    net.predict(pictures)


def test_what_cannot_be_read_is_named(of_bundle, tmp_path):
  wrong = tmp_path / 'page.jpg'
  wrong.write_text('<html>')
  with pytest.raises(PictureError, match=f'^{wrong}: '):
    of_bundle.predict(wrong)
  with pytest.raises(PictureError, match='none.png: No such file'):
    of_bundle.predict([tmp_path / 'none.png'])
  with pytest.raises(ValueError, match='images of one list must be alike'):
    of_bundle.predict([np.zeros((32, 32, 3)), np.zeros((16, 16, 3))])
  with pytest.raises(ValueError, match='top must be at least 1, got 0'):
    of_bundle.predict([], top=0)
  with pytest.raises(ValueError, match='not say that it detects any: give top'):
    of_bundle.predict([], min_score=0.5)
  with pytest.raises(ValueError, match='is neither a run .* nor a bundle'):
    slimjax.load(tmp_path)
  with pytest.raises(FileNotFoundError, match='there is no folder'):
    slimjax.load(tmp_path / 'none')


def test_options_that_do_not_fit_the_source(run, exported):
  with pytest.raises(ValueError, match='a run has no ONNX models'):
    slimjax.load(run, backend='onnxruntime')
  with pytest.raises(ValueError, match='has no best checkpoint'):
    slimjax.load(exported, best=True)


def test_latencies_stand_beside_the_errors(exported, tmp_path):
  folder = shutil.copytree(exported, tmp_path / 'measured')
  net = runtime.load(folder)
  table = net.benchmark(rounds=3)
  runtime.record(table, folder)
  manifest = runtime.load(folder).manifest  # it is still a whole bundle
  assert [entry.latency_ms for entry in manifest.widths] == [
    row.p50_ms for row in table.rows
  ]
  assert manifest.measured['device'] == table.device
  assert [e.error for e in manifest.widths] == [
    e.error for e in net.manifest.widths
  ]
  with pytest.raises(ValueError, match='batch size 7 was not measured'):
    runtime.record(table, folder, 7)


def test_onnx_files_explain_themselves(run, exported, of_bundle, pictures):
  """What a user does who has the file, ONNX Runtime and Pillow alone."""
  onnxruntime = pytest.importorskip('onnxruntime')
  session = onnxruntime.InferenceSession(
    exported / 'onnx' / 'w025.onnx', providers=['CPUExecutionProvider']
  )
  said = session.get_modelmeta().custom_metadata_map
  (given,) = session.get_inputs()
  assert given.type == 'tensor(uint8)'
  names, size = json.loads(said['class_names']), json.loads(said['image_size'])
  rule = json.loads(said['decode'])
  assert rule['rule'] == 'centre_crop'
  picture = Image.open(pictures[0]).convert('RGB')
  scale = rule['resize'] / min(picture.size)
  picture = picture.resize([int(scale * x) for x in picture.size], 2)
  left, top = (round((x - rule['size']) / 2) for x in picture.size)
  picture = picture.crop((left, top, left + size[1], top + size[0]))
  (logits,) = session.run(None, {given.name: np.asarray(picture)[None]})
  (guess,) = of_bundle.predict(pictures[0], width=0.25, top=1)[0]
  assert names[logits.argmax()] == guess.name
  assert close(logits, of_bundle(np.asarray(picture)[None], width=0.25), 1e-4)

  entry = of_bundle.network.manifest.entry(0.25)
  assert float(said['error']) == entry.error
  assert json.loads(said['error_metric'])['title'] == 'top-1 error'
  assert (said['width'], said['outputs']) == ('0.25', 'logits')
  assert (said['mean'], said['std']) == ('0.31', '0.33')
  assert said['preprocessing'] == '(images / 255 - 0.31) / 0.33'
  assert json.loads(said['source']) == {'run': str(run), 'step': 5}


# The program.


@pytest.fixture
def folder(pictures, tmp_path):
  """Writes two pictures below a folder, a damaged one, and hidden files."""
  nested = tmp_path / 'photos' / 'nested'
  nested.mkdir(parents=True)
  for path in pictures[:2]:
    (nested / path.name).write_bytes(path.read_bytes())
  (nested / 'page.jpg').write_text('<html>')
  (nested / '.hidden.jpg').write_bytes(pictures[0].read_bytes())
  return nested.parent


def program(*arguments):
  return programs.call('slimjax.predict', *arguments, COLUMNS='250')


def test_the_program_prints_a_table(exported, pictures):
  done = program(exported, *pictures[:2], '--width=w025', '--top=2')
  assert (done.returncode, done.stderr) == (0, '')
  about, heads, *rows = done.stdout.splitlines()
  assert about.startswith('TinyNet at widths 0.125, 0.25 (default 0.125)')
  assert heads.split() == ['picture', 'at', '0.25']
  assert len(rows) == 4
  assert all(row.rstrip().endswith(' %') for row in rows)


def test_the_program_answers_what_can_be_read(exported, folder):
  done = program(
    exported, folder, folder / 'gone.png', '--json', '--all_widths'
  )
  assert done.returncode == 1, done.stderr
  lines = [json.loads(line) for line in done.stdout.splitlines()]
  said = {}
  for line in lines:
    path = line.pop('picture')
    path = os.path.relpath(path, folder)
    said.setdefault(path, []).append(line)
  assert '1 hidden' in done.stderr
  assert said['gone.png'] == [{'error': 'No such file or directory'}]
  assert list(said['nested/page.jpg'][0]) == ['error']
  assert set(said) == {
    'nested/0.png', 'nested/1.jpg', 'nested/page.jpg', 'gone.png'
  }  # fmt: skip
  for path in ('nested/0.png', 'nested/1.jpg'):
    assert [line['width'] for line in said[path]] == [*WIDTHS]
    for line in said[path]:
      assert len(line['classes']) == 5
      assert set(line['classes'][0]) == {'index', 'name', 'probability'}


def test_widths_stand_side_by_side(of_bundle, folder):
  paths, notes = answers.find_pictures([str(folder)])
  assert notes == [f'{folder}: left out: 1 hidden']
  assert [path.rpartition('/')[2] for path in paths] == [
    '0.png', '1.jpg', 'page.jpg',
  ]  # fmt: skip
  kind = of_bundle.kind(top=2)
  said = list(answers.answer(of_bundle, paths, WIDTHS, kind))
  assert [bool(answer.problem) for answer in said] == [False, False, True]
  stream = io.StringIO()
  console = rich.console.Console(file=stream, width=200)
  assert answers.print_table(said, WIDTHS, kind, console) == 1
  lines = stream.getvalue().splitlines()
  assert lines[0].split() == ['picture', 'at', '0.125', 'at', '0.25']
  assert len(lines) == 1 + 2 * 2 + 1
  first = said[0].by_width[0.125][0]
  assert f'{first.name} {100 * first.probability:.1f} %' in lines[1]
  assert said[2].problem in lines[-1]


def test_a_folder_without_pictures(tmp_path):
  (tmp_path / 'notes.txt').write_text('no picture')
  with pytest.raises(
    ValueError, match=f'no pictures in {tmp_path}, only: 1 text'
  ):
    answers.find_pictures([str(tmp_path)])
