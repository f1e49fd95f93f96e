"""What is said about files that cannot be used."""


class CheckpointError(ValueError):
    """A file is not a checkpoint of the kind asked for, or not a complete one; the message says what is wrong."""
