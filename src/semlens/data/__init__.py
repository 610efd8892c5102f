"""Images with stable ids and raw pixels, from folders, Hugging Face data sets and lists."""
