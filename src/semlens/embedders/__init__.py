"""Foundation models: from images and texts to unit vectors of one semantic space."""
