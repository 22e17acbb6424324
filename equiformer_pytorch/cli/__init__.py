"""Commands: `equiformer train | evaluate | info`, and what programs that train share."""
