"""After launch: what a team asks of a model that answers."""
