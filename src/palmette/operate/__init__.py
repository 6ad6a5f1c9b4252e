"""After launch: what watches, corrects, diagnoses and releases models."""
