"""The subject model: a module, the preprocessing that travels with it, and its named layers."""
