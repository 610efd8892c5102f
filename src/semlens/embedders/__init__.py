"""Foundation models, which embed images and texts as unit vectors in one space."""
