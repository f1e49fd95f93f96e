"""Published checkpoints and the names of the models that ship."""
