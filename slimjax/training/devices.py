"""What the makers say of their accelerators."""

import jax

# TFLOP/s of dense matrix products in bfloat16 (V100, T4: float16) of one of
# jax's devices, by the words its `device_kind` starts with. Source: the makers'
# data sheets, https://cloud.google.com/tpu/docs. A TPU v2 or v3 chip is two
# devices.
PEAK_TFLOPS = {
  'TPU v2': 22.5,
  'TPU v3': 61.5,
  'TPU v4': 275.0,
  'TPU v5 lite': 197.0,
  'TPU v5e': 197.0,
  'TPU v5p': 459.0,
  'TPU v5': 459.0,
  'TPU v6 lite': 918.0,
  'TPU v6e': 918.0,
  'NVIDIA V100': 125.0,
  'Tesla V100': 125.0,
  'Tesla T4': 65.0,
  'NVIDIA L4': 121.0,
  'NVIDIA L40': 181.05,
  'NVIDIA L40S': 362.05,
  'NVIDIA A100': 312.0,
  'NVIDIA H100 PCIe': 756.0,
  'NVIDIA H100': 989.0,
  'NVIDIA H200': 989.0,
  'NVIDIA B200': 2250.0,
}


def peak_tflops(device: jax.Device) -> float | None:
  """Returns that of one device in bfloat16; None if it is not in the table."""
  kind = device.device_kind
  # A whole name: an L40 is no L4, but an A100-SXM4 is an A100.
  kinds = [
    k
    for k in PEAK_TFLOPS
    if kind.startswith(k) and not kind[len(k) :][:1].isalnum()
  ]
  return PEAK_TFLOPS[max(kinds, key=len)] if kinds else None
