"""Ways to stop and starve a training, and what is left of it; ``reliability.py`` counts."""
