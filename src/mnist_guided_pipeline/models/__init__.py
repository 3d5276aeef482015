"""Networks: one self-contained file a family, importing torch and diffusers only.

A file can therefore be exported beside its weights and loaded by diffusers without this package.
"""
