"""Labelling methods: from what is known of components to a score of each word, on arrays."""
