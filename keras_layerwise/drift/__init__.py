"""How far weights have moved: numbers only, no optimizer and no files."""
