"""Kernels tuned for CPU, chosen where a program is lowered."""
