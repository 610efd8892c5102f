"""What both towers of ``semlens/demo`` share: the names of their files, and sizes."""

DIMENSION = 384
"""Of the space of both towers."""
INPUT_SIZE = 96
"""Side of the image tower's input in pixels."""
IMAGE_ASSET, TEXT_ASSET, VOCABULARY_ASSET = "image.safetensors", "text.safetensors", "vocab.txt"
