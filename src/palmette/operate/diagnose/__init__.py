"""Why a model is bad at a task, and what would help: one file a cause."""
