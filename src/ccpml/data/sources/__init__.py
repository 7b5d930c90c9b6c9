"""Sources of images: folders, CSV files, the generated glyphs, and the four benchmarks."""
