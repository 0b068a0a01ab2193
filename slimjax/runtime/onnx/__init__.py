"""ONNX models: translated from jaxprs, described, and checked."""
