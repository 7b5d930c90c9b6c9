"""Where images come from: folders, CSV files, glyphs, and the four benchmarks."""
