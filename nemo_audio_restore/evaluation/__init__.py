"""Metrics, baselines, reports and plots for restored recordings."""
