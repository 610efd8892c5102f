"""Compare models: concepts that they share, and concepts that only one of them has."""
