"""A model's weights and layers: where they are, what selects them, which part they belong to."""
