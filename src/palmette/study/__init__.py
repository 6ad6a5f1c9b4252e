"""Several ways to train the same tasks, compared under one stated budget."""
