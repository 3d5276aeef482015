"""A page in the browser to play with guidance: generate, compare two settings, draw a digit.

One file per tab; ``request.py`` and ``trace.py`` do the work and do not know Gradio, which the extra ``demo`` brings.
"""
