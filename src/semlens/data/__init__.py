"""Images with stable ids and raw pixels, from folders, Hugging Face datasets and lists."""
