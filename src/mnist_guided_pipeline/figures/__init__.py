"""Figures: arrays in, a matplotlib ``Figure`` out; nothing here reads or writes a file, or needs a display."""
