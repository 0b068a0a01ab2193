"""Layers that run at any number of leading channels; see `slimjax.layers`."""
