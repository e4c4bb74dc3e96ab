"""What the command ``keras-layerwise`` shows: records and drift in, lines of text out."""
