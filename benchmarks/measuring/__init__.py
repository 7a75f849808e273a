"""Rounds, samples and ratios: how a job is measured."""
