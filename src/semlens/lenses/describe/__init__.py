"""Describe a model: overview, components, concept map, dissection, unexpected components."""
