"""Where the repository lies. pytest has this folder on sys.path."""

import pathlib

ROOT = pathlib.Path(__file__).parents[1]
TESTS = ROOT / 'tests'
