"""Subject models: loading, preprocessing geometry, hooks, layer layouts and readouts."""
