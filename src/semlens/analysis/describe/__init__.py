"""What a model knows: map, categories, and what nobody asked for."""
