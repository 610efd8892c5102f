"""Layer-wise relevance propagation: heatmaps of components, crop boxes, and class relevance."""
