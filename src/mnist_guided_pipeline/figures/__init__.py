"""Figures: arrays in, a ``Figure`` or a picture out; nothing here needs a display, and only ``save_...`` write."""
