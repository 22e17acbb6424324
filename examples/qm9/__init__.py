"""Properties of the molecules of QM9, learned from their geometries."""
