"""Kernels tuned for CPU, chosen when a program is lowered."""
