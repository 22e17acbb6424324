"""The doors: from what a caller passes, dense or flat, to points and edges; and the way back."""
