"""A fictional place, drawn by the project itself: what is served when the user brings no scene."""
