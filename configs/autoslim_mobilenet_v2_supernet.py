"""The network that AutoSlim searches for channels of MobileNet v2, on ImageNet.

Command: python -m slimjax.train --config=autoslim_mobilenet_v2_supernet
  --workdir=SUPERNET
 then   python -m slimjax.search --workdir=SUPERNET --out=DIR
  --target_macs=207e6,305e6,505e6 --keep=last
 then   python -m slimjax.train --config=autoslim_mobilenet_v2
  --config.model.widths=@DIR/nets.json --workdir=...
Source: Yu and Huang, AutoSlim (arXiv 1903.11728): every layer draws a width of
its own, for a tenth to a fifth of the epochs of a training; 50,000 training
images are held out to search with; published networks have up to 1.5 times the
channels. The thinnest width and the batch size are our own.
Published top-1 error: none; see configs/autoslim_mobilenet_v2.py.
Published time: none. Not run here yet.
"""

from ml_collections import config_dict

from slimjax.configs import us_mobilenet_v2


def get_config() -> config_dict.ConfigDict:
  config = us_mobilenet_v2.get_config()
  config.epochs = 50
  config.model.widths = (0.15, 1.5)
  config.data.held_out = 50_000
  config.plan = {'name': 'sandwich', 'random': 2, 'per_layer': True}
  return config
