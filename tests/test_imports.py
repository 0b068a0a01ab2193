"""The direction of imports, and what `import slimjax` costs."""

import ast
import importlib.util
import pathlib
import subprocess
import sys

from places import ROOT

PACKAGE = ROOT / 'slimjax'

# Each module imports only what stands above it.
ORDER = (
  'checks',
  'widths',
  'naming',
  'files',
  'digests',
  'plots',
  'nets',
  'units',
  'nn.kernels.platforms',
  'nn.kernels.convolution',
  'nn.kernels.depthwise',
  'nn.kernels.batch_norm',
  'nn.kernels',
  'nn.slicing',
  'nn.norm',
  'nn.conv',
  'nn.dense',
  'nn.attention',
  'nn',
  'layers',
  'detection.boxes',
  'detection.anchors',
  'detection.varying',
  'detection.ranking',
  'detection.matching',
  'detection.nms',
  'detection.proposals',
  'detection.detecting',
  'detection.roi_align',
  'detection.targets',
  'detection.pasting',
  'detection.rle',
  'detection.detected',
  'detection.drawing',
  'detection.recipe',
  'detection.sampling',
  'detection.losses',
  'detection.heads',
  'detection.stages',
  'detection',
  'models.net',
  'models.mobilenet_v1',
  'models.mobilenet_v2',
  'models.resnet',
  'models.shufflenet',
  'models.detector',
  'models',
  'variables.slicing',
  'variables.plain_norms',
  'variables.format',
  'variables.masking',
  'variables.folding',
  'variables',
  'variables.profile',
  'variables.comparing',
  'variables.checking',
  'variables.reading',
  'variables.state_dicts',
  'variables.recognising',
  'variables.torch_layouts',
  'variables.torch_detectors',
  'variables.torch_names',
  'variables.fitting',
  'variables.sources',
  'variables.sorting',
  'variables.calibrating',
  'runtime.errors',
  'runtime.strict_json',
  'runtime.headline',
  'runtime.thresholds',
  'runtime.manifest',
  'runtime.rules',
  'runtime.parsing',
  'runtime.forms',
  'runtime.tensors',
  'runtime.bundle',
  'configuration',
  'configs',
  'data.fingerprint',
  'data.workers',
  'data.order',
  'data.batches',
  'data.dataset',
  'data.prefetch',
  'data.preprocess',
  'data.pictures',
  'data.jpeg',
  'data.digits',
  'data.folders',
  'data.sources',
  'data.folder_source',
  'data.holding_out',
  'data.idx_files',
  'data.idx',
  'data.images',
  'data.coco',
  'data.coco.ragged',
  'data.coco.masks',
  'data.coco.annotations',
  'data.coco.checks',
  'data.coco.reading',
  'data.coco.writing',
  'data.coco.canvas',
  'data.coco.pixels',
  'data.coco.split',
  'data.coco.choosing',
  'data.coco.folder',
  'data.coco.prepared',
  'data.coco.factory',
  'data.coco.scenes',
  'data.coco.digit_scenes',
  'data.record',
  'data',
  'tasks.losses',
  'tasks.base',
  'tasks.confusion',
  'tasks.classification',
  'tasks.detection',
  'tasks.detection.scoring',
  'tasks.detection.task',
  'tasks',
  'training.state',
  'training.plans',
  'training.optim',
  'training.initial',
  'training.parts',
  'training.devices',
  'training.processes',
  'training.compiling',
  'training.mesh',
  'training.gradient',
  'training.update',
  'training.steps',
  'training.saved',
  'training.checkpoint',
  'training.calibrated',
  'training.runs',
  'training.weights',
  'training.evaluator',
  'training.events',
  'training.log',
  'training.results',
  'training.verifying',
  'training.progress',
  'training.setup',
  'training.session',
  'training.loop',
  'training',
  'analysis.published',
  'analysis.compare',
  'analysis.showing',
  'analysis.scoring',
  'analysis.any_width',
  'analysis.features',
  'analysis.figures',
  'analysis',
  'runtime.batching',
  'runtime.onnx',
  'runtime.onnx.checking',
  'runtime.backends',
  'runtime.choosing',
  'runtime.custom_calls',
  'runtime.stored',
  'runtime.table',
  'runtime.measuring',
  'runtime.programs',
  'runtime.inputs',
  'runtime.memory',
  'runtime.verifying',
  'runtime.forking',
  'runtime.network',
  'runtime.loading',
  'runtime.controller',
  'runtime.cascade',
  'runtime.display',
  'runtime.decoding',
  'runtime.arrays',
  'runtime.classes',
  'runtime.detections',
  'runtime.kinds',
  'runtime.predictor',
  'runtime.onnx.graph',
  'runtime.onnx.operations',
  'runtime.onnx.writing',
  'runtime.onnx.metadata',
  'runtime.slices',
  'runtime.width_writer',
  'runtime.writer',
  'runtime.runs',
  'runtime.exporting',
  'runtime.opening',
  'runtime.answers',
  'runtime',
  'searching.costs',
  'searching.problem',
  'searching.trace',
  'searching.greedy',
  'searching.evolution',
  'searching.scoring',
  'searching.running',
  'searching.arrays',
  'searching.blocks',
  'searching.grids',
  'searching.latency',
  'searching.progress',
  'searching.results',
  'searching.supernet',
  'searching.command',
  'searching',
  'flag_lists',
  'cli',
  'train',
  'evaluate',
  'calibrate',
  'search',
  'predict',
  'export',
  'benchmark',
  'report',
  'visualize',
  'verify',
  '__main__',
)


def module_name(path: pathlib.Path) -> str:
  parts = path.relative_to(PACKAGE).with_suffix('').parts
  return '.'.join(part for part in parts if part != '__init__')


def imported(path: pathlib.Path, known: set[str]) -> set[str]:
  """Returns the modules of slimjax that a file imports, also in functions."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path}: relative import'
      names = [f'{node.module}.{alias.name}' for alias in node.names]
      names.append(node.module or '')
    elif isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    else:
      continue
    ours = [
      n.removeprefix('slimjax.') for n in names if n.startswith('slimjax.')
    ]
    # `from slimjax.data import digits` is of data.digits, not of data.
    exact = [name for name in ours if name in known]
    found.update(exact[:1])
  return found


def test_modules_import_only_what_stands_above_them():
  files = {module_name(path): path for path in PACKAGE.rglob('*.py')}
  del files['']
  assert sorted(files) == sorted(ORDER), 'ORDER must name every module'
  for name, path in files.items():
    allowed = set(ORDER[: ORDER.index(name)])
    assert imported(path, set(files)) <= allowed, name


def used_submodules(path: pathlib.Path) -> set[str]:
  """Returns the modules `a.b` that a file uses, but imports only `a` of."""
  tree = ast.parse(path.read_text())
  names = {
    alias.name
    for node in ast.walk(tree)
    if isinstance(node, ast.Import)
    for alias in node.names
    if not alias.asname
  }
  used = {
    f'{node.value.id}.{node.attr}'
    for node in ast.walk(tree)
    if isinstance(node, ast.Attribute)
    and isinstance(node.value, ast.Name)
    and node.value.id in names
  }
  return {name for name in used - names if _is_module(name)}


def _is_module(name: str) -> bool:
  try:
    return importlib.util.find_spec(name) is not None
  except ImportError:  # of a class, or of an extra that is not installed
    return False


def test_submodules_are_imported_where_they_are_used():
  """Others come with their package, whatever else was imported before."""
  used = {
    name for path in PACKAGE.rglob('*.py') for name in used_submodules(path)
  }
  packages = sorted({name.split('.')[0] for name in used})
  code = '\n'.join([f'import {", ".join(packages)}', *sorted(used)])
  subprocess.run([sys.executable, '-c', code], check=True)


def test_importing_slimjax_is_light():
  """It imports nothing, serving no Flax, and training nothing heavy.

  Serving is answering with classes and with objects, which are drawn, too.
  """
  code = """
import sys, jax
before = set(sys.modules) | set(sys.stdlib_module_names)

def loaded():
  return {name.split('.')[0] for name in set(sys.modules) - before} - before

import slimjax
assert loaded() == {'slimjax'}, loaded()
from slimjax import runtime
assert loaded() == {'slimjax'}, loaded()
models = [name for name in sys.modules if name.startswith('slimjax.models')]
assert not models, models
import slimjax.runtime.answers, slimjax.runtime.detections
import slimjax.detection.drawing
served = {'flax', 'optax', 'slimjax.models', 'slimjax.training'}
assert not served & set(sys.modules), served & set(sys.modules)
import flax.linen
before |= loaded() - {'slimjax'}
for name in slimjax.__all__:
  getattr(slimjax, name)
assert loaded() == {'slimjax'}, loaded()
import slimjax.data, slimjax.training.loop
heavy = {'tensorflow', 'tensorflow_datasets', 'grain', 'torch', 'matplotlib'}
assert not loaded() & heavy, loaded()
"""
  subprocess.run([sys.executable, '-c', code], check=True)
