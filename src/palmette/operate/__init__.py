"""After launch: what tells whether a model may be trusted, released, or has to learn more."""
