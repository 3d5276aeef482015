"""Ways to stop, starve and damage a training, and what is left of it; ``reliability.py`` counts."""
