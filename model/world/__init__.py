"""A fictional place, rendered by the project itself: what is served when the user brings no scene."""
