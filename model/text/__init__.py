"""What is said of a tile: hierarchical captions and the prompts of MMM-RS, as data."""
