"""What measures generated images: a judge that never guides, and metrics as pure functions."""
