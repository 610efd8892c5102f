"""Search by words, images and components, and which hits stand out from noise."""
