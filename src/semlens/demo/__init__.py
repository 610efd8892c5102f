"""The bundled world with its planted shortcut, and the story that `semlens demo` tells."""
