"""Stochastic processes and their samplers: marginals, targets, posteriors, clean estimates."""
