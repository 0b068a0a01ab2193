"""Where does a detector spend its time, at each width? Batch 1, this device.

    python experiments/detection_parts/measure.py [--workdir=RUN]
      [--config=digit_scenes] [--canvas=128,128] [--rounds=5]

Compiles each part of a detector apart, and the whole, with the weights of each
width taken out and its norms folded, and runs them in turns. What is told is
the least processor time of a call, over all cores: other work on the device
changes it little. Without a run the weights are drawn, and then hardly anything
is detected. Prints the table of README.md.
"""

import argparse
import functools
import importlib
import os
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import slimjax
from slimjax import configuration
from slimjax.data.record import read_record
from slimjax.detection import stages
from slimjax.models.detector import BOX_CELLS
from slimjax.models.detector import MASK_CELLS
from slimjax.runtime.measuring import describe_device
from slimjax.training.runs import build_model
from slimjax.training.runs import load_run
from slimjax.widths import label

CALLS = 5  # of a turn

# A part takes the detector and all that the parts before it gave, by name, and
# returns what it gives.


def backbone(net, given):
  images = stages.blanked(given['images'], given['hw'])
  maps = net.features(images, width=net.widths[0])
  return {'maps': list(maps.values())[-4:]}


def pyramid(net, given):
  return {'levels': net.fpn(given['maps'])}


def rpn(net, given):
  return {'predicted': net.rpn(given['levels'])}


def proposals(net, given):
  proposed = stages.propose(
    given['predicted'],
    net.anchors(given['images']),
    given['hw'],
    net.recipe,
    train=False,
  )
  return {'proposed': proposed}


def box_rois(net, given):
  boxes, _ = given['proposed']
  return {'rois': net._aligned(given['levels'], boxes, BOX_CELLS)}


def box_head(net, given):
  return {'classified': net.box_head(given['rois'])}


def detections(net, given):
  return {
    'outputs': stages.detect(
      given['classified'], given['proposed'], given['hw'], net.recipe
    )
  }


def fine_rois(net, given):
  boxes = given['outputs']['boxes']
  return {'fine': net._aligned(given['levels'], boxes, MASK_CELLS)}


def mask_head(net, given):
  masks = net.mask_head(given['fine'])
  return {'masks': stages.own_masks(masks, given['outputs']['labels'])}


def keypoint_head(net, given):
  return {'keypoints': net.keypoint_head(given['fine'])}


def parts_of(model):
  """Returns the parts of a detector by their names in the table, in order."""
  found = {
    'backbone': backbone,
    'pyramid': pyramid,
    'RPN head': rpn,
    'proposals (NMS)': proposals,
    'RoIAlign 7x7': box_rois,
    'box head': box_head,
    'detections (NMS)': detections,
  }
  if model.masks or model.keypoints:
    found['RoIAlign 14x14'] = fine_rois
  if model.masks:
    found['mask head'] = mask_head
  if model.keypoints:
    found['keypoint head'] = keypoint_head
  return found


def compiled(model, variables, width, images):
  """Returns what runs each part of a width and the whole, and what parts gave.

  Args:
    model: the detector.
    variables: its variables.
    width: one of its widths.
    images: preprocessed images, [1, h, w, 3], pictures entirely.
  """
  small, weights = slimjax.extract(model, variables, width=width)
  small, weights = slimjax.fold_batch_norm(small, weights)
  given = {'images': images, 'hw': jnp.array([images.shape[1:3]])}
  calls = {}
  for name, part in parts_of(model).items():
    run = jax.jit(functools.partial(small.apply, method=part))
    calls[name] = functools.partial(run, weights, dict(given))
    given |= calls[name]()
  run = jax.jit(functools.partial(small.apply, width=small.widths[0]))
  calls['whole'] = functools.partial(run, weights, images, given['hw'])
  return calls, given


def processor_ms(calls, rounds):
  """Returns the least milliseconds of all processors that each call takes.

  Args:
    calls: functions to call, by names.
    rounds: number of turns of each, in another order each time.
  """
  random = np.random.default_rng(0)
  names, least = list(calls), dict.fromkeys(calls, float('inf'))
  for _ in range(rounds):
    for index in random.permutation(len(names)):
      name = names[index]
      for _ in range(CALLS):
        start = time.process_time()
        jax.block_until_ready(calls[name]())
        spent = 1e3 * (time.process_time() - start)
        least[name] = min(least[name], spent)
  return least


def read(options):
  """Returns the detector, its variables, and a preprocessed image."""
  if options.workdir:
    _, model, variables, _ = load_run(options.workdir)
    record = read_record(options.workdir)
    return model, variables, record.preprocess(record.samples[:1])
  config = importlib.import_module(f'slimjax.configs.{options.config}')
  run = configuration.parse(config.get_config().to_dict())
  model = build_model(run)
  variables = slimjax.init(model, jax.random.key(0), image_size=64)
  shape = (1, *map(int, options.canvas.split(',')), 3)
  images = np.random.default_rng(0).standard_normal(shape, np.float32)
  return model, variables, jnp.asarray(images)


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--workdir', help='a run, instead of a configuration')
  parser.add_argument('--config', default='digit_scenes')
  parser.add_argument('--canvas', default='128,128', help='height,width')
  parser.add_argument('--rounds', type=int, default=5)
  options = parser.parse_args()
  load = [os.getloadavg()[0]]
  model, variables, images = read(options)
  calls, widths = {}, model.ordered_widths
  for width in widths:
    made, _ = compiled(model, variables, width, images)
    calls |= {(width, name): call for name, call in made.items()}
  least = processor_ms(calls, options.rounds)
  names = [*parts_of(model), 'whole']
  print(f'| processor ms | {" | ".join(f"{label(w)}x" for w in widths)} |')
  print(f'|---|{"---|" * len(widths)}')
  for name in names:
    cells = [f'{least[width, name]:.2f}' for width in widths]
    print(f'| {name} | {" | ".join(cells)} |')
  shares = [
    f'{100 * least[w, "backbone"] / sum(least[w, n] for n in names[:-1]):.0f} %'
    for w in widths
  ]
  print(f'| share of the backbone | {" | ".join(shares)} |')
  load.append(os.getloadavg()[0])
  print(
    f'\n{describe_device("jax")}, load {load[0]:.1f} to {load[1]:.1f}; jax'
    f' {jax.__version__}; {images.shape[1]} x {images.shape[2]} pixels,'
    f' {options.rounds} rounds'
  )


if __name__ == '__main__':
  main()
