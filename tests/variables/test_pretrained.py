"""torchvision's and timm's own networks, with random weights.

Neither is a dependency of the tests; test_sources has the same networks written
down again.
"""

import jax.numpy as jnp
import numpy as np
import pytest

import slimjax

NETWORKS = (
  ('torchvision', 'resnet50', 'resnet50'),
  ('torchvision', 'resnet101', 'resnet101'),
  ('torchvision', 'resnet152', 'resnet152'),
  ('torchvision', 'mobilenet_v2', 'mobilenet_v2'),
  ('timm', 'resnet50', 'resnet50'),
  ('timm', 'mobilenetv1_100', 'mobilenet_v1'),
  ('timm', 'mobilenetv2_100', 'mobilenet_v2'),
)


@pytest.fixture(scope='module', autouse=True)
def torch():
  return pytest.importorskip('torch')


def randomised(torch, package, name):
  """Returns a network in evaluation, its norms not those of a fresh one."""
  try:
    module = pytest.importorskip(package)
  except RuntimeError as error:  # made for another version of torch
    pytest.skip(str(error))
  torch.manual_seed(0)
  if package == 'torchvision':
    net = getattr(module.models, name)()
  else:
    net = module.create_model(name)
  with torch.no_grad():
    for key, tensor in net.state_dict().items():
      if key.endswith(('running_var', '.weight')) and tensor.ndim == 1:
        tensor.uniform_(0.5, 1.5)
      elif key.endswith(('running_mean', 'bias')):
        tensor.uniform_(-0.5, 0.5)
  return net.double().eval()


@pytest.mark.parametrize('package, theirs, ours', NETWORKS)
def test_a_network_of_theirs_is_the_widest(
  torch, x64, tmp_path, package, theirs, ours
):
  """Its logits are theirs, from a file, as it is and with sorted channels."""
  net = randomised(torch, package, theirs)
  path = tmp_path / 'weights.pth'
  torch.save({'state_dict': net.state_dict()}, path)
  images = np.random.default_rng(0).normal(size=(2, 64, 64, 3))
  with torch.no_grad():
    expected = net(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
  model = slimjax.create_model(
    ours, num_classes=1000, widths=(0.25, 1.0), dtype=jnp.float64
  )
  scale = np.abs(expected).max()
  for make in (slimjax.load_weights, slimjax.make_slimmable):
    variables = make(model, path)
    logits = slimjax.apply(model, variables, jnp.asarray(images), width=1.0)
    assert np.abs(logits - expected).max() < 1e-10 * scale
