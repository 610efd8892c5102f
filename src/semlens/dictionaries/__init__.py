"""Directions in a layer's activations: NMF, PCA, k-means and sparse autoencoders."""
