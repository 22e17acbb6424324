"""Which points see which: neighbours, periodic images, and the edges between them as layers know them."""
