"""Where in an image a component reacts: heatmaps, and the box that a heatmap selects."""
