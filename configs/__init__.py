"""The configurations by name: `--config=digits`, `slimjax.configs.digits`."""
