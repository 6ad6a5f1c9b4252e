"""After launch: whether an answer can be trusted, who checks the rest, what to release, and what comes of it."""
