"""Timing: warm-up, several rounds, medians with their spread, and ratios between things timed in the same rounds."""
