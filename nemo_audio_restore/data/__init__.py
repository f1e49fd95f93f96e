"""Corpus preparation, Lhotse datasets and data loading."""
