"""Prototypes of a class: how the model predicts it, and which images it predicts otherwise."""
