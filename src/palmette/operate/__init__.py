"""After launch: whether an answer can be trusted, who checks the rest, and what comes of it."""
