"""Bundles with hashes that fit, made wrong: refused by file and by field."""

import json
import os
import shutil

from bundles import images_of
import jax
from jax import export as jax_export
import numpy as np
import pytest

from slimjax import digests
from slimjax import runtime
from slimjax.runtime import bundle
from slimjax.runtime import BundleError
from slimjax.runtime import custom_calls


@pytest.fixture
def copy(path, tmp_path):
  return shutil.copytree(path, tmp_path / 'copy')


def write(folder, content):
  content = {**content, 'sha256': bundle._content_hash(content)}
  (folder / bundle.MANIFEST).write_text(json.dumps(content))


def read(folder):
  return json.loads((folder / bundle.MANIFEST).read_text())


def put(content, place, value):
  *parents, last = place.split('.')
  node = content
  for key in parents:
    node = node[int(key) if key.isdecimal() else key]
  node[last] = value
  return content


def refile(folder, name, data):
  """Writes a file, with its hash."""
  (folder / name).write_bytes(data)
  content = read(folder)
  digest = digests.of_file(folder / name)['sha256']
  content['files'][name] = {'bytes': len(data), 'sha256': digest}
  write(folder, content)


# The manifest: a value for each kind of check, and the words of the error.
WRONG = {
  'files': ([], r'files must be a mapping, got \[\]'),
  'widths': ([None], r'widths\[0\] must be a mapping, got None'),
  'widths.0.width': (-1, r'widths\[0\]\.width must be .* above 0 .*, got -1'),
  'widths.1.width': (0.75, "switch is 'w050', but .* of width 0.75 is 'w075'"),
  'widths.0.macs': ('many', r'\.macs must be a whole number .*, got .many.'),
  'widths.0.params': (1.5, r'\.params must be a whole number from 0'),
  'widths.0.error': ('low', r'\.error must be a finite number, got .low.'),
  'widths.0.latency_ms': (0, r'\.latency_ms must be .* above 0, got 0'),
  'widths.0.predict': (None, 'has prepare or predict, but not both'),
  'widths.0.channels': ([8, 8], 'channels of different numbers of layers'),
  'widths.1.predict': ('a\0b', r'control characters, got .\\x00. in'),
  'widths.1.prepare': ('x' * 5000, r'must have 1 to 1000 characters, got 5000'),
  'widths.1.onnx': ('../x', "must lead to a file of the bundle, got '../x'"),
  'image_size': ([32], 'image_size must have 2 items, got 1'),
  'batch_size': (True, 'batch_size must be a whole number .*, got True'),
  'platforms': (['gpu'], r"platforms\[0\] must be one of 'cpu', .*'gpu'"),
  'class_names': (['\ud800'], 'control characters'),
  'input_range': ([1, 0], 'input_range must be two numbers in order'),
  'default_width': (0.3, 'default_width 0.3 is not one of widths'),
  'headline.direction': ('up', "direction must be one of 'min', 'max'"),
  'model.num_classes': (None, 'model.num_classes must be a whole number'),
  'outputs': (
    'boxes',
    "outputs must be one of '', 'logits', 'detections', got",
  ),
  'decode': ({'rule': 'centre_crop', 'size': 32}, 'decode.resize is missing'),
  'skeleton': ([[0, 1]], 'keypoints that are not among the 0 of keypoint_nam'),
  'cascade': ({'widths': [0.25]}, 'cascade.least is missing'),
  'extra': (1, "'extra' is not known here; there are format, schema"),
  'schema': (3.0, 'has the schema 3.0'),
}


@pytest.mark.parametrize('place', WRONG)
def test_a_field_that_cannot_be_is_named(copy, place):
  value, message = WRONG[place]
  write(copy, put(read(copy), place, value))
  with pytest.raises(BundleError, match=f'^{copy}.*{message}'):
    bundle.read_manifest(copy)


CANVAS = {
  'rule': 'on_canvas',
  'canvases': [[64, 32]],
  'side': None,
  'longest': 90,
  'orientation': 'exif',
}


@pytest.mark.parametrize(
  'change, message',
  [
    ({}, 'decode gives images of 64 x 32 pixels, but image_size is 32 x 32'),
    ({'canvases': [[64]]}, r'decode.canvases\[0\] must have 2 items, got 1'),
    ({'side': 0}, 'decode.side must be a whole number .*, got 0'),
    ({'rule': [1]}, r'decode.rule must be .*, got \[1\]'),
    ({'fill': 0}, "decode.'fill' is not known here"),
  ],
)
def test_a_rule_of_canvases_that_cannot_be_is_named(copy, change, message):
  write(copy, put(read(copy), 'decode', {**CANVAS, **change}))
  with pytest.raises(BundleError, match=message):
    bundle.read_manifest(copy)


def test_widths_do_not_change_places(copy):
  content = read(copy)
  one, other = content['widths']
  content['widths'] = [other, one]
  write(copy, content)
  with pytest.raises(BundleError, match='in order, the thinnest first'):
    bundle.read_manifest(copy)
  for names in (('width', 'switch'), ('prepare',), ('prepare', 'predict')):
    one, other = (dict(entry) for entry in content['widths'][::-1])
    for name in names:
      one[name], other[name] = other[name], one[name]
    write(copy, {**content, 'widths': [one, other]})
    with pytest.raises(BundleError, match='w0|width 0.25'):
      runtime.load(copy, prepare='use', batch_sizes=())


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda t: '{"files": {}, ' + t[1:], "the key 'files' stands there twice"),
    (lambda t: t.replace('4.0', 'NaN'), 'NaN is no number of JSON'),
    (lambda t: t.replace('4.0', '1e999'), 'the number 1e999 is too large'),
    (lambda t: t.replace('4.0', '[' * 10**5), 'is nested too deeply'),
    (lambda t: t + ' ' * 2**25, r'is larger than 33.6 MB; none is'),
  ],
)
def test_json_that_the_standard_library_lets_pass(copy, change, message):
  file = copy / bundle.MANIFEST
  file.write_text(change(file.read_text()))
  with pytest.raises(BundleError, match=f'^{file} .*{message}'):
    bundle.read_manifest(copy)


def test_a_link_that_leads_nowhere(copy):
  file = copy / bundle.SAMPLE
  file.unlink()
  file.symlink_to(file)
  with pytest.raises(BundleError, match=f'{file} cannot be followed|has lost'):
    bundle.read_manifest(copy)


def test_a_digest_says_which_bundle_it_is(path, copy):
  """Hashes that fit show that it is whole, not that it is the one expected."""
  manifest = bundle.read_manifest(path)
  write(copy, put(read(copy), 'widths.0.error', 1.0))
  assert bundle.read_manifest(copy).widths[0].error == 1.0
  options = {'prepare': 'use', 'batch_sizes': ()}
  net = runtime.load(path, sha256=manifest.sha256, **options)
  assert net.manifest == manifest
  with pytest.raises(BundleError, match='not the one that was expected: its'):
    runtime.load(copy, sha256=manifest.sha256, **options)
  table = dict.fromkeys(net.widths, 2.0)
  recorded = bundle.record_latencies(copy, table, {})
  assert runtime.load(copy, sha256=recorded.sha256, **options)


# Programs.


@pytest.mark.parametrize(
  'place, value, message',
  [
    (
      'image_size',
      [16, 16],
      r'preprocess takes uint8\[b,32,32,3\], but .*16,3',
    ),
    ('batch_size', 4, r'images of uint8\[4,32,32,3\]'),
    ('widths.1.prepared_bytes', 7, 'prepared_bytes of width 0.5 .* is 7'),
    (
      'widths.0.inputs',
      [],
      r'prepare takes .*: float32\[.*, but .* has nothing',
    ),
    ('outputs', 'logits', None),
    ('outputs', 'detections', 'takes 2 arguments and .*, not 3 arguments'),
  ],
)
def test_programs_and_manifest_say_the_same(copy, place, value, message):
  write(copy, put(read(copy), place, value))
  options = {'prepare': 'use', 'batch_sizes': ()}
  if message is None:  # what is right is loaded, and then the classes count
    runtime.load(copy, **options)
    place, value = 'model.num_classes', 9
    message = 'gives logits of 10 classes, but model.num_classes .* is 9'
    write(copy, put(read(copy), place, value))
  with pytest.raises(BundleError, match=f'^{copy}/programs/.*{message}'):
    runtime.load(copy, **options)


def program(function, *shapes, unsafe=()):
  checks = [jax_export.DisabledSafetyCheck.custom_call(n) for n in unsafe]
  return jax_export.export(
    jax.jit(function), platforms=('cpu',), disabled_checks=checks
  )(*shapes)


def test_a_program_that_calls_python_is_refused_by_name(copy):
  """It would call an address that stands in the file."""
  name, target = bundle.PREPROCESS, 'xla_ffi_python_cpu_callback'
  write(copy, {**read(copy), 'platforms': ['cpu']})
  old = jax_export.deserialize(bytearray((copy / name).read_bytes()))
  (shape,) = old.in_avals

  def call(images):
    images = old.call(images)
    kind = jax.ShapeDtypeStruct(images.shape, images.dtype)
    return jax.ffi.ffi_call(target, kind)(images)

  made = program(call, shape, unsafe=(target,))
  refile(copy, name, made.serialize())
  digest = read(copy)['sha256']
  for sha256 in (None, digest):  # in a process of its own, and in this one
    with pytest.raises(
      BundleError, match=f'{name} cannot .* it calls .{target}'
    ):
      runtime.load(copy, prepare='use', batch_sizes=(), sha256=sha256)


def test_a_program_that_ends_its_reader_ends_no_more(tmp_path, monkeypatch):
  code = program(lambda x: x + 1, np.float32(0)).mlir_module_serialized
  assert custom_calls.check_apart([code, code]) is None
  number, reason = custom_calls.check_apart([code, code[:-20], code])
  assert (number, reason.startswith('reading')) == (1, False)
  assert custom_calls.check_apart([b''])[1] == 'it is empty'
  script = tmp_path / 'reader.py'
  script.write_text('print("passed", flush=True); import os; os.abort()')
  monkeypatch.setattr(custom_calls, '__file__', str(script))
  number, reason = custom_calls.check_apart([code, code])
  assert (number, reason) == (1, 'reading it ended with status -6')


def test_a_forked_process_is_refused(net, path, monkeypatch):
  """Its threads are not there: the answer would never come."""
  np.asarray(net(images_of(1)))
  home = os.getpid()
  monkeypatch.setattr(os, 'getpid', lambda: home + 1)
  for use in (
    lambda: net(images_of(1)),
    lambda: net.compiled(0.5, 1, 'uint8'),
    lambda: runtime.load(path),
  ):
    with pytest.raises(RuntimeError, match=f'{home + 1}, was forked from it'):
      use()


def test_onnx_models_read_no_other_files(copy):
  onnx = pytest.importorskip('onnx')
  from slimjax.runtime.onnx.checking import check_file

  tensor = onnx.TensorProto(name='x', data_type=1, dims=[1])
  tensor.data_location = onnx.TensorProto.EXTERNAL
  place = tensor.external_data.add(key='location', value='../secret')
  inner = onnx.GraphProto(name='inner', initializer=[tensor])
  graph = onnx.GraphProto(name='graph')
  node = graph.node.add(op_type='If')
  node.attribute.add(name='then_branch', type=5, g=inner)
  file = copy / 'model.onnx'
  file.write_bytes(onnx.ModelProto(graph=graph).SerializeToString())
  manifest = bundle.read_manifest(copy)
  with pytest.raises(BundleError, match="'x' from the file '../secret', of wh"):
    check_file(copy, 'model.onnx', manifest)
  place.value = bundle.WEIGHTS  # which is listed and hashed
  node.attribute[0].g.initializer[0].CopyFrom(tensor)
  file.write_bytes(onnx.ModelProto(graph=graph).SerializeToString())
  check_file(copy, 'model.onnx', manifest)
  file.write_bytes(b'\xff' * 99)
  with pytest.raises(BundleError, match='is not an ONNX model'):
    check_file(copy, 'model.onnx', manifest)
