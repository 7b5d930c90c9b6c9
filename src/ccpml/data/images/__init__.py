"""Reading of images: common file formats, JPEG, and the packed cache."""
