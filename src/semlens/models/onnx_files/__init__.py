"""ONNX files as subject models."""
