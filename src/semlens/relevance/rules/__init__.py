"""Rules by which operations propagate relevance, in the form relevance / activation."""
