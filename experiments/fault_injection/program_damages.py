"""Damages programs, arrays and ONNX models of a bundle, with fitting hashes."""

import dataclasses
import json
import pathlib
import shutil
import struct

import jax
from jax import export as jax_export
import jax.numpy as jnp
from manifest_damages import flip
from manifest_damages import Found
from manifest_damages import read
from manifest_damages import refile
from manifest_damages import write
import numpy as np

PROGRAMS = (
  'programs/preprocess',
  'programs/w025.prepare',
  'programs/w025.predict',
  'programs/w050.prepare',
  'programs/w050.predict',
)
ARRAYS = ('weights.safetensors', 'sample.safetensors')
MODELS = ('onnx/w025.onnx', 'onnx/w050.onnx')


def make(random: np.random.Generator, base: pathlib.Path) -> Found:
  """Yields (kind, name, damage, backend)."""
  for kind, names, count, backend in (
    ('programs: bytes', PROGRAMS, 60, 'jax'),
    ('arrays: bytes', ARRAYS, 50, 'jax'),
    ('ONNX: bytes', MODELS, 50, 'onnxruntime'),
  ):
    for number in range(count):
      name, seed = names[number % len(names)], int(random.integers(2**31))
      yield (
        kind,
        f'{name} {number}',
        lambda f, n=name, s=seed: _damage(f, n, s),
        backend,
      )
  yield from _exchanged(PROGRAMS, 'programs: others', 'jax')
  yield from _exchanged(MODELS, 'ONNX: others', 'onnxruntime')
  yield from _own_programs()
  yield from _arrays(base)
  yield from _models()


def _damage(folder, name, seed):
  """Damages a file in one of several ways, mostly near its start."""
  random = np.random.default_rng(seed)
  path = folder / name
  how = int(random.integers(6))
  size = path.stat().st_size
  if how <= 2:  # many lie in the header, where lengths and names are
    for _ in range(int(random.integers(1, 9))):
      place = random.random() ** (3 if how else 1)
      flip(path, place, int(random.integers(8)))
  else:
    data = bytearray(path.read_bytes())
    place = int(random.integers(size))
    if how == 3:
      data = data[:place]
    elif how == 4:
      stop = min(place + int(random.integers(1, 64)), size)
      data[place:stop] = random.bytes(stop - place)
    else:
      data = bytearray(random.bytes(size))
    path.write_bytes(data)
  refile(folder, name)


def _exchanged(names, kind, backend) -> Found:
  def move(folder, one, other, both):
    a, b = folder / one, folder / other
    kept = a.read_bytes()
    shutil.copyfile(b, a)
    if both:
      b.write_bytes(kept)
    refile(folder, one)
    refile(folder, other)

  for one in names:
    for other in names:
      if one != other:
        both = one > other
        yield (
          kind,
          f'{other} for {one}{" and back" if both else ""}',
          lambda f, a=one, b=other, x=both: move(f, a, b, x),
          backend,
        )


# Programs that are well formed, and do what no program of ours does.


def _export(function, *shapes, unsafe=()):
  checks = [jax_export.DisabledSafetyCheck.custom_call(t) for t in unsafe]
  return jax_export.export(
    jax.jit(function), platforms=('cpu',), disabled_checks=checks
  )(*shapes)


def _like(folder, name, change, unsafe=()):
  """Writes a program that wraps one of the bundle's in something else."""
  path = folder / name
  old = jax_export.deserialize(bytearray(path.read_bytes()))
  (arguments, _) = jax.tree.unflatten(old.in_tree, old.in_avals)
  new = _export(lambda *x: change(old.call(*x), *x), *arguments, unsafe=unsafe)
  path.write_bytes(new.serialize())
  refile(folder, name)


def _alter(folder, name, **fields):
  """Writes a program whose description is not that of its code."""
  path = folder / name
  old = jax_export.deserialize(bytearray(path.read_bytes()))
  made = {key: change(old) for key, change in fields.items()}
  path.write_bytes(dataclasses.replace(old, **made).serialize())
  refile(folder, name)


def _call(target):
  """Returns a change that calls a function by its name."""

  def change(outputs, *inputs):
    del inputs
    call = lambda x: jax.ffi.ffi_call(
      target, jax.ShapeDtypeStruct(x.shape, x.dtype)
    )(x)
    return jax.tree.map(call, outputs)

  return change


TARGETS = (
  'xla_ffi_python_cpu_callback',
  'xla_python_cpu_callback',
  'xla_ffi_partitioned_python_cpu_callback',
  'lapack_sgetrf_ffi',
  'Sharding',
  'tpu_custom_call',
  'does_not_exist',
)


def _own_programs() -> Found:
  predict, prepare = 'programs/w025.predict', 'programs/w025.prepare'
  preprocess = 'programs/preprocess'

  def in_avals(old):
    image = old.in_avals[-1]
    return (*old.in_avals[:-1], image.update(shape=(*image.shape[:3], 4)))

  def out_avals(old):
    return tuple(
      x.update(shape=(*x.shape[:-1], x.shape[-1] + 1)) for x in old.out_avals
    )

  for name in (predict, prepare, preprocess):
    for target in TARGETS:
      yield (
        'programs: calls',
        f'{name} calls {target}',
        lambda f, n=name, t=target: _like(f, n, _call(t), unsafe=(t,)),
        'jax',
      )
    changes = {
      'gives other numbers': lambda out, *x: jax.tree.map(
        lambda a: 1.5 * a + 1, out
      ),
      'gives NaN': lambda out, *x: jax.tree.map(lambda a: a * jnp.nan, out),
      'gives a list': lambda out, *x: [out],
      'gives more': lambda out, *x: (out, jnp.zeros(3)),
      'gives int32': lambda out, *x: jax.tree.map(
        lambda a: a.astype(jnp.int32), out
      ),
      'gives nothing': lambda out, *x: (),
      'gives wider arrays': lambda out, *x: jax.tree.map(
        lambda a: jnp.concatenate([a, a], -1), out
      ),
      'gives its sum': lambda out, *x: sum(
        a.sum() for a in jax.tree.leaves(out)
      ),
    }
    for said, change in changes.items():
      yield (
        'programs: others',
        f'{name} {said}',
        lambda f, n=name, c=change: _like(f, n, c),
        'jax',
      )
    for said, fields in {
      'other inputs': {'in_avals': in_avals},
      'other outputs': {'out_avals': out_avals},
      'other platforms': {'platforms': lambda old: ('cuda',)},
      'eight devices': {'nr_devices': lambda old: 8},
      'no code': {'mlir_module_serialized': lambda old: b''},
      'other code': {'mlir_module_serialized': lambda old: b'ML\xefR' * 50},
      'version 1': {'calling_convention_version': lambda old: 1},
      'version 99': {'calling_convention_version': lambda old: 99},
    }.items():
      yield (
        'programs: descriptions',
        f'{name}: {said}',
        lambda f, n=name, x=fields: _alter(f, n, **x),
        'jax',
      )


# Arrays.


def _arrays(base) -> Found:
  for name in ARRAYS:
    header, _ = _parts((base / name).read_bytes())
    tensors = [key for key in header if key != '__metadata__']
    chosen = [tensors[0], tensors[len(tensors) // 2], tensors[-1]]
    for tensor in chosen:
      for said, fields in {
        'F8_E5M2': {'dtype': 'F8_E5M2'},
        'I32': {'dtype': 'I32'},
        'F64': {'dtype': 'F64'},
        'text': {'dtype': 'text'},
        'a negative size': {'shape': [-1]},
        'another shape': {'shape': [2, 3]},
        'a huge shape': {'shape': [2**62, 4]},
        'no shape': {'shape': []},
        'offsets behind the end': {'data_offsets': [0, 2**40]},
        'offsets the wrong way': {'data_offsets': [64, 0]},
        'nothing': None,
      }.items():
        yield (
          'arrays: header',
          f'{name}: {tensor} is {said}',
          lambda f, n=name, t=tensor, x=fields: _header(f, n, t, x),
          'jax',
        )
      yield (
        'arrays: values',
        f'{name}: {tensor} is NaN',
        lambda f, n=name, t=tensor: _values(f, n, t, b'\xff\xff\xff\x7f'),
        'jax',
      )
      yield (
        'arrays: values',
        f'{name}: {tensor} is 1e20',
        lambda f, n=name, t=tensor: _values(f, n, t, struct.pack('<f', 1e20)),
        'jax',
      )
    for length in (0, 1, 2**40, 2**63):
      yield (
        'arrays: header',
        f'{name}: a header of {length} bytes',
        lambda f, n=name, x=length: _length(f, n, x),
        'jax',
      )


def _parts(data):
  (length,) = struct.unpack('<Q', data[:8])
  return json.loads(data[8 : 8 + length]), data[8 + length :]


def _header(folder, name, tensor, fields):
  path = folder / name
  header, rest = _parts(path.read_bytes())
  if fields is None:
    del header[tensor]
  else:
    header[tensor].update(fields)
  text = json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(text)) + text + rest)
  refile(folder, name)


def _values(folder, name, tensor, pattern):
  """Fills a tensor with a value."""
  path = folder / name
  data = bytearray(path.read_bytes())
  header, rest = _parts(data)
  start = len(data) - len(rest)
  low, high = header[tensor]['data_offsets']
  data[start + low : start + high] = (pattern * (high - low))[: high - low]
  path.write_bytes(data)
  refile(folder, name)


def _length(folder, name, length):
  path = folder / name
  path.write_bytes(struct.pack('<Q', length) + path.read_bytes()[8:])
  refile(folder, name)


# ONNX models.


def _models() -> Found:
  def external(model, location):
    import onnx

    tensor = model.graph.initializer[-1]
    tensor.ClearField('raw_data')
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = 'location', location

  def inside(model):
    """Hides a tensor of another file in an attribute of a node."""
    import onnx

    tensor = onnx.TensorProto(name='x', data_type=1, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = 'location', '/etc/passwd'
    node = model.graph.node.add(op_type='Constant', output=['hidden'])
    attribute = node.attribute.add(name='value', type=4)
    attribute.t.CopyFrom(tensor)

  def renamed(model):
    model.graph.input[0].name = 'pictures'

  def resized(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 64

  def custom(model):
    model.graph.node[0].domain = 'evil'
    model.opset_import.add(domain='evil', version=1)

  def unknown(model):
    model.graph.node[0].op_type = 'NoSuchOperation'

  def more(model):
    model.graph.output.add().CopyFrom(model.graph.output[0])

  def classes(model):
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 11

  def opset(model):
    model.opset_import[0].version = 999

  def empty(model):
    del model.graph.node[:]

  def cycle(model):
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]

  def bigger(model):
    model.graph.initializer[0].dims[0] = 2**40

  def loop(folder, name, change):
    import onnx

    path = folder / name
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    refile(folder, name)

  changes = {
    **{
      f'data in {location!r}': lambda m, x=location: external(m, x)
      for location in (
        'none', '../weights.safetensors', '/etc/passwd', '', '../../secret',
        '*/_ORT_MEM_ADDR_/*',
      )
    },
    'data in a node': inside,
    'images by another name': renamed,
    'images of another size': resized,
    'another domain': custom,
    'an unknown operation': unknown,
    'two outputs': more,
    'eleven classes': classes,
    'opset 999': opset,
    'no nodes': empty,
    'a cycle': cycle,
    'a huge tensor': bigger,
  }  # fmt: skip
  for name in MODELS:
    for said, change in changes.items():
      yield (
        'ONNX: others',
        f'{name}: {said}',
        lambda f, n=name, c=change: loop(f, n, c),
        'onnxruntime',
      )
  yield (
    'ONNX: others',
    'none listed',
    lambda f: write(f, _without_onnx(read(f))),
    'onnxruntime',
  )


def _without_onnx(content):
  for entry in content['widths']:
    entry['onnx'] = None
  return content
