"""Peak speeds of accelerators, as their makers state them."""

import jax

# The peak of one jax device in TFLOP/s, for dense matrix products in bfloat16
# (V100, T4: float16), by the words that its `device_kind` starts with. Source:
# the makers' data sheets, https://cloud.google.com/tpu/docs. A TPU v2 or v3
# chip is two devices.
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
  """Returns the peak TFLOP/s of a device; None if it is not in the table."""
  kind = device.device_kind
  # Only whole names count: an L40 is not an L4, but an A100-SXM4 is an A100.
  kinds = [
    k
    for k in PEAK_TFLOPS
    if kind.startswith(k) and not kind[len(k) :][:1].isalnum()
  ]
  return PEAK_TFLOPS[max(kinds, key=len)] if kinds else None
