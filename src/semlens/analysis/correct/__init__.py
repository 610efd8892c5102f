"""Taking a fault out of a model, and measuring that it is gone."""
