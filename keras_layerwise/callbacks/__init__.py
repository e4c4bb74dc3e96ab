"""Callbacks for `fit`: the only place where values meet files."""
