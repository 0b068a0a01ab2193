"""Training and evaluation at several widths, on any number of devices."""
