"""ResNet-50 and MobileNet v1 as one writes them in Flax, and a step of each."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


class ResNet50(nn.Module):
  """ResNet-50, with the stride in the 3x3 convolutions."""

  num_classes: int = 1000
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x):
    conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
    norm = functools.partial(
      nn.BatchNorm, use_running_average=False, momentum=0.9, dtype=self.dtype
    )
    x = conv(64, (7, 7), 2, padding=3)(x)
    x = nn.relu(norm()(x))
    x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    for stage, blocks in enumerate((3, 4, 6, 3)):
      features = 64 * 2**stage
      for block in range(blocks):
        strides = 2 if stage and not block else 1
        shortcut = x
        x = nn.relu(norm()(conv(features, (1, 1))(x)))
        x = nn.relu(norm()(conv(features, (3, 3), strides, padding=1)(x)))
        x = norm()(conv(4 * features, (1, 1))(x))
        if not block:
          shortcut = norm()(conv(4 * features, (1, 1), strides)(shortcut))
        x = nn.relu(x + shortcut)
    x = jnp.mean(x, axis=(1, 2))
    return nn.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)


class MobileNetV1(nn.Module):
  """MobileNet v1: depthwise separable convolutions, ReLU6."""

  num_classes: int = 1000
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x):
    conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
    norm = functools.partial(
      nn.BatchNorm, use_running_average=False, momentum=0.9, dtype=self.dtype
    )
    x = nn.relu6(norm()(conv(32, (3, 3), 2, padding=1)(x)))
    for features, strides in (
      (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
      *[(512, 1)] * 5, (1024, 2), (1024, 1),
    ):  # fmt: skip
      channels = x.shape[-1]
      depthwise = conv(
        channels, (3, 3), strides, padding=1, feature_group_count=channels
      )
      x = nn.relu6(norm()(depthwise(x)))
      x = nn.relu6(norm()(conv(features, (1, 1))(x)))
    x = jnp.mean(x, axis=(1, 2))
    return nn.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)


NETS = {'resnet50': ResNet50, 'mobilenet_v1': MobileNetV1}


def make_step(name, batch, dtype):
  """Returns a compiled step and the state it starts from."""
  net = NETS[name](dtype=jnp.dtype(dtype))
  variables = net.init(jax.random.key(0), batch['image'])
  optimizer = optax.chain(
    optax.add_decayed_weights(1e-4), optax.sgd(0.01, 0.9, nesterov=True)
  )
  state = (
    variables['params'],
    variables['batch_stats'],
    optimizer.init(variables['params']),
  )

  @functools.partial(jax.jit, donate_argnums=0)
  def step(state, batch):
    params, batch_stats, opt_state = state

    def loss_fn(params):
      logits, new = net.apply(
        {'params': params, 'batch_stats': batch_stats},
        batch['image'],
        mutable=['batch_stats'],
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, batch['label']
      )
      return losses.mean(), new['batch_stats']

    (loss, stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return (optax.apply_updates(params, updates), stats, opt_state), loss

  return step.lower(state, batch).compile(), state
