"""The configurations, which lie in `configs/` at the top of the repository.

This file is for a source checkout: an installed package has the configurations
themselves in this place (setup.cfg maps them).
"""

import pathlib

__path__.append(str(pathlib.Path(__file__).parents[2] / 'configs'))
