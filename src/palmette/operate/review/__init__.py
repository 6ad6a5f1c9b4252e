"""Answers that people check: a queue, their corrections, and what the corrections say about model and people."""
