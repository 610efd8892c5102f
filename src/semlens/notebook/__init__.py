"""Interactive widgets for notebooks, and cards of components."""
