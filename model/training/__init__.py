"""Learning the default weights: pairs in, a network file out. Nothing of this is imported when serving."""
