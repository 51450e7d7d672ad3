"""The network that paints imagery: each zoom adds an octave of detail to the zoom above."""
