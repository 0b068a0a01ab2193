"""The direction of imports, and what `import slimjax` costs."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1] / 'slimjax'

# Each module imports only what stands above it.
ORDER = (
  'widths',
  'platforms',
  'convolution',
  'depthwise',
  'batch_norm',
  'layers',
  'losses',
  'metrics',
  'optim',
  'models.common',
  'models.mobilenet_v1',
  'models.mobilenet_v2',
  'models.resnet',
  'models.shufflenet',
  'models',
  'variables',
  'profile',
  'convert',
  'configuration',
  'published',
  'data.preprocess',
  'data.batches',
  'data.prefetch',
  'data.dataset',
  'data.digits',
  'data.jpeg',
  'data.sources',
  'data.images',
  'data',
  'train_state',
  'steps',
  'checkpoint',
  'processes',
  'devices',
  'reporting',
  'evaluate',
  'train',
  'report',
  'features',
  'visualize',
  'runtime.bundle',
  'runtime.table',
  'runtime.measuring',
  'runtime.network',
  'runtime.controller',
  'runtime.report',
  'runtime.onnx_graph',
  'runtime.writer',
  'runtime',
  'export',
  'benchmark',
)


def module_name(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(part for part in parts if part != '__init__')


def imported(path: pathlib.Path, known: set[str]) -> set[str]:
  """The modules of slimjax that a file imports, also inside functions."""
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
  files = {module_name(path): path for path in ROOT.rglob('*.py')}
  del files['']
  assert sorted(files) == sorted(ORDER), 'ORDER must name every module'
  for name, path in files.items():
    allowed = set(ORDER[: ORDER.index(name)])
    assert imported(path, set(files)) <= allowed, name


def test_importing_slimjax_is_light():
  heavy = {'tensorflow', 'tensorflow_datasets', 'grain', 'torch', 'matplotlib'}
  code = f"""
import sys, flax.linen, jax, optax
before = set(sys.modules)
import slimjax
loaded = {{name.split('.')[0] for name in set(sys.modules) - before}}
assert not loaded & {heavy!r}, loaded
assert loaded - set(sys.stdlib_module_names) == {{'slimjax'}}, loaded
"""
  subprocess.run([sys.executable, '-c', code], check=True)
