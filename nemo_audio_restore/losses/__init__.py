"""Training losses: what is minimised, without knowing which model minimises it."""
