"""What a model and its training are configured with: read, described and overridden."""
