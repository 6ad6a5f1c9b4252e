"""A run -> the deployable folder: its graph, its card, its manifest."""
