"""The Layerwise tab of TensorBoard: a small server side and a static page."""
