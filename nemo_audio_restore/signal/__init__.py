"""Tensors in, tensors out: representations, corruptions, tiling. Imports torch and numpy only."""
