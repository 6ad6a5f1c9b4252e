"""Versions of a model in the roles of a release: what answers, what is tried, what was before."""
