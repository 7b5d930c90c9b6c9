"""Reading images: decoding, JPEG, and the packed cache."""
